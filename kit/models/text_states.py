"""Hidden states of many texts: what several of them begin with is read once."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kit.errors import ModelError
from kit.models.activations import ActivationStore, Array
from kit.models.dual_encoder import tensors_digest
from kit.models.halves import Half, check_cut, lower, trunk
from kit.progress import track

BATCH = 128
STRIDE = 3  # tokens read at a time
SHARD = 512  # texts written at a time; what a kill can cost
STEP = 64  # texts read alone are kept padded to a multiple of so many tokens; another length is another key


class TextStates:
    """What layers below a cut make of texts.

    SmolLM2's chat template puts 24 tokens before every text, and in the mix for instruction tuning many texts ask the
    same and differ in the answer. 512 of them through 22 layers took 11 s on one core; reading each after the opening
    took 28 s, and reading each whole, padded to the longest, about 75 s.

    Args:
        embed: The language model's input embeddings.
        below: The layers below the cut.
        opening: The token ids that every text begins with; may be none.
        device: Where the model is.
    """

    def __init__(self, embed: Any, below: Half, opening: Sequence[int], device: torch.device) -> None:
        from transformers import DynamicCache

        self.embed, self.below, self.device = embed, below, device
        self.past = DynamicCache()
        nothing = embed.weight.new_empty(0, embed.weight.shape[1]).float()
        self.opening = self._run([list(opening)], self.past)[0] if opening else nothing

    def read(self, texts: Sequence[Sequence[int]], length: int) -> Iterator[Array]:
        """Yield hidden states of texts after the opening, some at a time and in order, shapes (n, length, width).

        Args:
            texts: Token ids, at least one and at most ``length`` of each text.
            length: Shorter texts are filled with zeros.
        """
        with track(total=len(texts), label="reading texts") as bar:
            for first in range(0, len(texts), SHARD):
                part = [tuple(text) for text in texts[first : first + SHARD]]
                order = sorted(range(len(part)), key=part.__getitem__)
                found = np.zeros((len(part), length, self.opening.shape[1]), dtype=np.float32)
                for begin in range(0, len(part), BATCH):
                    places = order[begin : begin + BATCH]
                    self._branches([part[place] for place in places], places, found)
                    bar.update(len(places))
                yield found

    def _branches(self, texts: Sequence[tuple[int, ...]], places: Sequence[int], found: Array) -> None:
        """Write states of texts at their places, a few tokens at a time, each beginning once.

        What pads a text comes after it, and no token looks ahead, so it needs no mask.
        """
        past, rows = copy.deepcopy(self.past), {(): 0}
        for begin in range(0, max(map(len, texts)), STRIDE):
            ends = {text: text[: begin + STRIDE] for text in texts if len(text) > begin}
            beginnings = list(dict.fromkeys(ends.values()))
            past.batch_select_indices(torch.tensor([rows[one[:begin]] for one in beginnings], device=self.device))
            states = self._run([[*one[begin:], *[0] * (begin + STRIDE - len(one))] for one in beginnings], past).numpy()
            rows = {one: row for row, one in enumerate(beginnings)}
            for text, place in zip(texts, places, strict=True):
                if len(text) > begin:
                    own = states[rows[ends[text]]][: len(text) - begin]
                    found[place, begin : begin + len(own)] = own

    @torch.no_grad()
    def _run(self, rows: list[list[int]], past: Any) -> Tensor:
        ids = torch.tensor(rows, device=self.device)
        seen = torch.ones(len(rows), past.get_seq_length() + ids.shape[1], dtype=torch.bool, device=self.device)
        return self.below(self.embed(ids), seen, past).float().cpu()


def below_identity(language: Any, cut: int) -> str:
    """Return the identity of what is below a cut: the embeddings, the layers and how they are run."""
    whole = trunk(language)
    state = {f"embed.{name}": tensor for name, tensor in whole.embed_tokens.state_dict().items()}
    state |= {f"layers.{name}": tensor for name, tensor in whole.layers[:cut].state_dict().items()}
    parts = ("language", f"below layer {cut}", whole.config.to_json_string(), tensors_digest(state))
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


@torch.no_grad()
def kept_states(
    language: Any, cut: int, texts: Sequence[Sequence[int]], store: ActivationStore | None = None
) -> list[Tensor]:
    """Return the hidden states of whole texts below a cut, each shape (t, width), computed once and kept on disk.

    Args:
        language: A causal language model.
        cut: The first layer that is not run; below it there may be no adapter.
        texts: Token ids, at least one of each text; each is read alone.
        store: Where they are kept; kit's home by default.

    Raises:
        ModelError: an adapter below the cut, or the model is more than its two halves.
    """
    whole, store = trunk(language), store or ActivationStore()
    if any(hasattr(module, "lora_A") for layer in whole.layers[:cut] for module in layer.modules()):
        raise ModelError.of(f"cut {cut}", "is above an adapter, which changes what is below", "cut at the lowest one")
    identity, half = below_identity(language, cut), lower(language, cut)
    lengths = [-(-len(ids) // STEP) * STEP for ids in texts]
    found: dict[int, Tensor] = {}

    def read(places: Sequence[int]) -> Iterator[Array]:
        check_cut(language, cut)
        for place in places:
            ids = torch.tensor([list(texts[place])], device=whole.embed_tokens.weight.device)
            states = half(whole.embed_tokens(ids), torch.ones_like(ids, dtype=torch.bool))[0].float().cpu().numpy()
            yield np.pad(states, ((0, lengths[place] - len(states)), (0, 0)))[None]

    for length in sorted(set(lengths)):
        own = [place for place, one in enumerate(lengths) if one == length]
        key = hashlib.sha256(f"{identity}|whole|{length}".encode()).hexdigest()
        names = [hashlib.sha256(repr(list(texts[place])).encode()).hexdigest() for place in own]
        kept = store.fetch(key, names, lambda places, own=own: read([own[place] for place in places]))
        found |= {place: kept.take([row])[0, : len(texts[place])] for row, place in enumerate(own)}
    return [found[place] for place in range(len(texts))]

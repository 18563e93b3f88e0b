"""Hidden states of many texts: what several of them begin with is read once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kit.models.activations import Array
from kit.models.halves import Half
from kit.progress import track

BATCH = 128
STRIDE = 3  # tokens read at a time
SHARD = 512  # texts written at a time; what a kill can cost


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

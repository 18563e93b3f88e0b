"""Hidden states of many texts that begin alike: what they share is read once, and texts of like length together."""

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

BATCH = 64
SHARD = 512  # texts written at a time; what a kill can cost


class TextStates:
    """What layers below a cut make of texts.

    SmolLM2's chat template puts 24 tokens before texts of 15 on average and of 25 at most: read whole and padded alike,
    a text costs 56 tokens, and 2.7 times the seconds (22 layers, one core).

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
                part = texts[first : first + SHARD]
                order = sorted(range(len(part)), key=lambda place: len(part[place]))
                found: Array | None = None
                for begin in range(0, len(part), BATCH):
                    places = order[begin : begin + BATCH]
                    states = self._after([part[place] for place in places]).numpy()
                    if found is None:
                        found = np.zeros((len(part), length, states.shape[-1]), dtype=np.float32)
                    found[places, : states.shape[1]] = states
                    bar.update(len(places))
                if found is not None:
                    yield found

    def _after(self, texts: Sequence[Sequence[int]]) -> Tensor:
        longest = max(map(len, texts))
        # What pads a text comes after it, and no token looks ahead, so it needs no mask.
        rows = [[*ids, *[0] * (longest - len(ids))] for ids in texts]
        past = copy.deepcopy(self.past)
        past.batch_repeat_interleave(len(rows))
        return self._run(rows, past)

    @torch.no_grad()
    def _run(self, rows: list[list[int]], past: Any) -> Tensor:
        ids = torch.tensor(rows, device=self.device)
        seen = torch.ones(len(rows), past.get_seq_length() + ids.shape[1], dtype=torch.bool, device=self.device)
        return self.below(self.embed(ids), seen, past).float().cpu()

"""Answers from a list with how sure the model is of each: what cascades and votes between models are decided by."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kit.data.picture import Picture
from kit.errors import ModelError
from kit.models.packed_answers import PackedAnswers

Ids = tuple[int, ...]


class Sure(NamedTuple):
    """Answers and how sure they are.

    Args:
        answers: One per question.
        probability: Of that answer among the candidates, shape (n,).
    """

    answers: list[str]
    probability: NDArray[np.float64]


class SureAnswers(PackedAnswers):
    """Answers from candidates, each with its probability among them: the product over tokens at which they part."""

    def sure(self, pictures: Sequence[Picture | None], questions: Sequence[str]) -> Sure:
        """Return one answer per question with its probability; a picture may be None.

        Raises:
            ModelError: made without candidates.
        """
        if self.candidates is None:
            raise ModelError.of("sure answers", "need candidates to be sure among", "give candidates=")
        if not questions:
            return Sure([], np.empty(0))
        asked, distinct, about, prompts = self._distinct(pictures, questions)
        said, chance = self._weighed(about, prompts)
        place = {key: number for number, key in enumerate(distinct)}
        order = [place[key] for key in asked]
        return Sure([said[number] for number in order], np.array([chance[number] for number in order]))

    def _weighed(self, pictures: list[Picture | None], prompts: list[Ids]) -> tuple[list[str], list[float]]:
        left, depth = [dict(self.candidates or {}) for _ in prompts], 0
        chance = [1.0] * len(prompts)
        while rows := [row for row, some in enumerate(left) if len(some) > 1]:
            ahead = [(*prompts[row], *next(iter(left[row].values()))[:depth]) for row in rows]
            tokens = torch.tensor(sorted({ids[depth] for row in rows for ids in left[row].values()}))
            scores = self._next([pictures[row] for row in rows], ahead, partial(_logits_of, tokens), keep=not depth)
            column = {int(token): number for number, token in enumerate(tokens)}
            for row, own in zip(rows, scores, strict=True):
                possible = sorted({ids[depth] for ids in left[row].values()})
                odds = own[[column[token] for token in possible]].softmax(-1)
                best = int(odds.argmax())
                chance[row] *= float(odds[best])
                left[row] = {name: ids for name, ids in left[row].items() if ids[depth] == possible[best]}
            depth += 1
        return [next(iter(some)) for some in left], chance


def _logits_of(tokens: Tensor, hidden: Tensor, head: Tensor) -> Tensor:
    return F.linear(hidden, head[tokens.to(head.device)]).float()

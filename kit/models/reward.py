"""A reward model: one number for an answer, read from the last hidden state of a cut model's adapted layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kit.data.picture import Picture
from kit.data.rows import Conversation, Message
from kit.errors import DataError
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail
from kit.models.packs import Batch
from kit.models.turns import Row, as_conversation
from kit.progress import track

BATCH = 16  # rows at a time


class RewardTail(nn.Module):
    """A scalar head on what a tail makes of an answer's last token.

    The head begins at zero, so every answer at 0. It has no bias: preferences say nothing about one.

    Args:
        tail: What is above the cut; its adapters and projector are trained with the head.
    """

    def __init__(self, tail: LanguageTail) -> None:
        super().__init__()
        self.tail = tail
        self.weight = nn.Parameter(torch.zeros(tail.head.shape[1], device=tail.head.device))

    def forward(self, batch: Batch) -> Tensor:
        """Return each text's reward, shape (q,) without the padding texts, unitless; only differences mean anything."""
        last = batch.last_asked()
        return self.tail(batch)[last].float() @ self.weight


class Reward:
    """What a reward model says of answers.

    Args:
        cut: The cut model.
        tail: The reward model on it.
    """

    def __init__(self, cut: LanguageCut, tail: RewardTail) -> None:
        self.cut, self.tail = cut, tail

    def score(self, rows: Sequence[Row]) -> NDArray[np.float64]:
        """Return each row's reward, shape (n,), unitless; of two answers to one question the higher is better.

        Args:
            rows: Questions with answers, or conversations that end with one; a row may have no picture.

        Raises:
            DataError: no rows, or rows that the model cannot read, all kinds of fault at once.
        """
        if not rows:
            raise DataError.of("score", "there are no rows", "give answers to judge")
        talks = [as_conversation(row) for row in rows]
        packs = self.cut.entries([talk.picture for talk in talks], [(text,) for text in self.cut.texts(talks)])
        training = self.tail.training
        self.tail.eval()
        found: list[Tensor] = []
        try:
            with torch.no_grad(), track(total=len(talks), label="scoring answers") as bar:
                for start in range(0, len(talks), BATCH):
                    indices = np.arange(start, min(start + BATCH, len(talks)))
                    found.append(self.tail(packs.draw(indices).to(self.cut.model.device)).cpu())
                    bar.update(len(indices))
        finally:
            self.tail.train(training)
        return np.asarray(torch.cat(found).double().numpy())

    def best(self, picture: Picture | None, prompt: str, answers: Sequence[str]) -> int:
        """Return which of several answers to a prompt is the best, the first of equals: best-of-n.

        Args:
            picture: What the prompt is about, or None.
            prompt: The prompt.
            answers: At least one.

        Raises:
            DataError: no answers, or one that the model cannot read.
        """
        talks: list[Any] = [
            Conversation(f"answer {number}", picture, (Message("user", prompt), Message("assistant", answer)))
            for number, answer in enumerate(answers)
        ]
        return int(self.score(talks).argmax())

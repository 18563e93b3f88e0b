"""Training on answers: rows encoded when they are drawn, and a loss over answer tokens alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from kit.errors import DataError
from kit.models.chat import Chat
from kit.models.image_tokens import Lengths, count_tokens
from kit.models.turns import IGNORED, Row
from kit.models.vision_language import VisionLanguage
from kit.training.columns import Indices
from kit.training.plan import Load


@dataclass(frozen=True, eq=False)
class Encoded:
    """A column of questions or conversations, encoded batch by batch, so that memory does not grow with the rows.

    Args:
        chat: How the model is spoken to.
        rows: The rows.
        lengths: How long they are, as they were counted.
    """

    chat: Chat
    rows: Sequence[Row]
    lengths: Lengths

    @classmethod
    def of(
        cls,
        model: VisionLanguage,
        rows: Sequence[Row],
        *,
        picture_required: bool = True,
        max_length: int | None = None,
    ) -> Encoded:
        """Return the column of these rows, all of which were found fit for the model.

        Args:
            model: What they are for.
            rows: Questions with answers, or conversations.
            picture_required: Whether a row without a picture is a fault.
            max_length: Most tokens of a row, its picture's included; what the model's positions allow by default.

        Raises:
            DataError: rows that cannot be trained on, all at once; see ``count_tokens``.
        """
        chat = Chat.of(model, max_length=max_length)
        return cls(chat, rows, count_tokens(chat, rows, picture_required=picture_required))

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, indices: Indices, generator: np.random.Generator) -> Any:  # noqa: ARG002
        """Return the rows at ``indices`` as a padded batch with labels.

        Raises:
            DataError: a picture has not the tokens that were counted.
        """
        batch = self.chat.batch([self.rows[index] for index in indices])
        found = (batch["input_ids"] == self.chat.image_token_id).sum(1).numpy()
        if wrong := np.flatnonzero(found != self.lengths.image_tokens[indices]).tolist():
            row, counted = self.rows[indices[wrong[0]]], self.lengths.image_tokens[indices[wrong[0]]]
            raise DataError.of(row.id, f"has {found[wrong[0]]} image tokens, and {counted} were counted before")
        return batch

    def largest(self, rows: int) -> Load:
        """Return the most that ``rows`` of these rows drawn together may be."""
        rows = min(rows, len(self))
        fullest = self.rows[int(self.lengths.image_tokens.argmax())]
        pictures = self.chat.encode(fullest).get("pixel_values")
        return Load(
            rows=rows,
            length=int(self.lengths.tokens.max()),
            answers=int(np.sort(self.lengths.answer_tokens)[-rows:].sum()),
            pixels=0 if pictures is None else rows * pictures.numel(),
        )

    def digest(self) -> str:
        """Return the identity of the rows and of what is made of them."""
        parts = [self.chat.digest(), *(row.digest() for row in self.rows)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class AnswerLoss:
    """Cross-entropy of the answers' tokens, each counted once; for any model of transformers, PEFT's around it or not.

    The head computes logits at answer positions only: of 1,000 tokens over a vocabulary of 150,000, all logits are
    0.6 GB in float32, and those of a three-word answer 2 MB.
    """

    def __call__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the mean over the batch's answer tokens, a scalar in nats.

        Args:
            model: Returns ``logits`` of shape (n, length, vocabulary) for the batch without its labels.
            batch: What ``Encoded`` draws: ``labels`` of shape (n, length) hold the token itself where an answer is
                learnt and -100 elsewhere; the token at i is predicted at i - 1.
        """
        nats, _ = answer_nats(model, batch)
        return nats.mean()

    def count(self, batch: Mapping[str, Tensor]) -> int:
        """Return how many tokens the mean is over; what ``fit`` weighs parts of a batch by."""
        return int((batch["labels"][:, 1:] != IGNORED).sum())


def answer_nats(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return each answer token's cross-entropy, nats, shape (k,), and where they stand, bool, shape (n, length - 1).

    Args:
        model: See ``AnswerLoss``.
        batch: See ``AnswerLoss``.
    """
    targets = batch["labels"][:, 1:]
    chosen = targets != IGNORED
    inputs: dict[str, Any] = {name: value for name, value in batch.items() if name != "labels"}
    if _takes(model, "use_cache"):
        inputs["use_cache"] = False  # keys and values for a next token that nobody asks for
    with _head_only_at(model, chosen) as done:
        logits = model(**inputs).logits
    if not done:  # a model without a head of its own to be told: the lines are left out afterwards
        logits = logits[:, :-1][chosen]
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]).float(), targets[chosen], reduction="none"), chosen


@contextmanager
def _head_only_at(model: nn.Module, chosen: Tensor) -> Iterator[list[bool]]:
    """Let the model's head see the chosen positions alone, shape (n, length - 1); the list is empty if it could not.

    ``logits_to_keep`` takes one list of positions for all rows; answers stand elsewhere in each.
    """
    done: list[bool] = []
    bare = _bare(model)
    head = bare.get_output_embeddings() if hasattr(bare, "get_output_embeddings") else None

    def choose(_: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = given[0]
        done.append(True)
        return (hidden[:, :-1][chosen].unsqueeze(0), *given[1:])

    handle = head.register_forward_pre_hook(choose) if head is not None else None
    try:
        yield done
    finally:
        if handle is not None:
            handle.remove()


def _bare(model: nn.Module) -> Any:
    """Return the model inside the wrappers of accelerate and PEFT."""
    inside = getattr(model, "module", model)
    return inside.get_base_model() if hasattr(inside, "get_base_model") else inside


def _takes(model: nn.Module, name: str) -> bool:
    """Tell whether the model's forward takes an argument; accelerate hides its signature, the class does not."""
    parameters = signature(type(_bare(model)).forward).parameters.values()
    return any(parameter.name == name or parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)

"""Preference rows as a cut language model is trained on them: both answers beside each other, prefixes shared."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kit.data.rows import Preference
from kit.errors import ModelError
from kit.models.contrasted import mismatched, read_both
from kit.models.dual_encoder import tensors_digest
from kit.models.language_cut import LanguageCut
from kit.models.packs import Batch, Packs
from kit.models.quick_layers import FrozenHead
from kit.progress import track


@dataclass(frozen=True)
class Likelihood:
    """How likely a model finds the answers of n preference rows.

    Args:
        answers: Log-probability of the chosen and of the rejected answer, summed over its tokens, nats, shape (n, 2).
        tokens: How many tokens that is, the one that ends the answer included, shape (n, 2).
        mismatched: Log-probability of another question's answer, nats, shape (n,), without gradient; None where the
            column has none.
    """

    answers: Tensor
    tokens: Tensor
    mismatched: Tensor | None = None

    def as_reference(self) -> Tensor:
        """Return the log-probabilities alone, shape (n, 2), or (n, 3) with mismatched answers."""
        if self.mismatched is None:
            return self.answers
        return torch.cat([self.answers, self.mismatched[:, None]], 1)


@dataclass(frozen=True)
class PreferenceBatch:
    """What an objective reads of n preference rows.

    Args:
        texts: 2n texts: each row's chosen answer, then its rejected one.
        margins: How strongly each was preferred, shape (n,).
        reference: What the reference makes of them (``Likelihood.as_reference``), nats; None where none was computed.
        others: n texts, each row's question with another's answer; None where no objective asks for them.
    """

    texts: Batch
    margins: Tensor
    reference: Tensor | None = None
    others: Batch | None = None

    def to(self, device: torch.device | str) -> PreferenceBatch:
        """Return the batch on a device."""
        reference = None if self.reference is None else self.reference.to(device)
        others = None if self.others is None else self.others.to(device)
        return PreferenceBatch(self.texts.to(device), self.margins.to(device), reference, others)

    def likelihood(self, model: Any) -> Likelihood:
        """Return how likely a tail finds the answers.

        Args:
            model: A ``LanguageTail``, as it is or as accelerate wraps it.
        """
        rows = len(self.margins)
        nats, tokens = _summed(model, self.texts)
        other = None
        if self.others is not None:
            with torch.no_grad():
                other = -_summed(model, self.others)[0][:rows]
        return Likelihood(-nats[: 2 * rows].view(rows, 2), tokens[: 2 * rows].view(rows, 2), other)


@dataclass(frozen=True)
class PreferencePacks:
    """A column of training: each entry is a preference row, its two answers about the same picture.

    Args:
        packs: For each row its picture with the chosen and the rejected text, and with the mismatched one if asked.
        margins: How strongly each was preferred, shape (n,).
        reference: See ``PreferenceBatch``; of all rows.
    """

    packs: Packs
    margins: Tensor
    reference: Tensor | None = None

    @classmethod
    def of(cls, cut: LanguageCut, rows: Sequence[Preference], *, mismatch: bool = False) -> PreferencePacks:
        """Return the column of these rows, its reference not yet computed.

        Args:
            cut: The cut model.
            rows: Preferences about pictures or about none.
            mismatch: Add each question with another one's answer, which KTO asks for.

        Raises:
            DataError: no rows, or rows that cannot be trained on, all kinds of fault at once with the first ids: an
                empty answer, two equal ones, a margin that is none, a picture that the template leaves out, image
                tokens in the words, more than the model reads.
        """
        texts = read_both(rows, cut.texts)
        own = [texts[place : place + 2] for place in range(0, len(texts), 2)]
        if mismatch:
            own = [[*both, text] for both, text in zip(own, cut.texts(mismatched(rows)), strict=True)]
        packs = cut.entries([row.picture for row in rows], own)
        return cls(packs, torch.tensor([row.margin for row in rows], dtype=torch.float32))

    def __len__(self) -> int:
        return len(self.packs)

    def draw(self, indices: NDArray[np.int64], generator: np.random.Generator | None = None) -> PreferenceBatch:  # noqa: ARG002
        """Return the rows at ``indices``; a picture that several of them are about is computed once."""
        drawn = [self.packs.groups[index] for index in indices]
        place = {picture: number for number, picture in enumerate(dict.fromkeys(picture for picture, _ in drawn))}

        def batch(first: int, last: int) -> Batch:
            about = [place[picture] for picture, own in drawn for _ in own[first:last]]
            return self.packs.batch(list(place), about, [text for _, own in drawn for text in own[first:last]])

        which = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        return PreferenceBatch(
            batch(0, 2),
            self.margins[which],
            None if self.reference is None else self.reference[which],
            batch(2, 3) if len(drawn[0][1]) > 2 else None,
        )

    def with_reference(self, model: Any, *, batch_size: int = 16) -> PreferencePacks:
        """Return the column with what a model makes of its rows now, before it is trained.

        The reference is then numbers, so it is in memory once with the model that is trained, and read once.

        Args:
            model: The ``LanguageTail`` that will be trained, with its parent's adapters as they stand.
            batch_size: Rows at a time.
        """
        return replace(self, reference=likelihoods(model, self, batch_size=batch_size).as_reference())

    def digest(self) -> str:
        """Return the identity of the content, the reference's numbers included."""
        own = {"margins": self.margins} | ({} if self.reference is None else {"reference": self.reference})
        return hashlib.sha256(f"{self.packs.digest()}|{tensors_digest(own)}".encode()).hexdigest()


def likelihoods(model: Any, column: Any, *, batch_size: int = 16) -> Likelihood:
    """Return how likely a model finds the answers of a whole column, computed in evaluation mode without gradients.

    Args:
        model: What the column's batches ask for: a ``LanguageTail`` for ``PreferencePacks``.
        column: Draws batches that have ``likelihood(model)``.
        batch_size: Rows at a time.

    Raises:
        ModelError: batch_size < 1, or a log-probability that is no number.
    """
    if batch_size < 1:
        raise ModelError.of("batch_size", f"must be at least 1, got {batch_size!r}")
    device, training = next(model.parameters()).device, model.training
    model.eval()
    found = []
    try:
        with torch.no_grad(), track(total=len(column), label="likelihood of answers") as bar:
            for start in range(0, len(column), batch_size):
                indices = np.arange(start, min(start + batch_size, len(column)))
                found.append(column.draw(indices, np.random.default_rng(0)).to(device).likelihood(model))
                bar.update(len(indices))
    finally:
        model.train(training)
    answers = torch.cat([one.answers for one in found]).float().cpu()
    if not torch.isfinite(answers).all():
        raise ModelError.of("likelihoods", "a log-probability is no number", "compute in float32, and look at weights")
    others = [one.mismatched for one in found if one.mismatched is not None]
    return Likelihood(
        answers, torch.cat([one.tokens for one in found]).cpu(), torch.cat(others).float().cpu() if others else None
    )


def _summed(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return each text's cross-entropy in nats and its tokens, both of shape (q,), padding texts included."""
    head = getattr(model, "module", model).head  # accelerate wraps what several processes train
    nats: Tensor = FrozenHead.apply(model(batch), head, batch.labels)
    return batch.per_text(nats), batch.per_text(torch.ones_like(nats))

"""Preference rows for a model that is not cut: encoded when they are drawn, the reference computed in advance."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kit.data.rows import Preference
from kit.models.contrasted import mismatched, read_both
from kit.models.dual_encoder import tensors_digest
from kit.models.preference_packs import Likelihood, likelihoods
from kit.models.vision_language import VisionLanguage
from kit.training.columns import Indices
from kit.training.plan import Load
from kit.training.supervised import Encoded, answer_nats


@dataclass(frozen=True)
class WholeBatch:
    """What an objective reads of n preference rows; ``PreferenceBatch`` for a whole model.

    Args:
        texts: 2n padded conversations with labels: each row's chosen answer, then its rejected one.
        margins: How strongly each was preferred, shape (n,).
        reference: What the reference makes of them (``Likelihood.as_reference``), nats; None where none was computed.
        others: n conversations, each row's question with another's answer; None where no objective asks for them.
    """

    texts: Mapping[str, Tensor]
    margins: Tensor
    reference: Tensor | None = None
    others: Mapping[str, Tensor] | None = None

    def to(self, device: torch.device | str) -> WholeBatch:
        """Return the batch on a device."""
        texts, others = (
            None if part is None else {name: one.to(device) for name, one in part.items()}
            for part in (self.texts, self.others)
        )
        reference = None if self.reference is None else self.reference.to(device)
        return WholeBatch(texts or {}, self.margins.to(device), reference, others)

    def likelihood(self, model: nn.Module) -> Likelihood:
        """Return how likely a model of transformers finds the answers, PEFT's wrapper around it or not."""
        nats, tokens = _summed(model, self.texts)
        other = None
        if self.others is not None:
            with torch.no_grad():
                other = -_summed(model, self.others)[0]
        return Likelihood(-nats.view(-1, 2), tokens.view(-1, 2), other)


@dataclass(frozen=True, eq=False)
class PreferenceRows:
    """A column of preference rows, encoded batch by batch.

    Args:
        texts: Two conversations a row, chosen and rejected.
        margins: How strongly each was preferred, shape (n,).
        others: One conversation a row, mismatched; None where no objective asks for them.
        reference: See ``WholeBatch``; of all rows.
    """

    texts: Encoded
    margins: Tensor
    others: Encoded | None = None
    reference: Tensor | None = None

    @classmethod
    def of(
        cls,
        model: VisionLanguage,
        rows: Sequence[Preference],
        *,
        mismatch: bool = False,
        max_length: int | None = None,
    ) -> PreferenceRows:
        """Return the column of these rows, its reference not yet computed.

        Args:
            model: What they are for.
            rows: Preferences about pictures or about none.
            mismatch: Add each question with another one's answer, which KTO asks for.
            max_length: Most tokens of an answered prompt, its picture's included; the model's positions by default.

        Raises:
            DataError: no rows, or rows that cannot be trained on, all kinds of fault at once with the first ids: an
                empty answer, two equal ones, a margin that is none, and all that ``count_tokens`` finds, such as a
                picture whose tokens are lost.
        """
        options: dict[str, Any] = {"picture_required": False, "max_length": max_length}
        texts = read_both(rows, lambda talks: Encoded.of(model, talks, **options))
        others = Encoded.of(model, mismatched(rows), **options) if mismatch else None
        return cls(texts, torch.tensor([row.margin for row in rows], dtype=torch.float32), others)

    def __len__(self) -> int:
        return len(self.margins)

    def draw(self, indices: Indices, generator: np.random.Generator) -> WholeBatch:
        """Return the rows at ``indices``."""
        which = torch.from_numpy(np.asarray(indices, dtype=np.int64))
        both = np.stack([2 * which.numpy(), 2 * which.numpy() + 1], 1).reshape(-1)
        return WholeBatch(
            self.texts.draw(both, generator),
            self.margins[which],
            None if self.reference is None else self.reference[which],
            None if self.others is None else self.others.draw(indices, generator),
        )

    def with_reference(self, model: nn.Module, *, batch_size: int = 8) -> PreferenceRows:
        """Return the column with what a model makes of its rows now, before it is trained.

        Args:
            model: The model that will be trained, with its parent's adapters as they stand. To hold it to the base
                instead, call this within ``model.disable_adapter()``.
            batch_size: Rows at a time.
        """
        return replace(self, reference=likelihoods(model, self, batch_size=batch_size).as_reference())

    def largest(self, rows: int) -> Load:
        """Return the most that ``rows`` of these rows drawn together may be."""
        return self.texts.largest(2 * rows)

    def digest(self) -> str:
        """Return the identity of the content, the reference's numbers included."""
        own = {"margins": self.margins} | ({} if self.reference is None else {"reference": self.reference})
        others = "" if self.others is None else self.others.digest()
        return hashlib.sha256(f"{self.texts.digest()}|{others}|{tensors_digest(own)}".encode()).hexdigest()


def _summed(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return each conversation's cross-entropy in nats and its answer tokens, both of shape (n,)."""
    nats, where = answer_nats(model, batch)
    spread = nats.new_zeros(where.shape).masked_scatter(where, nats)
    return spread.sum(1), where.sum(1).to(nats.dtype)

"""What is minimised when a cut language model is trained: cross-entropy of the answers' tokens."""

from __future__ import annotations

from torch import Tensor

from kit.models.language_tail import LanguageTail
from kit.models.packs import Batch
from kit.models.quick_layers import FrozenHead


def answer_loss(model: LanguageTail, batch: Batch) -> Tensor:
    """Return the mean cross-entropy in nats over the tokens that are asked for, a scalar."""
    head = model.head if hasattr(model, "head") else model.module.head  # DDP wraps what it trains
    total: Tensor = FrozenHead.apply(model(batch), head, batch.labels)
    return total / len(batch.labels)

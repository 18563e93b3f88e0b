"""What is minimised when a cut language model is trained: cross-entropy of the answers' tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kit.models.packs import Batch
from kit.models.quick_layers import FrozenHead


@dataclass(frozen=True)
class TailLoss:
    """Cross-entropy of the tokens that are asked for, each counted once; for ``LanguageTail``."""

    def __call__(self, model: Any, batch: Batch) -> Tensor:
        """Return the mean over the batch's answer tokens, a scalar in nats."""
        head = getattr(model, "module", model).head  # accelerate wraps what several processes train
        nats: Tensor = FrozenHead.apply(model(batch), head, batch.labels)
        return nats.sum() / len(batch.labels)

    def count(self, batch: Batch) -> int:
        """Return how many tokens the mean is over; what ``fit`` weighs parts of a batch by."""
        return len(batch.labels)

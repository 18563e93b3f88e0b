"""What training minimises: small callables from a model and a batch to a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from kit.errors import ModelError, did_you_mean, listed

KINDS = ("clip", "siglip")


@dataclass(frozen=True)
class Contrastive:
    """Bring each picture and its own text together, and keep them apart from the others of the batch.

    The losses are open_clip's, which gather the batches of several processes with their gradients.

    Args:
        kind: "clip" for the symmetric cross-entropy with a learned temperature (arXiv:2103.00020), "siglip" for
            the sigmoid loss (arXiv:2303.15343), which needs a model with a logit bias.

    Raises:
        ModelError: another kind.
    """

    kind: str = "clip"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ModelError.of(
                "objective",
                f"{self.kind!r} is unknown.{did_you_mean(self.kind, KINDS)}",
                allowed=f"Allowed: {listed(KINDS)}.",
            )

    def __call__(self, model: nn.Module, image: Tensor, text: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar in nats.

        Args:
            model: Returns ``kit.models.cut.Pairs`` for (image, text).
            image: What the model takes for pictures, shape (n, …).
            text: What it takes for their texts, shape (n, …); row i belongs to picture i.

        Raises:
            ModelError: "siglip" on a model without a logit bias.
        """
        from accelerate import PartialState
        from open_clip.loss import ClipLoss, SigLipLoss

        pairs = model(image, text)
        state = PartialState()
        place: dict[str, Any] = {"rank": state.process_index, "world_size": state.num_processes}
        loss: Tensor
        if self.kind == "clip":
            loss = ClipLoss(local_loss=True, gather_with_grad=True, **place)(pairs.image, pairs.text, pairs.scale)
            return loss
        if pairs.bias is None:
            raise ModelError.of(
                "objective", "'siglip' needs a model with a logit bias", "build it with objective='siglip'"
            )
        loss = SigLipLoss(**place)(pairs.image, pairs.text, pairs.scale, pairs.bias)
        return loss

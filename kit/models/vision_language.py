"""What the rest of kit relies on when it says "vision-language model": stitched ones and the Hub's alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kit.models.dual_encoder import weights_digest
from kit.parts.reference import Fingerprint


@dataclass(eq=False)
class VisionLanguage:
    """A model that reads pictures and text and writes text, with what it needs to be used and saved.

    Args:
        model: ``forward(**inputs, labels=…)`` gives loss and logits; ``generate(**inputs)`` gives token ids.
        processor: ``processor(text=…, images=…)`` and ``apply_chat_template`` give the model's inputs; it knows its
            ``tokenizer``, ``image_token`` and ``image_token_id``.
        bases: What it was built from.
        name: The source string it was loaded by.
    """

    model: Any
    processor: Any
    bases: tuple[Fingerprint, ...]
    name: str

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def language(self) -> nn.Module:
        """The language tower."""
        return part(self.model, "language_model", "text_model")

    @property
    def vision(self) -> nn.Module:
        """The vision tower."""
        return part(self.model, "vision_tower", "vision_model", "visual")

    @property
    def projector(self) -> nn.Module:
        """What takes the vision tower's features into the language model's width."""
        return part(self.model, "projector", "connector", "multi_modal_projector", "merger")

    def digest(self) -> str:
        """Return the identity of all weights, 64 hex digits."""
        return weights_digest(self.model)


def part(model: nn.Module, *names: str) -> nn.Module:
    """Return the submodule that one of these names ends with, the one nearest to the root.

    Raises:
        LookupError: there is none.
    """
    found = [(path.count("."), path) for path, _ in model.named_modules() if path.rpartition(".")[2] in names]
    if not found:
        raise LookupError(f"{type(model).__name__} has no {' or '.join(names)}")
    return model.get_submodule(min(found)[1])

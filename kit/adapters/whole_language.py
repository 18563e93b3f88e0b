"""A language tower that travels inside its bundle, because it is no longer the base's: merged, or quantised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kit.adapters.base_weights import peft_models
from kit.errors import Fault
from kit.models.halves import trunk
from kit.models.prompts import PromptedAttention
from kit.models.quiet import quiet
from kit.models.vision_language import VisionLanguage

LANGUAGE = "language"


def write_language(folder: Path, model: VisionLanguage) -> None:
    """Write a language tower as transformers writes models, quantised as it is; prompts in its layers are left out.

    Args:
        folder: Where to.
        model: The stitched model, without LoRA on its language tower.
    """
    language: Any = model.language
    with quiet(), _bare_layers(language):
        language.save_pretrained(folder)
        model.processor.tokenizer.save_pretrained(folder)


def whole_faults(model: VisionLanguage) -> list[Fault]:
    """Return why a model's language tower cannot be written by itself."""
    if not hasattr(model.model, "project"):
        return [Fault(model.name, "is not stitched, and is saved whole by save_pretrained alone")]
    if peft_models(model.language):
        return [Fault(model.name, "has LoRA on its language tower, which would be left out", "merge it first")]
    return []


def backend_faults(folder: Path, said: Mapping[str, Any], asked: str | None) -> list[Fault]:
    """Return why a bundle's language tower cannot be held as asked.

    Args:
        folder: The bundle.
        said: Its layout.
        asked: The backend's name; None for the bundle's own.
    """
    held = said.get("backend", "")
    if asked is None or asked == held:
        return []
    if said.get("whole") and held:
        what = f"holds its language tower quantised by {held}, and what that lost does not come back"
        return [Fault(str(folder), what, "open the bundle that it was made from")]
    return []


@contextmanager
def _bare_layers(language: Any) -> Iterator[None]:
    """Take adaption prompts off a model's layers for a while."""
    layers = trunk(language).layers
    own = [layer.self_attn for layer in layers]
    try:
        for layer in layers:
            if isinstance(layer.self_attn, PromptedAttention):
                layer.self_attn = layer.self_attn.attention
        yield
    finally:
        for layer, attention in zip(layers, own, strict=True):
            layer.self_attn = attention

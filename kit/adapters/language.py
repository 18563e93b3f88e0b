"""LoRA on a vision-language model's towers, and a projector that is trained with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from kit.adapters.lora import add_lora
from kit.adapters.lora_targets import adaptable, chosen, option_faults
from kit.errors import ModelError, did_you_mean, listed, raise_faults
from kit.models.halves import trunk
from kit.models.vision_language import VisionLanguage

# Every matrix of a layer: with all of them LoRA learns most from few steps (Dettmers et al., 2023, arXiv:2305.14314,
# section 4).
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TOWERS = ("language", "vision", "both")


def adapt_language(
    model: VisionLanguage,
    *,
    rank: int = 16,
    targets: Sequence[str] = MATRICES,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    **options: Any,
) -> VisionLanguage:
    """Put LoRA on a stitched model's language tower, in place, and let its projector be trained too.

    Args:
        model: The stitched model, frozen.
        rank: Inner size of the low-rank matrices; 0 for none: the projector alone is trained.
        targets: Names of linear layers.
        layers: Which decoder layers; by default those from the picture's entry on.
        seed: Of the fresh weights.
        options: What else ``add_lora`` takes: alpha, dropout, dora, rslora, rank_pattern.

    Raises:
        ModelError: not stitched, or settings that fit no layer, all at once.
    """
    whole = model.model
    if not hasattr(whole, "project"):
        raise ModelError.of(model.name, "has a projector that was trained already", "use adapt_towers")
    if rank:
        numbers = range(whole.config.entry_layer, len(trunk(whole.language_model).layers)) if layers is None else layers
        whole.language_model = add_lora(
            whole.language_model, rank=rank, targets=tuple(targets), layers=numbers, seed=seed, **options
        )
    whole.projector.requires_grad_(True)
    return model


def train_further(model: VisionLanguage, *, projector: bool = True) -> VisionLanguage:
    """Let the LoRA of a model that a bundle opened be trained again, in place.

    Args:
        model: What ``Bundle.load`` returned, frozen.
        projector: Let a stitched model's projector be trained too.

    Raises:
        ModelError: there is no LoRA on it.
    """
    own = [one for name, one in model.model.named_parameters() if ".lora_" in name]
    if not own:
        raise ModelError.of(model.name, "has no LoRA to go on with", "use adapt_language, or adapt_towers")
    for parameter in own:
        parameter.requires_grad_(True)
    if projector and hasattr(model.model, "project"):
        model.projector.requires_grad_(True)
    return model


def adapt_towers(
    model: VisionLanguage,
    *,
    towers: str = "language",
    targets: Sequence[str] = MATRICES,
    layers: Sequence[int] | None = None,
    **options: Any,
) -> VisionLanguage:
    """Put LoRA on the towers of a vision-language model that has seen pictures before, in place.

    Args:
        model: A model of the Hub; ``model.model`` becomes PEFT's wrapper around it.
        towers: "language", "vision" or "both".
        targets: In the language tower, names of linear layers. In the vision tower all that can be adapted are.
        layers: Which numbered layers of the towers; None for all.
        options: What else ``add_lora`` takes: rank, alpha, dropout, dora, rslora, rank_pattern, seed.

    Raises:
        ModelError: a stitched model, an unknown tower, or settings that fit no layer, all at once.
    """
    if hasattr(model.model, "project"):
        raise ModelError.of(
            model.name, "is stitched, and its vision tower is computed in advance", "use adapt_language"
        )
    if towers not in TOWERS:
        what = f"{towers!r} is unknown.{did_you_mean(towers, TOWERS)}"
        raise ModelError.of("towers", what, allowed=f"Allowed: {listed(TOWERS)}.")
    names: list[str] = []
    if towers != "vision":
        # Looked up in the tower alone, so that a name that only the other tower knows is unknown.
        found, faults = chosen(model.language, tuple(targets), None)
        if faults:
            numbers = {"rank": 8, "alpha": None, "dropout": 0.0} | options
            faults += option_faults(*(numbers[name] for name in ("rank", "alpha", "dropout")))
        raise_faults(faults, ModelError)
        names += [f"{_path(model.model, model.language)}.{one.name}" for one in found]
    if towers != "language":
        names += [f"{_path(model.model, model.vision)}.{name}" for name in adaptable(model.vision)]
    model.model = add_lora(model.model, targets=names, layers=layers, **options)
    return model


def _path(model: nn.Module, part: nn.Module) -> str:
    path: str = next(name for name, module in model.named_modules() if module is part)
    return path

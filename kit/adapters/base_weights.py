"""Which of a model's weights are its bases' and which belong to adapters, whatever was put on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from kit.adapters.llama_adapter import prompted_layers
from kit.errors import Fault
from kit.models.dual_encoder import tensors_digest
from kit.models.halves import trunk
from kit.models.prompts import PromptedAttention
from kit.models.vision_language import VisionLanguage

NORMS = ("input_layernorm", "post_attention_layernorm")  # what a LLaMA-Adapter trains beside its prompts
_SHOWN = 3  # names in a fault


def peft_models(model: nn.Module) -> dict[str, Any]:
    """Return PEFT's models in a model by their path; an empty path is the model itself."""
    from peft import PeftModel

    return {path: module for path, module in model.named_modules() if isinstance(module, PeftModel)}


def prompted(model: VisionLanguage) -> dict[int, PromptedAttention]:
    """Return the language tower's prompted layers by number; none where it has no decoder layers of Llama's kind."""
    if not any(isinstance(module, PromptedAttention) for module in model.model.modules()):
        return {}
    return prompted_layers(model.language)


def weights(model: VisionLanguage, *, skipped: list[str] | None = None) -> dict[str, Any]:
    """Return the identity of a stitched model's frozen weights, adapters on it or not.

    Args:
        model: A stitched model.
        skipped: Names of language weights that were trained themselves; found by default.

    Returns:
        SHA-256 of ``vision`` and ``language``, and what was ``skipped``.
    """
    if skipped is None:
        layers = trunk(model.language).layers
        norms = {id(getattr(layers[number], name).weight) for number in prompted(model) for name in NORMS}
        skipped = sorted(name for name, tensor in _plain(model.language) if id(tensor) in norms)
    kept = {name: tensor for name, tensor in _plain(model.language) if name not in skipped}
    return {
        "vision": tensors_digest(dict(_plain(model.vision))),
        "language": tensors_digest(kept),
        "skipped": skipped,
    }


def adapter_faults(model: VisionLanguage) -> list[Fault]:
    """Return why a bundle could not hold everything that was trained."""
    faults = []
    for path, adapter in peft_models(model.model).items():
        where = f"{model.name}: {path or 'the model'}"
        if len(adapter.peft_config) > 1:
            what = f"has {len(adapter.peft_config)} adapters, and a bundle holds one in a place"
            faults.append(Fault(where, what, "merge them, or delete all but one"))
        if any(getattr(module, "merged", False) for module in adapter.modules()):
            faults.append(Fault(where, "its adapter is merged into the base's weights", "call unmerge_adapter() first"))
    saved = {id(parameter) for parameter in _saved(model)}
    lost = [
        name
        for name, parameter in model.model.named_parameters()
        if parameter.requires_grad and id(parameter) not in saved
    ]
    if lost:
        more = f" and {len(lost) - _SHOWN} others" if len(lost) > _SHOWN else ""
        what = f"{', '.join(lost[:_SHOWN])}{more} can be trained, and a bundle holds adapters and the projector only"
        faults.append(Fault(model.name, what, "freeze them, or save the whole model with save_pretrained"))
    return faults


def _saved(model: VisionLanguage) -> Iterator[nn.Parameter]:
    """Yield the parameters that a bundle holds."""
    yield from model.projector.parameters()
    for adapter in peft_models(model.model).values():
        prefix = _prefix(adapter)
        for name, parameter in adapter.named_parameters():
            if prefix in name or ".modules_to_save." in name:
                yield parameter
    found = prompted(model)
    for layer in found.values():
        yield from layer.parameters(recurse=False)
    for number in found:
        for name in NORMS:
            yield getattr(trunk(model.language).layers[number], name).weight


def _plain(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the bases' own weights by the names that they have without adapters."""
    prefixes = [_prefix(adapter) for adapter in peft_models(module).values()]
    own = {
        id(parameter)
        for layer in module.modules()
        if isinstance(layer, PromptedAttention)
        for parameter in layer.parameters(recurse=False)
    }
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) in own or ".modules_to_save." in name or any(prefix in name for prefix in prefixes):
            continue
        yield _plain_name(name), tensor


def _plain_name(name: str) -> str:
    for added in ("base_model.model.", ".base_layer", ".original_module"):
        name = name.replace(added, "")
    return name.replace("self_attn.attention.", "self_attn.")


def _prefix(adapter: Any) -> str:
    """Return what PEFT puts before the names of an adapter's own weights, "lora_" for LoRA."""
    return str(getattr(adapter.base_model, "prefix", "lora_"))

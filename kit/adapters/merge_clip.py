"""Merging CLIPs with LoRA: the base is what is left when a parent's own change is taken off its checkpoint again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kit.adapters.bundle import Bundle
from kit.adapters.clip_lora import FOLDER, AdaptedEncoder
from kit.adapters.interference import Interference, lora_layers
from kit.adapters.lora import add_lora
from kit.adapters.mergeable import adapter_settings, averaged, trained_beside
from kit.adapters.weighted import CHILD, Plan, merge_adapters
from kit.errors import BundleError
from kit.models.dual_encoder import ClipEncoder

FIRST = "parent_0"
_ONE_BASE = "merge bundles that were trained on one base"
_ROUNDINGS = 16  # a base that was changed and changed back differs by some roundings of its type, relative
_PEFT = "base_model.model."


def merge_clips(
    parents: Sequence[Bundle], plan: Plan, measured: Interference, *, device: str | None = None
) -> AdaptedEncoder:
    """Return the parents' base with their merged LoRA on it; what was trained beside LoRA is averaged.

    Args:
        parents: Bundles of dual encoders with LoRA.
        plan: How.
        measured: Takes each matrix into account.
        device: Where to; where the first parent is loaded to by default.

    Raises:
        BundleError: parents of different bases, or what PEFT refuses.
    """
    encoder, adapter = _without_its_change(parents[0])
    names = [f"parent_{number}" for number in range(len(parents))]
    base = _frozen(adapter, parents[0])
    for name, one in zip(names[1:], parents[1:], strict=True):
        _check_base(parents[0], base, one)
        with torch.random.fork_rng(devices=[]):
            adapter.add_adapter(name, _lora_of(one))
        _fill(adapter, name, one)
    merge_adapters(adapter, names, plan, measured)
    child = _child(encoder, adapter, parents, plan.weights)
    if device:
        child.clip.to(device)
    return child


def _without_its_change(bundle: Bundle) -> tuple[ClipEncoder, Any]:
    """Return a bundle's model with its LoRA beside the weights again, and PEFT's wrapper with ``FIRST`` on it."""
    from peft import PeftModel

    encoder: ClipEncoder = bundle.load()
    with torch.random.fork_rng(devices=[]):
        adapter: Any = PeftModel(encoder.clip, _lora_of(bundle), FIRST)  # type: ignore[arg-type]
    _fill(adapter, FIRST, bundle)
    with torch.no_grad():
        for _, module in lora_layers(adapter):
            layer = module.get_base_layer()
            weight = layer.in_proj_weight if isinstance(layer, nn.MultiheadAttention) else layer.weight
            weight.sub_(module.get_delta_weight(FIRST).to(weight.dtype))
    return encoder, adapter


def _lora_of(bundle: Bundle) -> Any:
    """Return the settings of a bundle's LoRA alone: PEFT merges no modules that were trained whole."""
    from peft import LoraConfig

    settings = LoraConfig.from_pretrained(str(bundle.folder / FOLDER))
    settings.modules_to_save = None
    return settings


def _fill(adapter: Any, name: str, bundle: Bundle) -> None:
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    state = load_file(bundle.folder / FOLDER / "adapter_model.safetensors")
    set_peft_model_state_dict(adapter, {key: one for key, one in state.items() if ".lora_" in key}, adapter_name=name)


def _frozen(adapter: Any, bundle: Bundle) -> dict[str, Tensor]:
    """Return the base's own weights by their names without adapters."""
    trained = trained_beside(bundle)
    plain = {
        name.replace(".base_layer", ""): one.detach()
        for name, one in adapter.get_base_model().state_dict().items()
        if ".lora_" not in name
    }
    return {name: one for name, one in plain.items() if name not in trained}


def _check_base(first: Bundle, base: Mapping[str, Tensor], other: Bundle) -> None:
    """Refuse a parent whose base has other weights: an adapter is a change of its own base's and of no other's."""
    theirs = _frozen(_without_its_change(other)[1], other)
    if base.keys() != theirs.keys() or any(base[name].shape != theirs[name].shape for name in base):
        raise BundleError.of(str(other), f"has other weights than {first} under its adapter", _ONE_BASE)
    apart = {name: _apart(one, theirs[name]) for name, one in base.items() if one.is_floating_point()}
    worst = max(apart, key=apart.__getitem__)
    if apart[worst] > _ROUNDINGS * torch.finfo(base[worst].dtype).eps:
        what = (
            f"is built on other weights than {first}: {worst} differs by {apart[worst]:.2g} of its size, and a change "
            "of one model's weights means nothing in another's"
        )
        raise BundleError.of(str(other), what, _ONE_BASE)


def _apart(one: Tensor, other: Tensor) -> float:
    size = float(one.double().norm())
    return float((one.double() - other.double()).norm()) / (size or 1.0)


def _child(encoder: ClipEncoder, adapter: Any, parents: Sequence[Bundle], weights: Sequence[float]) -> AdaptedEncoder:
    """Return the base with the merged LoRA put on as ``add_clip_lora`` puts it, so that it is saved as any other."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    # Told by us, because PEFT would ask the Hub whether the base's embeddings have another size.
    state = get_peft_model_state_dict(adapter, adapter_name=CHILD, save_embedding_layers=False)
    rank = adapter.peft_config[CHILD].r
    targets = sorted({name.partition(".lora_")[0].removeprefix(_PEFT) for name in state})
    settings, beside = adapter_settings(parents[0], FOLDER), averaged(parents, weights)
    clip: Any = adapter.unload()
    whole = list(settings.get("modules_to_save") or ())
    wrapped: Any = add_lora(clip, targets=_outer(clip, targets), whole=whole, rank=rank, alpha=rank)
    inside = {name: one for name, one in beside.items() if name.startswith(tuple(f"{one}." for one in whole))}
    set_peft_model_state_dict(wrapped, {**state, **{f"{_PEFT}{name}": one for name, one in inside.items()}})
    with torch.no_grad():
        for name in beside.keys() - inside.keys():
            clip.get_parameter(name).copy_(beside[name]).requires_grad_(True)
    own = {each.name: getattr(encoder, each.name) for each in dataclasses.fields(ClipEncoder) if each.init}
    child = AdaptedEncoder(**{**own, "clip": clip, "name": settings["base_model_name_or_path"]}, adapter=wrapped)
    clip.eval()
    return child


def _outer(clip: nn.Module, names: Sequence[str]) -> list[str]:
    """Return the modules that PEFT is asked for: of ``nn.MultiheadAttention`` it adapts the output layer unasked."""
    attention = tuple(f"{name}." for name, one in clip.named_modules() if isinstance(one, nn.MultiheadAttention))
    return [name.removesuffix(".base_layer") for name in names if not name.startswith(attention)]

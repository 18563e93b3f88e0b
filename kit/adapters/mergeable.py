"""Whether bundles can be merged: one base, one layout, adapters that add up, and a projector that they share."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from kit.adapters.bundle import Bundle
from kit.adapters.language_bundle import PROJECTOR, read_layout
from kit.errors import BundleError, Fault, raise_faults

# What must be alike beside the bases: where the picture enters, and the shapes of what it enters through.
_SHAPE = ("entry_layer", "prompted", "projector", "vision")


def check_parents(parents: Sequence[Bundle], *, fewest: int = 2) -> list[dict[str, Any]]:
    """Return the parents' layouts.

    Args:
        parents: Bundles of vision-language models.
        fewest: How many are needed.

    Raises:
        BundleError: parents that cannot be merged, with every reason at once.
    """
    if len(parents) < fewest:
        raise BundleError.of("merge", f"{len(parents)} bundles are given", f"name at least {fewest}")
    faults = [
        Fault(str(one), f"is a {one.manifest.kind}, and adapters of vision-language models are merged")
        for one in parents
        if one.manifest.kind != "vision-language"
    ]
    raise_faults(faults, BundleError)
    layouts = [read_layout(one.folder) for one in parents]
    for one, said in zip(parents, layouts, strict=True):
        faults += _own_faults(one, said)
    for one, said in zip(parents[1:], layouts[1:], strict=True):
        # A child of a bundle names its parents' data after the models that it is put together from.
        faults += _base_faults(parents[0], one, 2 if said["stitched"] else 1)
        faults += _shape_faults(parents[0], one, layouts[0], said)
    raise_faults(faults, BundleError)
    return layouts


def adapter_settings(bundle: Bundle, name: str) -> dict[str, Any]:
    """Return what PEFT says about one of a bundle's adapters.

    Args:
        bundle: The bundle.
        name: The adapter's folder in it.
    """
    settings: dict[str, Any] = json.loads((bundle.folder / name / "adapter_config.json").read_text(encoding="utf-8"))
    return settings


def projectors_differ(parents: Sequence[Bundle]) -> float:
    """Return the largest relative distance of a parent's projector to the first parent's; 0 where all agree."""
    from safetensors.torch import load_file

    first = load_file(parents[0].folder / PROJECTOR)
    whole = math.sqrt(sum(float(tensor.double().square().sum()) for tensor in first.values())) or 1.0
    apart = 0.0
    for one in parents[1:]:
        other = load_file(one.folder / PROJECTOR)
        square = sum(float((tensor.double() - other[name].double()).square().sum()) for name, tensor in first.items())
        apart = max(apart, math.sqrt(square) / whole)
    return apart


def _own_faults(bundle: Bundle, said: dict[str, Any]) -> list[Fault]:
    where, faults = str(bundle), []
    if said["prompts"]:
        faults.append(Fault(where, "has adaption prompts (LLaMA-Adapter), whose gates do not add up", "merge LoRA"))
    if said.get("whole"):
        faults.append(Fault(where, "holds a language tower of its own", "name the bundle that it was made from"))
    if not said["adapters"] and not said["prompts"]:
        faults.append(Fault(where, "has no adapter: only its projector was trained"))
    for name in said["adapters"]:
        settings = adapter_settings(bundle, name)
        if settings.get("use_dora"):
            faults.append(Fault(where, "was trained with DoRA, whose magnitudes do not add up", "merge plain LoRA"))
        if settings.get("modules_to_save"):
            faults.append(Fault(where, f"trained {settings['modules_to_save']} whole, which PEFT cannot merge"))
        if settings.get("bias", "none") != "none":
            faults.append(Fault(where, "trained biases, which PEFT leaves out of a merge"))
    return faults


def _base_faults(first: Bundle, other: Bundle, models: int) -> list[Fault]:
    """Return which bases differ; an adapter is a change of its own base's weights and of no other's."""
    ours, theirs = (one.manifest.bases[:models] for one in (first, other))
    if len(ours) != len(theirs):
        return [Fault(str(other), f"is built on {len(theirs)} models, and {first} on {len(ours)}")]
    return [
        Fault(
            str(other),
            f"is built on {base.source} ({base.digest[:12]}…), and {first} on {own.source} ({own.digest[:12]}…): "
            "a change of one model's weights means nothing in another's",
            "merge bundles that were trained on one base",
        )
        for own, base in zip(ours, theirs, strict=True)
        if own.digest != base.digest
    ]


def _shape_faults(first: Bundle, other: Bundle, ours: dict[str, Any], theirs: dict[str, Any]) -> list[Fault]:
    faults = []
    if ours["adapters"] != theirs["adapters"]:
        what = (
            f"has adapters on {sorted(theirs['adapters'].values())}, and {first} on {sorted(ours['adapters'].values())}"
        )
        faults.append(Fault(str(other), what))
    configs = [json.loads((one.folder / "config.json").read_text(encoding="utf-8")) for one in (first, other)]
    for name in _SHAPE:
        own, its = (_plain(config.get(name)) for config in configs)
        if own != its:
            faults.append(Fault(f"{other}: {name}", f"is {_short(its)}, and {first}'s is {_short(own)}"))
    return faults


def _plain(value: Any) -> Any:
    return {name: one for name, one in value.items() if name != "seed"} if isinstance(value, dict) else value


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 60 else f"{text[:57]}…"

"""Whether bundles can be merged: one base, one layout, adapters that add up, and a projector that they share."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from kit.adapters.bundle import Bundle
from kit.adapters.clip_lora import FOLDER, REST
from kit.adapters.language_bundle import PROJECTOR, read_layout
from kit.adapters.reward_bundle import HEAD
from kit.adapters.reward_bundle import KIND as REWARD
from kit.errors import BundleError, Fault, raise_faults
from kit.models.load import CONFIG

KINDS = ("vision-language", "reward", "dual-encoder")  # bundles that may hold LoRA
# What must be alike beside the bases: where the picture enters, and the shapes of what it enters through.
_SHAPE = ("entry_layer", "prompted", "projector", "vision")
_PEFT = "base_model.model."  # before the names in PEFT's files


def check_parents(parents: Sequence[Bundle], *, fewest: int = 2) -> str:
    """Return the kind of bundle that all parents are.

    Args:
        parents: Bundles with LoRA on one base.
        fewest: How many are needed.

    Raises:
        BundleError: parents that cannot be merged, with every reason at once. Whether CLIPs have the same base is seen
            when they are opened.
    """
    if len(parents) < fewest or not parents:
        raise BundleError.of("merge", f"{len(parents)} bundles are given", f"name at least {max(fewest, 1)}")
    raise_faults(_kind_faults(parents), BundleError)
    kind, faults = parents[0].manifest.kind, []
    if kind == "dual-encoder":
        for one in parents:
            faults += _clip_faults(parents[0], one)
        raise_faults(faults, BundleError)
        return kind
    layouts = [read_layout(one.folder) for one in parents]
    for one, said in zip(parents, layouts, strict=True):
        faults += _own_faults(one, said)
    for one, said in zip(parents[1:], layouts[1:], strict=True):
        # A child of a bundle names its parents' data after the models that it is put together from.
        faults += _base_faults(parents[0], one, 2 if said["stitched"] else 1)
        faults += _shape_faults(parents[0], one, layouts[0], said)
    raise_faults(faults, BundleError)
    return kind


def adapter_settings(bundle: Bundle, name: str) -> dict[str, Any]:
    """Return what PEFT says about one of a bundle's adapters.

    Args:
        bundle: The bundle.
        name: The adapter's folder in it.
    """
    settings: dict[str, Any] = json.loads((bundle.folder / name / "adapter_config.json").read_text(encoding="utf-8"))
    return settings


def trained_beside(bundle: Bundle) -> dict[str, Tensor]:
    """Return what a bundle trained beside its LoRA: projector, a reward's head, a CLIP's projections and temperature.

    Args:
        bundle: Of one of ``KINDS``; a CLIP with an adapter.
    """
    from safetensors.torch import load_file

    if bundle.manifest.kind != "dual-encoder":
        head = load_file(bundle.folder / HEAD) if bundle.manifest.kind == REWARD else {}
        return load_file(bundle.folder / PROJECTOR) | {f"{HEAD}: {name}": one for name, one in head.items()}
    state = load_file(bundle.folder / FOLDER / "adapter_model.safetensors")
    whole = {name.removeprefix(_PEFT): one for name, one in state.items() if ".lora_" not in name}
    return whole | load_file(bundle.folder / FOLDER / REST)


def projectors_differ(parents: Sequence[Bundle]) -> float:
    """Return the largest relative distance of what a parent trained beside LoRA to the first parent's; 0 for none."""
    first = trained_beside(parents[0])
    whole = math.sqrt(sum(float(tensor.double().square().sum()) for tensor in first.values())) or 1.0
    apart = 0.0
    for one in parents[1:]:
        other = trained_beside(one)
        square = sum(float((tensor.double() - other[name].double()).square().sum()) for name, tensor in first.items())
        apart = max(apart, math.sqrt(square) / whole)
    return apart


def averaged(parents: Sequence[Bundle], weights: Sequence[float]) -> dict[str, Tensor]:
    """Return the mean of what parents trained beside LoRA, by the sizes of their weights.

    Args:
        parents: Of one kind.
        weights: One each, not all 0.

    Source:
        Wortsman et al. (2022), arXiv:2203.05482, for weights trained from one start; Ramé et al. (2024),
        arXiv:2401.12187, for rewards.
    """
    sizes, states = [abs(weight) for weight in weights], [trained_beside(one) for one in parents]
    return {
        name: (sum(size * state[name].double() for size, state in zip(sizes, states, strict=True)) / sum(sizes)).to(
            one.dtype
        )
        for name, one in states[0].items()
    }


def _kind_faults(parents: Sequence[Bundle]) -> list[Fault]:
    """Return which parents are of a kind that holds no adapter, or of another kind than the first."""
    first, faults = parents[0], []
    for one in parents:
        kind = one.manifest.kind
        if kind not in KINDS:
            what = f"is a bundle of kind {kind!r}, an export whose adapter is merged and rounded into it"
            faults.append(Fault(str(one), what, "merge the bundles that exports were made from, and export the child"))
        elif kind != first.manifest.kind and first.manifest.kind in KINDS:
            what = f"is a {kind}, and {first} is a {first.manifest.kind}: they have no matrix in common"
            faults.append(Fault(str(one), what, "merge bundles of one kind, on one base"))
    return faults


def _clip_faults(first: Bundle, bundle: Bundle) -> list[Fault]:
    """Return why a CLIP has no LoRA that adds up with the first's."""
    if not (bundle.folder / FOLDER / "adapter_config.json").is_file():
        what = "has no adapter: what it trained lies in its checkpoint, and its base is not known"
        return [Fault(str(bundle), what, "train it with LoRA, as kit run clip-lora does")]
    faults = _lora_faults(str(bundle), adapter_settings(bundle, FOLDER), whole=True)
    if first is bundle or not (first.folder / FOLDER / "adapter_config.json").is_file():
        return faults
    ours, theirs = (
        json.loads((one.folder / CONFIG).read_text(encoding="utf-8"))["model_cfg"] for one in (first, bundle)
    )
    if ours != theirs:
        names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        what = f"is another architecture than {first}: {', '.join(names)} differ"
        faults.append(Fault(str(bundle), what, "merge bundles that were trained on one base"))
    elif _shapes(first) != _shapes(bundle):
        what = f"trained other matrices whole than {first}"
        faults.append(Fault(str(bundle), what, "merge bundles that were trained in one way"))
    return faults


def _shapes(bundle: Bundle) -> dict[str, tuple[int, ...]]:
    return {name: tuple(one.shape) for name, one in trained_beside(bundle).items()}


def _lora_faults(where: str, settings: dict[str, Any], *, whole: bool) -> list[Fault]:
    """Return what in PEFT's settings does not add up."""
    faults = []
    if settings.get("peft_type", "LORA") != "LORA":
        faults.append(Fault(where, f"is {settings['peft_type']}, whose changes PEFT cannot add up", "merge plain LoRA"))
    if settings.get("use_dora"):
        faults.append(Fault(where, "was trained with DoRA, whose magnitudes do not add up", "merge plain LoRA"))
    if settings.get("modules_to_save") and not whole:
        what = f"trained {settings['modules_to_save']} whole, which PEFT cannot merge"
        faults.append(Fault(where, what, "train LoRA alone"))
    if settings.get("bias", "none") != "none":
        faults.append(Fault(where, "trained biases, which PEFT leaves out of a merge", "train with bias='none'"))
    return faults


def _own_faults(bundle: Bundle, said: dict[str, Any]) -> list[Fault]:
    where, faults = str(bundle), []
    if said["prompts"]:
        faults.append(Fault(where, "has adaption prompts (LLaMA-Adapter), whose gates do not add up", "merge LoRA"))
    if said.get("whole"):
        faults.append(Fault(where, "holds a language tower of its own", "name the bundle that it was made from"))
    if not said["adapters"] and not said["prompts"]:
        faults.append(Fault(where, "has no adapter: only its projector was trained", "merge bundles with LoRA"))
    for name in said["adapters"]:
        faults += _lora_faults(where, adapter_settings(bundle, name), whole=False)
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

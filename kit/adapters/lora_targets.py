"""Which of a model's modules LoRA can go into, and everything that is wrong with a choice of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import nn

from kit.errors import Fault, did_you_mean, listed

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Target(NamedTuple):
    """A module that LoRA can go into.

    Args:
        name: Its whole name.
        module: The module.
        stack: What holds its numbered layer ("model.layers"); empty for one outside all layers.
        layer: The number of that layer, counted from 0; -1 for one outside all layers.
    """

    name: str
    module: nn.Module
    stack: str
    layer: int

    @property
    def width(self) -> int:
        """The largest rank that a change of it can have."""
        return _width(self.module)

    @property
    def kind(self) -> str:
        """What it is called within its layer: "self_attn.q_proj"."""
        return self.name[len(f"{self.stack}.{self.layer}.") :] if self.stack else self.name


def adaptable(model: nn.Module, layers: Sequence[int] | None = None) -> list[str]:
    """Return the names of all modules in numbered layers that LoRA can go into.

    For a Llama these are its seven projections a layer, for a BERT six, for an EfficientNet the convolutions of one
    pixel, for open_clip's transformers the attention and the two layers of the perceptron.

    Args:
        model: The model.
        layers: Which of the numbered layers; None for all.
    """
    return [one.name for one in _targets(model) if one.layer >= 0 and (layers is None or one.layer in layers)]


def chosen(
    model: nn.Module, targets: Sequence[str] | str, layers: Sequence[int] | None
) -> tuple[list[Target], list[Fault]]:
    """Return the modules that ``add_lora``'s arguments name, and everything that is wrong with them."""
    there = list(_targets(model))
    wanted = [targets] if isinstance(targets, str) else list(targets)
    find = _matching if isinstance(targets, str) else _named
    hits = {each: find(there, each) for each in wanted}
    names = {one.name for found in hits.values() for one in found}
    faults = [_unknown(model, there, each) for each, found in hits.items() if not found]
    if not wanted:
        faults.append(Fault("lora: targets", "names no module", "name some, such as 'q_proj'"))
    found = [one for one in there if one.name in names]
    if layers is None or not found:
        return found, faults
    wrong = _layer_faults(model, found, layers)
    return found if wrong else [one for one in found if one.layer in layers], faults + wrong


def target_faults(
    model: nn.Module, found: Sequence[Target], whole: Sequence[str], *, dropout: float, dora: bool
) -> list[Fault]:
    """Return what PEFT cannot do with these modules."""
    modules = dict(model.named_modules())
    faults = [
        Fault("lora: whole", f"{name!r} is no module.{did_you_mean(name, modules)}")
        for name in whole
        if name not in modules
    ]
    attention = next((one.name for one in found if isinstance(one.module, nn.MultiheadAttention)), None)
    for name, asked in (("dora", dora), ("dropout", dropout)):
        if attention and asked:
            what = f"PEFT has none for nn.MultiheadAttention ({attention})"
            faults.append(Fault(f"lora: {name}", what, f"leave {name} out, or leave that module out of targets"))
    if any(hasattr(module, "lora_A") for module in modules.values()):
        faults.append(Fault("lora", "the model has LoRA already", "merge it first, or load a fresh one"))
    return faults


def option_faults(rank: int, alpha: float | None, dropout: float) -> list[Fault]:
    """Return what is wrong with numbers that no module needs to be seen for."""
    faults = []
    if not _whole(rank):
        faults.append(Fault("lora: rank", f"must be a whole number of at least 1, got {rank!r}"))
    if alpha is not None and not (_number(alpha) and 0 < alpha < math.inf):
        faults.append(Fault("lora: alpha", f"must be a number above 0, got {alpha!r}"))
    if not (_number(dropout) and 0 <= dropout < 1):
        faults.append(Fault("lora: dropout", f"must be a share of at least 0 and below 1, got {dropout!r}"))
    return faults


def rank_faults(found: Sequence[Target], rank: int, pattern: Mapping[str, int]) -> list[Fault]:
    """Return the ranks that are out of range, and the patterns that fit nothing."""
    faults, least = [], {}
    used = set()
    for one in found:
        # As PEFT looks a module up in its rank_pattern.
        key = next((each for each in pattern if re.match(rf"(.*\.)?({each})$", one.name)), None)
        used.add(key)
        asked = rank if key is None else pattern[key]
        if _whole(asked) and asked > one.width:
            least.setdefault((one.kind, asked), one.width)
    for key, asked in pattern.items():
        if key not in used:
            near = did_you_mean(key, {one.kind for one in found})
            faults.append(Fault("lora: rank_pattern", f"{key!r} is none of the targets.{near}"))
        elif not _whole(asked):
            faults.append(Fault(f"lora: rank_pattern.{key}", f"must be a whole number of at least 1, got {asked!r}"))
    for (kind, asked), width in least.items():
        what = f"is {asked}, and a change of {kind} has at most {width}"
        faults.append(Fault("lora: rank", what, f"give at most {width}, or another rank for it in rank_pattern"))
    return faults


def _targets(model: nn.Module) -> Iterator[Target]:
    inside: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if inside and name.startswith(inside):
            continue  # attention reads these as tensors: an adapter on them would never be called
        if isinstance(module, nn.MultiheadAttention):
            inside = (*inside, f"{name}.")
        elif not _fits(module):
            continue
        yield Target(name, module, *_place(name))


def _fits(module: nn.Module) -> bool:
    if isinstance(module, _CONVOLUTIONS):
        return module.groups == 1  # PEFT merges no others
    # transformers' Conv1D, a transposed linear layer, is known by its name, so that nothing is imported for it.
    return isinstance(module, nn.Linear | nn.Embedding) or type(module).__name__ == "Conv1D"


def _width(module: nn.Module) -> int:
    if isinstance(module, nn.MultiheadAttention):
        return module.embed_dim
    if isinstance(module, nn.Linear):
        return min(module.in_features, module.out_features)  # a quantised weight's shape tells nothing
    weight = module.weight
    return min(weight.shape[0], weight[0].numel())


def _place(name: str) -> tuple[str, int]:
    parts = name.split(".")
    for place, part in enumerate(parts[:-1]):
        if part.isdecimal() and place:
            return ".".join(parts[:place]), int(part)
    return "", -1


def _matching(there: Sequence[Target], pattern: str) -> list[Target]:
    return [one for one in there if re.fullmatch(pattern, one.name)]


def _named(there: Sequence[Target], name: str) -> list[Target]:
    """Return the module of that name; where there is none, all whose names end with it."""
    exact = [one for one in there if one.name == name]
    return exact or [one for one in there if one.name.endswith(f".{name}")]


def _unknown(model: nn.Module, there: Sequence[Target], asked: str) -> Fault:
    other = [(name, module) for name, module in model.named_modules() if name == asked or name.endswith(f".{asked}")]
    if other:
        name, module = other[0]
        what = f"{asked!r} is a {type(module).__name__} ({name}), and LoRA cannot go into it"
        return Fault("lora: targets", what, "", f"Modules: {listed({one.kind for one in there})}.")
    kinds = {one.kind for one in there}
    near = did_you_mean(asked, {kind.rpartition(".")[2] for kind in kinds}) or did_you_mean(asked, kinds)
    return Fault("lora: targets", f"{asked!r} fits no module.{near}", "", f"Modules: {listed(kinds)}.")


def _layer_faults(model: nn.Module, found: Sequence[Target], layers: Sequence[int]) -> list[Fault]:
    sizes = {one.stack: len(model.get_submodule(one.stack)) for one in found if one.stack}  # type: ignore[arg-type]
    if not sizes:
        return [Fault("lora: layers", "the targets lie in no numbered layers", "leave layers out")]
    if len(sizes) > 1:
        what = f"the targets lie in several stacks of layers: {listed(sizes)}"
        return [Fault("lora: layers", what, "name targets of one of them")]
    (size,) = sizes.values()
    wrong = [one for one in layers if not 0 <= one < size]
    if wrong:
        return [Fault("lora: layers", f"{listed(wrong)}: there are only layers 0 to {size - 1}")]
    if not any(one.layer in layers for one in found):
        return [Fault("lora: layers", f"none of the targets lies in layers {list(layers)}", "name others")]
    return []


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

"""What a recipe says its runs cost: terms that name their dials and what bounds them, read from its YAML."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kit.errors import Fault, did_you_mean, listed
from kit.runner.arithmetic import Formula
from kit.runner.notebook import Notebook

# What a term's seconds come from: products of matrices, by arithmetic or as seconds of the reference machine, memory
# that is read, Python and other work of one core, imports, and the clock, which is the same on every machine.
BOUNDS = frozenset({"gflop", "compute", "gib", "python", "imports", "wall"})
KEYS = frozenset({"seconds", "peak_gib", "disk_gib", "lower"})


@dataclass(frozen=True)
class Term:
    """One thing that a run spends time on.

    Args:
        name: What it is, in a word or two.
        amounts: By bound a formula: GFLOP, seconds of products on the reference machine, GiB read, seconds of one
            core of it, times the import of torch, seconds by the clock.
        share: Of a large float32 product's or copy's speed, how much this work reaches; for ``gflop`` and ``gib``.
        once: Whether its products are kept in kit's cache, so that the next run has them.
    """

    name: str
    amounts: Mapping[str, Formula]
    share: float = 1.0
    once: bool = False

    @property
    def names(self) -> set[str]:
        """The parameters that drive it."""
        return {name for formula in self.amounts.values() for name in formula.names}


@dataclass(frozen=True)
class Costs:
    """What a recipe's runs cost.

    Args:
        terms: What they spend time on.
        peak_gib: Largest resident memory, GiB.
        disk_gib: What a run leaves on the disk, the cache included, GiB; None where the recipe does not say.
        lower: Dials to lower, in this order, where memory is short.
    """

    terms: tuple[Term, ...]
    peak_gib: Formula
    disk_gib: Formula | None = None
    lower: tuple[str, ...] = ()

    @property
    def dials(self) -> tuple[str, ...]:
        """The parameters that drive the costs."""
        names = {name for term in self.terms for name in term.names} | set(self.peak_gib.names)
        return tuple(sorted(names | set(self.disk_gib.names if self.disk_gib else ())))


def read_costs(values: Any, notebook: Notebook | None, where: str, faults: list[Fault]) -> Costs | None:
    """Return what a recipe's ``cost`` says; None where it says nothing, or nothing good.

    Args:
        values: The section as YAML gave it.
        notebook: The recipe's notebook, whose parameters formulas may name.
        where: The section's place.
        faults: What is wrong is added here.
    """
    if values is None:
        return None
    before = len(faults)
    if not isinstance(values, dict) or not {"seconds", "peak_gib"} <= values.keys() <= KEYS:
        what = "must be a mapping that says seconds and peak_gib"
        faults.append(Fault(where, what, allowed=f"Allowed: {listed(KEYS)}."))
        return None
    terms = []
    for name, entry in (values["seconds"] if isinstance(values["seconds"], dict) else {}).items():
        terms += _term(str(name), entry, f"{where}.seconds.{name}", faults)
    if not terms and len(faults) == before:
        faults.append(Fault(f"{where}.seconds", "must name what a run spends time on", "write {start: {imports: 3}}"))
    peak = _formula(values["peak_gib"], f"{where}.peak_gib", faults)
    disk = _formula(values["disk_gib"], f"{where}.disk_gib", faults) if "disk_gib" in values else None
    lower = values.get("lower", [])
    if not isinstance(lower, list):
        faults.append(Fault(f"{where}.lower", f"must be a list of parameters, got {lower!r}"))
    if len(faults) > before or peak is None:
        return None
    found = Costs(tuple(terms), peak, disk, tuple(map(str, lower)))
    faults += _unknown({*found.dials, *found.lower}, notebook, where)
    return found


def _term(name: str, entry: Any, where: str, faults: list[Fault]) -> list[Term]:
    if not isinstance(entry, dict) or not BOUNDS & entry.keys():
        faults.append(Fault(where, f"must say what bounds it, got {entry!r}", allowed=f"Bounds: {listed(BOUNDS)}."))
        return []
    allowed = BOUNDS | {"share", "once"}
    for key in entry.keys() - allowed:
        what = f"not a key of a term.{did_you_mean(key, allowed)}"
        faults.append(Fault(f"{where}.{key}", what, allowed=f"Allowed: {listed(allowed)}."))
    share = entry.get("share", 1.0)
    if not isinstance(share, int | float) or share <= 0:
        faults.append(Fault(f"{where}.share", f"must be a number above 0, got {share!r}"))
        return []
    found = {key: _formula(entry[key], f"{where}.{key}", faults) for key in sorted(BOUNDS & entry.keys())}
    amounts = {key: formula for key, formula in found.items() if formula is not None}
    return [Term(name, amounts, float(share), bool(entry.get("once", False)))]


def _formula(text: Any, where: str, faults: list[Fault]) -> Formula | None:
    try:
        return Formula.read(text)
    except ValueError as error:
        faults.append(Fault(where, str(error)))
        return None


def _unknown(names: set[str], notebook: Notebook | None, where: str) -> list[Fault]:
    declared = None if notebook is None else notebook.parameters
    if declared is None:
        return []
    return [
        Fault(where, f"'{name}' is no parameter of the notebook.{did_you_mean(name, declared)}",
              allowed=f"Declared: {listed(declared)}.")
        for name in sorted(names - declared.keys())
    ]  # fmt: skip

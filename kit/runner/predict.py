"""What a run will take, before anything starts: seconds, memory, disk, downloads and money."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.errors import RecipeError
from kit.parts.pull import is_here, kit_home
from kit.runner import ledger
from kit.runner.calibrate import Speed
from kit.runner.costs import Costs, Term
from kit.runner.machines import REFERENCE, Machine
from kit.runner.plan import Plan

FIGURES = "the recipe's figures"


@dataclass(frozen=True)
class Prediction:
    """What a run will take.

    Args:
        machine: The machine.
        seconds: By what they are spent on.
        peak_gib: Largest resident memory, GiB.
        disk_gib: What it leaves on the disk, downloads unpacked included, GiB; None where nobody knows.
        download_gib: What is pulled first, GiB.
        unsized: Inputs that are not here and whose size is not known before they are asked for.
        kept: What is not computed again, since kit's cache holds it.
        basis: Where the numbers come from.
    """

    machine: Machine
    seconds: Mapping[str, float]
    peak_gib: float
    disk_gib: float | None = None
    download_gib: float = 0.0
    unsized: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    basis: str = FIGURES

    @property
    def wall_s(self) -> float:
        """Seconds in all."""
        return sum(self.seconds.values())

    @property
    def money(self) -> float | None:
        """What that costs, in the currency of the machine's price; None where nobody named a price."""
        price = self.machine.price_per_hour
        return None if price is None else self.wall_s / 3600 * price

    @property
    def shortages(self) -> dict[str, tuple[float, float]]:
        """What the machine has too little of: needed and there, GiB, by "memory" and "disk"."""
        wanted = {
            "memory": (self.peak_gib, self.machine.memory_gib),
            "disk": ((self.disk_gib or 0.0) + self.download_gib, self.machine.disk_gib),
        }
        return {name: pair for name, pair in wanted.items() if pair[0] > pair[1]}

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values, as ``run.json`` keeps it."""
        return {
            "wall_s": round(self.wall_s, 1), "seconds": {name: round(one, 1) for name, one in self.seconds.items()},
            "peak_rss_gib": round(self.peak_gib, 2), "kept": list(self.kept), "basis": self.basis,
            "disk_gib": None if self.disk_gib is None else round(self.disk_gib, 3),
            "download_gib": round(self.download_gib, 3), "unsized": list(self.unsized),
            "machine": self.machine.name, "price_per_hour": self.machine.price_per_hour,
            "money": None if self.money is None else round(self.money, 4),
        }  # fmt: skip


def why_not(plan: Plan) -> str:
    """Return why the recipe's figures do not tell what this plan costs; empty where they do."""
    if plan.recipe.cost is None:
        return f"{plan.recipe.name} names no costs"
    own = plan.recipe.notebook.defaults()
    for name in plan.recipe.inputs:
        if plan.effective.get(name) != own.get(name):
            return f"its figures are those of {name}={own.get(name)}, and not of {plan.effective.get(name)}"
    return ""


def predict(plan: Plan, machine: Machine, *, cached: bool = True) -> Prediction:
    """Return what ``plan`` will take on ``machine`` by its recipe's figures.

    Args:
        plan: The plan; ``why_not`` has nothing against it.
        machine: The machine.
        cached: Whether kit's cache here counts, as it does for runs on this machine.

    Raises:
        RecipeError: one of the recipe's formulas cannot be computed with these values.
    """
    costs = plan.recipe.cost
    if costs is None:
        raise RecipeError.of(plan.recipe.name, "names no costs", "give its recipe a 'cost' section")
    kept = tuple(term.name for term in costs.terms if cached and term.once and _is_kept(plan, term))
    try:
        seconds = {
            term.name: 0.0 if term.name in kept else _seconds(term, plan.effective, machine.speed)
            for term in costs.terms
        }
        peak = costs.peak_gib.value(plan.effective)
        disk = None if costs.disk_gib is None else costs.disk_gib.value(plan.effective)
    except ValueError as error:
        raise RecipeError.of(f"{plan.recipe.name}: cost", str(error), "give the parameter a value it fits") from error
    download, unpacked, unsized = downloads(plan, cached=cached)
    return Prediction(machine, seconds, peak, None if disk is None else disk + unpacked, download, unsized, kept)


def _seconds(term: Term, values: Mapping[str, Any], speed: Speed) -> float:
    """Return a term's seconds on a machine of this speed."""
    each = {
        "gflop": 1 / (speed.gflops * term.share),
        "compute": REFERENCE.gflops / speed.gflops,
        "gib": 1 / (speed.gib_per_s * term.share),
        "python": speed.python_s / REFERENCE.python_s,
        "imports": speed.imports_s,
        "wall": 1.0,
    }
    return sum(max(0.0, formula.value(values)) * each[bound] for bound, formula in term.amounts.items())


def downloads(plan: Plan, *, cached: bool = True) -> tuple[float, float, tuple[str, ...]]:
    """Return what has to be pulled, as it travels and unpacked, GiB, and inputs whose size nobody knows before."""
    from kit.parts.catalog import PARTS

    names = sorted({part for found in plan.inputs for part in found.parts})
    missing = [PARTS[name] for name in names if not (cached and is_here(name))]
    outside = tuple(
        one.text for one in plan.inputs if not one.parts and one.text.startswith(("hf:", "hub:", "open_clip:"))
    )
    pulled, unpacked = sum(part.size_bytes for part in missing), sum(part.unpacked_bytes for part in missing)
    return pulled / 2**30, unpacked / 2**30, outside


def smaller(costs: Costs, values: Mapping[str, Any], memory_gib: float) -> dict[str, Any] | None:
    """Return values of the recipe's ``lower`` dials that fit into the memory, changed as little as possible.

    Dials are halved, down to 1; the first of them is given up first. None where even the smallest do not fit.
    """
    ladders = [_halved(int(values[name])) for name in costs.lower if isinstance(values.get(name), int)]
    names = [name for name in costs.lower if isinstance(values.get(name), int)]
    for steps in sorted(itertools.product(*(range(len(one)) for one in ladders)), key=lambda s: (sum(s), s[::-1])):
        changed = {name: ladders[place][step] for place, (name, step) in enumerate(zip(names, steps, strict=True))}
        if costs.peak_gib.value({**values, **changed}) <= memory_gib:
            return {name: value for name, value in changed.items() if value != values[name]}
    return None


def _halved(value: int) -> list[int]:
    found = [value]
    while found[-1] > 1:
        found.append(found[-1] // 2)
    return found


def _kept_at(plan: Plan, term: Term) -> Path:
    """Return where it is noted that a term's products are kept, by its dials and inputs."""
    inputs = sorted((one.parameter, one.digest) for one in plan.inputs if one.parameter in {"model", "data"})
    said = [term.name, inputs, {name: plan.effective.get(name) for name in sorted(term.names)}]
    identity = hashlib.sha256(json.dumps(said, default=str).encode()).hexdigest()[:16]
    return kit_home() / "plans" / f"kept-{identity}.json"


def _is_kept(plan: Plan, term: Term) -> bool:
    try:
        keys = json.loads(_kept_at(plan, term).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    store = kit_home() / "activations"
    return bool(keys) and all((store / key).is_dir() for key in keys)


def note_kept(plan: Plan, log: Path) -> None:
    """Note, after a run, that what it computed once is in the cache now.

    Args:
        plan: The plan that was carried out.
        log: What the run's kernel wrote about kept activations, a line of JSON for each call; removed.
    """
    try:
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return
    finally:
        log.unlink(missing_ok=True)
    keys = sorted({str(line["key"])[:32] for line in lines})
    for term in plan.recipe.cost.terms if plan.recipe.cost else ():
        if term.once and keys:
            path = _kept_at(plan, term)
            path.parent.mkdir(parents=True, exist_ok=True)
            ledger.write_text(path, json.dumps(keys))

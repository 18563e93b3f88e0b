"""A recipe: a notebook, its parameters for each size, what a run must show, and its budget; validated as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.errors import Fault, KitError, RecipeError, did_you_mean, listed, raise_faults
from kit.runner.costs import Costs, read_costs
from kit.runner.notebook import Notebook, read_notebook
from kit.runner.parameters import value_faults

DEFAULT_SIZE = "laptop"
KEYS = frozenset({"notebook", "about", "sizes", "expect", "budget", "inputs", "cost", "resume", "tier"})
OPERATORS = frozenset({"at_least", "at_most", "above_baseline"})
BUDGETS = frozenset({"wall_s", "peak_rss_gib", "limit_s", "limit_gib"})
INPUT_KINDS = frozenset({"data", "model"})


@dataclass(frozen=True)
class Claim:
    """What a run must show.

    Args:
        measurement: The name of a measurement of the Result.
        operator: "at_least", "at_most" or "above_baseline".
        bound: The number for the first two; True for ``above_baseline``: the whole interval must be better.
    """

    measurement: str
    operator: str
    bound: float

    def __str__(self) -> str:
        """Return the claim as people write it."""
        if self.operator == "above_baseline":
            return f"{self.measurement} above its baseline"
        return f"{self.measurement} {'≥' if self.operator == 'at_least' else '≤'} {self.bound:g}"


@dataclass(frozen=True)
class Recipe:
    """A validated recipe.

    Args:
        name: How it is called: the stem of its file.
        notebook: The notebook, read.
        shown: The notebook's path as the recipe writes it.
        about: One line on what it does.
        sizes: Parameter values by size; the default size is always there.
        expect: Claims by size.
        budget: By size: ``wall_s`` and ``peak_rss_gib`` (which warn), ``limit_s`` and ``limit_gib`` (which stop it).
        inputs: Which parameters are source strings: "data" or "model" by parameter.
        tier: The smallest machine it fits, "binder" for mybinder.org's 2 GB.
        path: The YAML file; None for a notebook without a recipe.
        cost: What its runs cost; None where it does not say.
        resume: Whether a run that was stopped goes on with what its cells kept; not where times are what is measured.
    """

    name: str
    notebook: Notebook
    shown: str
    about: str = ""
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {DEFAULT_SIZE: {}})
    expect: Mapping[str, tuple[Claim, ...]] = field(default_factory=dict)
    budget: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    tier: str = ""
    path: Path | None = None
    cost: Costs | None = None
    resume: bool = True


def bare_recipe(notebook: Path) -> Recipe:
    """Return the recipe of a notebook that has none: one size, the notebook's own values.

    Raises:
        RecipeError: the notebook cannot be read.
    """
    return Recipe(notebook.stem, read_notebook(notebook), str(notebook))


def read_recipe(path: Path) -> Recipe:
    """Return the recipe that the YAML file at ``path`` writes down.

    Raises:
        RecipeError: anything wrong in it or its notebook; all faults at once.
    """
    where = str(path)
    values = _mapping(path)
    faults = [
        Fault(
            f"{where}: {key}", f"not a key of a recipe.{did_you_mean(key, KEYS)}", allowed=f"Allowed: {listed(KEYS)}."
        )
        for key in values
        if key not in KEYS
    ]
    faults += _text_faults(values, where)
    shown = values.get("notebook")
    notebook, found = _notebook(path, shown)
    faults += found
    sections = {name: _section(values, name, where, faults) for name in ("sizes", "expect", "budget", "inputs")}
    sizes = {DEFAULT_SIZE: {}, **sections["sizes"]}
    faults += _size_faults(sizes, notebook, f"{where}: sizes", str(shown))
    claims, more = _claims(sections["expect"], sizes, f"{where}: expect")
    faults += more + _budget_faults(sections["budget"], sizes, f"{where}: budget")
    faults += _input_faults(sections["inputs"], notebook, f"{where}: inputs", str(shown))
    cost = read_costs(values.get("cost"), notebook, f"{where}: cost", faults)
    raise_faults(faults, RecipeError)
    if notebook is None:
        raise RecipeError.of(f"{where}: notebook", "cannot be read")
    budget = {size: dict(bounds or {}) for size, bounds in sections["budget"].items()}
    return Recipe(
        path.stem, notebook, str(shown), str(values.get("about", "")).strip(), sizes, claims, budget,
        sections["inputs"], str(values.get("tier", "")), path, cost, values.get("resume", True),
    )  # fmt: skip


def _mapping(path: Path) -> dict[str, Any]:
    import yaml

    where = str(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError.of(where, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError.of(where, f"is not UTF-8 text: {error}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise RecipeError.of(f"{where}{line}", f"is not YAML: {error.problem}", "correct it there") from error
    except yaml.YAMLError as error:
        raise RecipeError.of(where, f"is not YAML: {error}", "correct it") from error
    if not isinstance(values, dict):
        kind = "empty" if values is None else f"a {type(values).__name__}"
        raise RecipeError.of(
            where, f"a recipe is a mapping of keys to values, and this is {kind}",
            "begin it with a line such as 'notebook: my_notebook.ipynb'", f"Allowed: {listed(KEYS)}.",
        )  # fmt: skip
    return values


def _text_faults(values: Mapping[str, Any], where: str) -> list[Fault]:
    faults = [
        Fault(f"{where}: {key}", f"must be text, got {values[key]!r}", "put it in quotes")
        for key in ("about", "tier")
        if not isinstance(values.get(key, ""), str)
    ]
    if not isinstance(values.get("resume", True), bool):
        faults.append(Fault(f"{where}: resume", f"must be true or false, got {values['resume']!r}"))
    return faults


def _notebook(path: Path, shown: Any) -> tuple[Notebook | None, list[Fault]]:
    where = f"{path}: notebook"
    if not isinstance(shown, str) or not shown.strip():
        what = "is missing" if shown is None else f"must be a path, got {shown!r}"
        return None, [Fault(where, what, "name the notebook that this recipe runs")]
    # A recipe beside its notebook, or in a folder beside the notebooks' folder, as in kit's own tree.
    candidates = [path.parent / shown, path.parent.absolute().parent / shown]
    there = next((candidate for candidate in candidates if candidate.is_file()), None)
    if there is None:
        folders = {candidate.parent for candidate in candidates if candidate.parent.is_dir()}
        near = sorted({file.name for folder in folders for file in folder.glob("*.ipynb")})
        allowed = f"There: {listed(near)}." if near else ""
        what = f"no such notebook: {shown}.{did_you_mean(Path(shown).name, near)}"
        return None, [
            Fault(where, what, "give its path relative to the recipe's folder or that folder's parent", allowed)
        ]
    try:
        return read_notebook(there), []
    except KitError as error:
        return None, list(error.faults)


def _section(values: Mapping[str, Any], name: str, where: str, faults: list[Fault]) -> dict[str, Any]:
    section = values.get(name)
    if section is None:
        return {}
    if not isinstance(section, dict):
        faults.append(Fault(f"{where}: {name}", f"must be a mapping, got {section!r}", "write one 'key: value' a line"))
        return {}
    return section


def _size_faults(sizes: Mapping[str, Any], notebook: Notebook | None, where: str, shown: str) -> list[Fault]:
    faults = []
    for size, values in list(sizes.items()):
        if not isinstance(values, dict):
            faults.append(
                Fault(f"{where}.{size}", f"must be a mapping of parameters, got {values!r}", "write {} for none")
            )
        elif notebook is not None:
            faults += value_faults(notebook, values, where=f"{where}.{size}", shown=shown)
    return faults


def _unknown_size(size: str, sizes: Mapping[str, Any], where: str) -> list[Fault]:
    if size in sizes:
        return []
    return [
        Fault(
            f"{where}.{size}",
            f"not a size of this recipe.{did_you_mean(size, sizes)}",
            allowed=f"Sizes: {listed(sizes)}.",
        )
    ]


def _claims(
    expect: Mapping[str, Any], sizes: Mapping[str, Any], where: str
) -> tuple[dict[str, tuple[Claim, ...]], list[Fault]]:
    claims: dict[str, tuple[Claim, ...]] = {}
    faults = []
    for size, measurements in expect.items():
        faults += _unknown_size(size, sizes, where)
        if not isinstance(measurements, dict):
            faults.append(Fault(f"{where}.{size}", f"must be a mapping of measurements, got {measurements!r}"))
            continue
        for name, bounds in measurements.items():
            place = f"{where}.{size}.{name}"
            if not isinstance(bounds, dict) or not bounds:
                faults.append(Fault(place, f"must say what is claimed, got {bounds!r}", "write {at_least: 0.15}"))
                continue
            faults += [fault for operator, bound in bounds.items() for fault in _claim_faults(place, operator, bound)]
            if not faults:
                claims[size] = claims.get(size, ()) + tuple(Claim(name, *pair) for pair in bounds.items())
    return claims, faults


def _claim_faults(place: str, operator: str, bound: Any) -> list[Fault]:
    if operator not in OPERATORS:
        what = f"not a way to claim.{did_you_mean(operator, OPERATORS)}"
        return [Fault(f"{place}.{operator}", what, allowed=f"Allowed: {listed(OPERATORS)}.")]
    if operator == "above_baseline":
        return (
            []
            if bound is True
            else [Fault(f"{place}.{operator}", f"must be true, got {bound!r}", "write true, or drop it")]
        )
    return _number_faults(f"{place}.{operator}", bound)


def _number_faults(place: str, bound: Any) -> list[Fault]:
    if isinstance(bound, int | float) and not isinstance(bound, bool):
        return []
    return [Fault(place, f"must be a number, got {bound!r}", "write it as 0.15 or 3.0e-4, without quotes")]


def _budget_faults(budget: Mapping[str, Any], sizes: Mapping[str, Any], where: str) -> list[Fault]:
    faults = []
    for size, bounds in budget.items():
        faults += _unknown_size(size, sizes, where)
        if not isinstance(bounds, dict):
            faults.append(Fault(f"{where}.{size}", f"must be a mapping, got {bounds!r}", "write {wall_s: 120}"))
            continue
        for name, bound in bounds.items():
            place = f"{where}.{size}.{name}"
            if name not in BUDGETS:
                what = f"not a budget.{did_you_mean(name, BUDGETS)}"
                faults.append(Fault(place, what, allowed=f"Allowed: {listed(BUDGETS)}."))
                continue
            faults += _number_faults(place, bound)
            if isinstance(bound, int | float) and bound <= 0:
                faults.append(Fault(place, f"must be above 0, got {bound!r}"))
    return faults


def _input_faults(inputs: Mapping[str, Any], notebook: Notebook | None, where: str, shown: str) -> list[Fault]:
    faults = []
    for name, kind in inputs.items():
        if kind not in INPUT_KINDS:
            faults.append(Fault(f"{where}.{name}", f"must be data or model, got {kind!r}"))
        if notebook is not None and notebook.parameters is not None and name not in notebook.parameters:
            what = f"not a parameter of {shown}.{did_you_mean(name, notebook.parameters)}"
            faults.append(Fault(f"{where}.{name}", what, allowed=f"Declared: {listed(notebook.parameters)}."))
    return faults

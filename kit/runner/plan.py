"""What a run will be, settled and checked before anything starts: values, inputs, digest."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.errors import Fault, KitError, RecipeError, did_you_mean, listed, raise_faults
from kit.runner import digest
from kit.runner.parameters import value_faults
from kit.runner.recipe import DEFAULT_SIZE, Recipe

if TYPE_CHECKING:
    from kit.parts.reference import Reference


@dataclass(frozen=True)
class Input:
    """One resolved source that a run builds on.

    Args:
        parameter: The parameter that names it.
        text: The source string, with paths written out.
        digest: Its content's digest.
        pinned: Whether the digest follows from content.
        origin: Where it comes from.
        licence: SPDX identifiers.
        attribution: What a report that uses it must print.
        parts: Parts of the catalogue it needs.
    """

    parameter: str
    text: str
    digest: str
    pinned: bool
    origin: str
    licence: str
    attribution: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A run before it starts.

    Args:
        recipe: The recipe.
        size: The chosen size.
        values: Parameters to inject into the notebook.
        effective: Every parameter's value, with the notebook's defaults.
        inputs: What it builds on.
        digests: The digest's ingredients and the digest itself, see ``kit.runner.digest``.
        command: The command that runs it again.
        changed: Parameters to which the user gave another value than the recipe's size has.
    """

    recipe: Recipe
    size: str
    values: Mapping[str, Any]
    effective: Mapping[str, Any]
    inputs: tuple[Input, ...]
    digests: Mapping[str, str]
    command: str
    changed: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Return the short digest that names the run's folder."""
        return self.digests["digest"][: digest.SHORT]


def make_plan(recipe: Recipe, *, target: str, size: str = DEFAULT_SIZE, given: Mapping[str, Any] | None = None) -> Plan:
    """Return the plan of a run, with its inputs resolved and fingerprinted.

    Args:
        recipe: The recipe.
        target: How the user named it, for the command that runs it again.
        size: One of the recipe's sizes.
        given: Parameter values from the command line; they win over the size's.

    Raises:
        RecipeError: an unknown size or parameter, a wrong type, an input that cannot be resolved; all at once.
    """
    given = dict(given or {})
    faults = []
    if size not in recipe.sizes:
        what = f"not a size of {recipe.name}.{did_you_mean(size, recipe.sizes)}"
        faults.append(Fault(f"--size {size}", what, allowed=f"Sizes: {listed(recipe.sizes)}."))
    faults += value_faults(recipe.notebook, given, where=f"{recipe.name}: -p ", shown=recipe.shown)
    values = {**recipe.sizes.get(size, {}), **given}
    effective = {**recipe.notebook.defaults(), **values}
    references, more = _references(recipe, effective, given)
    inputs, unknown = _fingerprints(references)
    raise_faults(faults + more + unknown, RecipeError)
    for name, reference in references.items():
        if reference.text != effective[name]:
            values[name] = effective[name] = reference.text
    rest = {name: value for name, value in effective.items() if name not in references}
    contents = [(found.parameter, f"{references[found.parameter].scheme} {found.digest}") for found in inputs]
    digests = digest.of_run(recipe.notebook, rest, contents + _files(rest))
    own = {**recipe.notebook.defaults(), **recipe.sizes.get(size, {})}
    changed = tuple(sorted(name for name, value in given.items() if value != own.get(name)))
    return Plan(recipe, size, values, effective, inputs, digests, _command(target, size, given), changed)


def _files(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what lies in the files and folders that other parameters name: a notebook of one's own reads those too.

    A file counts by its content, a folder by its files' names, sizes and times, since it may be large.
    """
    from kit.parts.wheel import file_sha256

    found = []
    for name, value in sorted(values.items()):
        path = Path(value) if isinstance(value, str) and 0 < len(value) < 1024 and "\0" not in value else None
        try:
            if path is not None and path.is_file():
                found.append((name, f"file {file_sha256(path)}"))
            elif path is not None and path.is_dir():
                files = [
                    (str(file.relative_to(path)), file.stat()) for file in sorted(path.rglob("*")) if file.is_file()
                ]
                found.append((name, f"folder {[(where, stat.st_size, stat.st_mtime_ns) for where, stat in files]}"))
        except OSError:  # a name too long for a path, or a folder that cannot be listed: not ours to read
            continue
    return found


def _references(
    recipe: Recipe, effective: Mapping[str, Any], given: Mapping[str, Any]
) -> tuple[dict[str, Reference], list[Fault]]:
    """Return the parsed source strings among the parameters, absolute, by parameter; and the faults of the others."""
    from kit.parts.reference import parse

    found: dict[str, Reference] = {}
    faults: list[Fault] = []
    for name, kind in _input_kinds(recipe, effective).items():
        if effective.get(name) is None:
            continue
        # What a recipe writes starts from its own folder; what a person types, from where they are.
        written = recipe.path is not None and name not in given and any(name in size for size in recipe.sizes.values())
        base = recipe.path.absolute().parent if written and recipe.path is not None else Path.cwd()
        try:
            found[name] = parse(effective[name], kind=kind, base=base).absolute()  # type: ignore[arg-type]
        except KitError as error:
            faults += [
                Fault(f"{recipe.name}: {name}: {fault.where}", fault.what, fault.fix, fault.allowed)
                for fault in error.faults
            ]
    return found, faults


def _input_kinds(recipe: Recipe, effective: Mapping[str, Any]) -> dict[str, str]:
    """Return which parameters are source strings: the recipe's word, or, without a recipe, what looks like one."""
    if recipe.path is not None:
        return dict(recipe.inputs)
    from kit.parts.catalog import PARTS
    from kit.parts.reference import FORMS, looks_like_reference

    kinds: dict[str, str] = {}
    for name, value in effective.items():
        if looks_like_reference(value):
            part = PARTS.get(value)
            scheme = value.partition(":")[0]
            kinds[name] = part.kind if part is not None else "data" if scheme in FORMS["data"] else "model"
    return kinds


def _fingerprints(references: Mapping[str, Reference]) -> tuple[tuple[Input, ...], list[Fault]]:
    if not references:
        return (), []
    from kit.parts.reference import fingerprint

    inputs = []
    faults: list[Fault] = []
    for name, reference in references.items():
        try:
            found = fingerprint(reference)
        except KitError as error:
            faults += error.faults
            continue
        inputs.append(
            Input(
                name,
                reference.text,
                found.digest,
                found.pinned,
                found.origin,
                found.licence,
                found.attribution,
                reference.parts,
            )
        )
    return tuple(inputs), faults


def _command(target: str, size: str, given: Mapping[str, Any]) -> str:
    words = ["kit", "run", target]
    if size != DEFAULT_SIZE:
        words += ["--size", size]
    for name, value in given.items():
        words += ["-p", f"{name}={_as_typed(value)}"]
    return shlex.join(words)


def _as_typed(value: Any) -> str:
    import json

    if isinstance(value, str):
        return value
    return json.dumps(value, default=str)

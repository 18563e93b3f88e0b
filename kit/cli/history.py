"""``kit history`` and ``kit compare``: last week's results found again, and compared."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit.errors import RunError, did_you_mean, listed

if TYPE_CHECKING:
    from kit.runner.compare import Comparison
    from kit.runner.history import Past

Out = Annotated[Path, typer.Option(metavar="FOLDER", help="The folder of runs.")]
_BOUND = re.compile(r"(\w+)\s*(<=|>=|<|>|=)\s*(\S+)")
_HOLDS: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b, "<": lambda a, b: a < b, ">": lambda a, b: a > b,
    "=": lambda a, b: a == b,
}  # fmt: skip


def show_history(
    *,
    recipe: Annotated[str | None, typer.Option(metavar="NAME", help="Runs of this recipe only.")] = None,
    size: Annotated[str | None, typer.Option(help="Runs of this size only.")] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="Runs with this parameter; may be repeated."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="'NAME>=X'", help="Runs whose measurement is so; <, <=, =, >=, >; may be repeated."),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Only runs of which a claim failed or that got worse.")
    ] = False,
    measurement: Annotated[str, typer.Option(metavar="NAME", help="What to show; each run's first by default.")] = "",
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="The newest N.")] = 20,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Read every run anew and replace the index.")] = False,
    out: Out = Path("runs"),
) -> None:
    """Show finished runs, newest first, as their RO-Crates tell of them."""
    from kit.runner.history import history

    runs = history(out, rebuild=rebuild, keep=True)
    if recipe is not None and runs and all(run.recipe != recipe for run in runs):
        known = {run.recipe for run in runs}
        hint = did_you_mean(recipe, known)
        raise RunError.of(f"--recipe {recipe}", f"no run of it.{hint}", allowed=f"Runs: {listed(known)}.")
    wanted = _filters(recipe, size, parameters or [], where or [], failed=failed)
    found = [run for run in runs if all(holds(run) for holds in wanted)]
    if not found:
        print(f"No such run among {len(runs)} in {out}.")
        return
    _table(found[:limit], measurement)
    print(f"{min(limit, len(found))} of {len(found)} runs{f' ({len(runs)} in all)' if len(found) < len(runs) else ''}")


def _filters(
    recipe: str | None, size: str | None, parameters: Sequence[str], where: Sequence[str], *, failed: bool
) -> list[Callable[[Past], bool]]:
    wanted: list[Callable[[Past], bool]] = []
    if recipe is not None:
        wanted.append(lambda run: run.recipe == recipe)
    if size is not None:
        wanted.append(lambda run: run.size == size)
    if failed:
        wanted.append(lambda run: run.passed is False)
    for pair in parameters:
        name, equals, text = pair.partition("=")
        if not equals:
            raise RunError.of(f"-p {pair}", "is not of the form name=value", "write -p rank=8")
        wanted.append(lambda run, name=name, text=text: _same(run.parameters.get(name), text))  # type: ignore[misc]
    return wanted + [_measured(text) for text in where]


def _measured(text: str) -> Callable[[Past], bool]:
    found = _BOUND.fullmatch(text.strip())
    try:
        name, sign, bound = found[1], found[2], float(found[3])  # type: ignore[index]
    except (TypeError, ValueError) as error:
        raise RunError.of(
            f"--where {text}", "is not of the form name>=number", "write --where 'accuracy>=0.9'"
        ) from error
    return lambda run: name in run.measurements and _HOLDS[sign](run.measurements[name][0], bound)


def _same(value: Any, text: str) -> bool:
    if isinstance(value, bool):
        return text.lower() == str(value).lower()
    try:
        return float(value) == float(text)
    except (TypeError, ValueError):
        return str(value) == text


def _table(runs: Sequence[Past], measurement: str) -> None:
    """Show runs with the parameters in which they differ from one another."""
    from kit.cli.gate import show_table

    of_one = {run.recipe for run in runs}
    names = list(dict.fromkeys(name for run in runs for name in run.parameters)) if len(of_one) == 1 else []
    differing = [name for name in names if len({repr(run.parameters.get(name)) for run in runs}) > 1]
    rows = []
    for run in runs:
        name = measurement or next(iter(run.measurements), "")
        verdict = {True: "PASS", False: "FAIL", None: ""}[run.passed]
        own = " ".join(f"{one}={run.parameters[one]}" for one in differing if one in run.parameters)
        cost = f"{run.wall_s:.1f} s, {run.peak_rss_gib:.2f} GiB"
        rows.append((run.started[:16].replace("T", " "), run.recipe, run.size, run.digest, verdict,
                     _shown(name, run), cost, own))  # fmt: skip
    show_table(("when (UTC)", "recipe", "size", "digest", "", "measured", "cost", "differs in"), rows)


def _shown(name: str, run: Past) -> str:
    if name not in run.measurements:
        return ""
    value, low, high, unit = run.measurements[name]
    return f"{name} {value:.4g} {unit}" + ("" if low is None else f" [{low:.4g}, {high:.4g}]")


def compare(
    old: Annotated[str, typer.Argument(metavar="RUN", help="A folder, the beginning of a digest, or a recipe.")],
    new: Annotated[str, typer.Argument(metavar="RUN", help="Another.")],
    *,
    code: Annotated[bool, typer.Option("--code", help="Also show which lines of the notebooks differ.")] = False,
    out: Out = Path("runs"),
) -> None:
    """Compare two runs: measurements with intervals of their differences, and what differed between them."""
    from kit.runner.compare import compare as side_by_side
    from kit.runner.history import find_run

    first, second = find_run(old, out), find_run(new, out)
    found = side_by_side(first.path, second.path)
    told = [f"{run.recipe} {run.digest} of {run.started[:16]}" for run in (first, second)]
    print(" → ".join(told))
    _show(found, code=code)


def _show(found: Comparison, *, code: bool) -> None:
    from kit.cli.gate import show_table

    rows = [
        (
            name,
            f"{one.old.value:.4g}",
            f"{one.new.value:.4g}",
            str(one),
            one.direction if one.clear else f"({one.direction})",
        )
        for name, one in found.measured.items()
    ]
    if rows:
        show_table(("measured", "old", "new", "difference", ""), rows)
        print(
            "Intervals take the two runs as independent; a word in brackets: zero is within, or there is no interval."
        )
    for name, which in found.only.items():
        print(f"{name}: only in the {which} run")
    if found.changed:
        show_table(("differed", "name", "old", "new"), found.changed)
    lines = [line for line in found.code if line[:1] in {"+", "-"} and not line.startswith(("+++", "---"))]
    print(f"Code: {len(lines)} lines of the notebooks differ" if lines else "Code: the same cells", end="")
    print("; kit's own sources differ." if found.kit else "; the same kit.")
    if code:
        sys.stdout.writelines(f"{line}\n" for line in found.code)

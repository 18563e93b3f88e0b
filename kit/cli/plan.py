"""``kit plan``: what a run will take, before anything starts."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit.cli.options import Out, Parameters, Size, Target
from kit.errors import RecipeError

if TYPE_CHECKING:
    from kit.runner.machines import Machine
    from kit.runner.plan import Plan
    from kit.runner.predict import Prediction
    from kit.runner.recipe import Recipe


def plan(
    target: Target,
    *,
    size: Size = "laptop",
    parameters: Parameters = None,
    machine: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="Another machine: a known one, or a file of --save-machine.")
    ] = "",
    memory: Annotated[
        float | None, typer.Option(min=0.1, metavar="GIB", help="The memory that there is, in place of what is free.")
    ] = None,
    price: Annotated[
        float | None,
        typer.Option("--price", min=0, envvar="KIT_PRICE_PER_HOUR", metavar="MONEY", help="What it costs an hour."),
    ] = None,
    small: Annotated[
        list[str] | None,
        typer.Option("--smoke", metavar="NAME=VALUE", help="Values of a small run to extrapolate from; it is run."),
    ] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Measure this machine's speed anew.")] = False,
    save_machine: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Keep this machine's speed, to plan for it elsewhere.")
    ] = None,
    out: Out = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Predict seconds, peak memory, disk, downloads and money, and refuse what cannot fit.

    A recipe's own figures and a few seconds' measurement of this machine tell it. A notebook without figures is run
    small and extrapolated. Exit code 1 means that it does not fit, 2 that the input was bad.
    """
    from kit.parts.pull import kit_home
    from kit.runner import ledger
    from kit.runner.library import find
    from kit.runner.machines import find_machine, saved, this_machine
    from kit.runner.parameters import from_command_line
    from kit.runner.plan import make_plan
    from kit.runner.predict import predict, why_not

    recipe = find(target)
    wanted = make_plan(recipe, target=target, size=size, given=from_command_line(parameters or [], recipe.notebook))
    place = find_machine(machine) if machine else this_machine(kit_home() / "plans", out, again=calibrate)
    if save_machine is not None:
        ledger.write_text(save_machine, saved(place, save_machine))
    place = dataclasses.replace(place, memory_gib=place.memory_gib if memory is None else memory)
    if price is not None:
        place = dataclasses.replace(place, price_per_hour=price, priced="as given")
    reason = why_not(wanted)
    if not reason and not small:
        found = predict(wanted, place, cached=not machine)
    elif machine:
        what = f"{reason or 'a small run was asked for'}, and small runs tell of this machine alone"
        raise RecipeError.of(f"--machine {machine}", what, "plan it on that machine")
    else:
        found = _extrapolated(wanted, place, small or [], out, reason)
    advice = _advice(found, wanted)
    if as_json:
        print(json.dumps({**_facts(wanted), **found.to_json(), **advice}, indent=1))
    else:
        _show(found, wanted, advice)
    if found.shortages:
        raise typer.Exit(1)


def _extrapolated(wanted: Plan, place: Machine, small: list[str], out: Path, reason: str) -> Prediction:
    from kit.runner.extrapolate import Trial, doubled, extrapolate, growing
    from kit.runner.parameters import from_command_line
    from kit.runner.predict import downloads

    recipe = wanted.recipe
    given = {**recipe.sizes.get("smoke", {}), **from_command_line(small, recipe.notebook)}
    if not given and wanted.effective:
        fix = "give values of a small run, such as --smoke epochs=1, that kit may run first"
        raise RecipeError.of(f"kit plan {recipe.name}", reason, fix)
    base_values = {**wanted.values, **given}
    base = Trial.of(_small_run(recipe, base_values, out))
    dials = growing(base.values, wanted.effective)
    others = {
        dial: Trial.of(_small_run(recipe, {**base_values, **doubled(base.values, wanted.effective, dial)}, out))
        for dial in dials
    }
    found = extrapolate(base, others, wanted.effective, place)
    pulled, _, unsized = downloads(wanted)
    return dataclasses.replace(found, download_gib=pulled, unsized=unsized)


def _small_run(recipe: Recipe, values: dict[str, Any], out: Path) -> Any:
    from kit.cli.progress import cell_bar
    from kit.runner.plan import make_plan
    from kit.runner.run import Hooks, run

    inputs = {name: value for name, value in values.items() if name not in recipe.inputs or isinstance(value, str)}
    with cell_bar(f"{recipe.name}, small") as on_cell:
        return run(make_plan(recipe, target=recipe.name, given=inputs), out=out, hooks=Hooks(on_cell))


def _facts(wanted: Plan) -> dict[str, Any]:
    costs = wanted.recipe.cost
    dials = {name: wanted.effective.get(name) for name in (costs.dials if costs else ())}
    return {"recipe": wanted.recipe.name, "size": wanted.size, "digest": wanted.digest, "dials": dials}


def _advice(found: Prediction, wanted: Plan) -> dict[str, Any]:
    """Return what is short, and what to take instead."""
    from kit.runner.machines import NAMED
    from kit.runner.predict import smaller

    if not found.shortages:
        return {"fits": True}
    costs = wanted.recipe.cost
    advice: dict[str, Any] = {"fits": False, "short": found.shortages}
    if "memory" in found.shortages:
        lower = smaller(costs, wanted.effective, found.machine.memory_gib) if costs else None
        advice["instead"] = lower or {}
        advice["machines"] = [name for name, one in NAMED.items() if one.memory_gib >= found.peak_gib]
    return advice


def _show(found: Prediction, wanted: Plan, advice: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from kit.runner.calibrate import QUIET

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    console.print(f"[bold]{escape(wanted.recipe.name)}[/], size {wanted.size}, on {escape(found.machine.name)}")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, side in (("what", "left"), ("predicted", "right"), ("of which", "left")):
        table.add_column(column, justify=side, overflow="fold")  # type: ignore[arg-type]
    for row in _rows(found):
        table.add_row(*row)
    console.print(table)
    notes = [f"By {found.basis}."]
    if not found.machine.measured:
        notes.append("Its speed was not measured: it counts as so many cores like the recipes' reference machine's.")
    elif found.machine.speed.busy > QUIET:
        share = f"{found.machine.speed.busy:.0%}"
        notes.append(f"Others used {share} of these cores while its speed was measured; on idle ones it takes less.")
    if found.kept:
        notes.append(f"Kept from earlier runs, and not computed again: {', '.join(found.kept)}.")
    if found.unsized:
        notes.append(f"Not known before it is asked for: the size of {', '.join(found.unsized)}.")
    for note in notes:
        console.print(note, style="dim", markup=False)
    for line in _refusal(found, advice):
        console.print(line, style="bold red", markup=False, soft_wrap=True)


def _rows(found: Prediction) -> list[tuple[str, str, str]]:
    parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in found.seconds.items() if seconds >= 0.5)
    there = f"{found.machine.memory_gib:.1f} there"
    rows = [("seconds", f"{found.wall_s:.0f} s", parts), ("peak memory", f"{found.peak_gib:.2f} GiB", there)]
    disk = "unknown" if found.disk_gib is None else f"{found.disk_gib:.2f} GiB"
    rows.append(("disk", disk, f"{found.machine.disk_gib:.0f} there"))
    rows.append(("downloads", f"{found.download_gib:.2f} GiB", "" if found.download_gib else "everything is here"))
    if found.money is not None:
        price = f"{found.machine.price_per_hour:g} an hour, {found.machine.priced}"
        rows.append(("money", f"{found.money:.4f}", price))
    return rows


def _refusal(found: Prediction, advice: dict[str, Any]) -> list[str]:
    lines = [
        f"Does not fit: {what} {needed:.2f} GiB needed, {there:.2f} there."
        for what, (needed, there) in found.shortages.items()
    ]
    if advice.get("instead"):
        words = " ".join(f"-p {name}={value}" for name, value in advice["instead"].items())
        lines.append(f"It would with: {words}")
    elif "memory" in found.shortages:
        known = ", ".join(advice["machines"]) or "none known"
        lines.append(f"No batch size or rank makes it fit. Machines that do: {known}.")
    return lines

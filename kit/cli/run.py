"""``kit run``: a recipe, a YAML file or a notebook, run as a checked report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kit.cli.options import Curves, Out, Parameters, Size, Target, draw_curves
from kit.errors import RunError

if TYPE_CHECKING:
    from kit.runner.run import Run


def run(
    target: Target,
    *,
    size: Size = "laptop",
    parameters: Parameters = None,
    force: Annotated[bool, typer.Option("--force", help="Run even if this very run is already there.")] = False,
    out: Out = Path("runs"),
    limit_s: Annotated[
        float | None,
        typer.Option(
            "--limit-s",
            min=1,
            metavar="SECONDS",
            help=r"Stop the notebook after this long. \[default: the recipe's, else 4 h]",
        ),
    ] = None,
    limit_gib: Annotated[
        float | None,
        typer.Option(
            "--limit-gib",
            min=0.1,
            metavar="GIB",
            help=r"Stop it when it and its children hold more memory. \[default: the recipe's, else none]",
        ),
    ] = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option(
            min=0,
            envvar="KIT_PRICE_PER_HOUR",
            metavar="MONEY",
            help="What this machine costs an hour; the report shows the run's price.",
        ),
    ] = None,
    curves: Curves = False,
) -> None:
    """Run a notebook, check what it shows, and write a report.

    The same run is not done twice: when notebook, parameters, inputs, kit and versions are unchanged, the
    report that is there answers. Exit code 1 means that a claim failed, 2 that the input was bad.
    """
    from kit.cli.progress import cell_bar
    from kit.runner.library import find
    from kit.runner.parameters import from_command_line
    from kit.runner.plan import make_plan
    from kit.runner.run import Hooks
    from kit.runner.run import run as carry_out

    if out.exists() and not out.is_dir():
        raise RunError.of(f"--out {out}", "is a file, not a folder", "choose another folder")
    recipe = find(target)
    draw_curves(curves, recipe.name)
    plan = make_plan(recipe, target=target, size=size, given=from_command_line(parameters or [], recipe.notebook))
    with cell_bar(plan.recipe.name) as on_cell:
        hooks = Hooks(on_cell, lambda line: print(line, file=sys.stderr, flush=True))
        limits = {"limit_s": limit_s, "limit_gib": limit_gib}
        done = carry_out(plan, out=out, force=force, price_per_hour=price_per_hour, hooks=hooks, **limits)
    show(done)
    if not done.passed:
        raise typer.Exit(1)


def show(done: Run) -> None:
    """Print what a run showed: claims, or measurements where nothing is claimed, and where the report is."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from kit.runner.run import REPORT

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    record = done.record
    if done.reused:
        console.print(
            f"Reused the run of {record['started']} (digest {record['digest']}); --force runs it again.", style="dim"
        )
    if done.verdicts:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("claim", "observed", "verdict"):
            table.add_column(column, overflow="fold")
        colours = {
            "PASS": "bold green",
            "FAIL": "bold red",
            "WORSE": "bold red",
            "over budget": "bold yellow",
            "within budget": "green",
        }
        for verdict in done.verdicts:
            colour = colours.get(verdict.label, "dim")
            table.add_row(escape(verdict.claim), escape(verdict.observed), f"[{colour}]{verdict.label}[/]")
        console.print(table)
    for worse in (one for one in done.verdicts if one.kind == "regression"):
        where = _short((done.path / worse.link).resolve())
        console.print(
            f"WORSE than the last good run: {worse.observed}. Its report: {where}",
            style="bold red",
            markup=False,
            soft_wrap=True,
        )
    claimed = {verdict.claim.split(" ")[0] for verdict in done.verdicts}
    if done.result is None:
        console.print("The notebook left no result; it would with kit.save_result(...) at its end.", style="dim")
    elif more := {name: one for name, one in done.result.measurements.items() if name not in claimed}:
        if claimed:
            console.print(f"{len(more)} more measurements are in the report.", style="dim")
        else:
            console.print(done.result.to_text(), markup=False, soft_wrap=True)
    console.print(
        f"{record['wall_s']:.1f} s, peak memory {record['peak_rss_gib']:.2f} GiB, {record['machine']['device']}",
        style="dim",
    )
    console.print(f"Report: {_short(done.path / REPORT)}", soft_wrap=True, markup=False)


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)

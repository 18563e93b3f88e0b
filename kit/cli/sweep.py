"""``kit sweep``: many runs of one recipe, side by side, ranked by what they measured."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kit.cli.options import Curves, Out, Size, Target, draw_curves
from kit.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from kit.runner.grid import Axis
    from kit.runner.recipe import Recipe
    from kit.runner.sweep import Row, Trial

SEARCHES = ("grid", "random", "halving")


@dataclass(frozen=True)
class _Search:
    """How trials are chosen, as the options say it."""

    parameters: Sequence[str]
    search: str
    trials: int
    halve: str
    keep: int
    seeds: int


def sweep(
    target: Target,
    *,
    parameters: Annotated[
        list[str],
        typer.Option("--parameter", "-p", metavar="NAME=VALUES", help="4,8,16 or 1e-4..1e-2:log:5; may be repeated."),
    ],
    metric: Annotated[
        str, typer.Option(metavar="NAME", help="What to rank by; the first measurement by default.")
    ] = "",
    size: Size = "laptop",
    search: Annotated[str, typer.Option(metavar="|".join(SEARCHES), help="Which trials to run.")] = "grid",
    trials: Annotated[int, typer.Option(min=1, metavar="N", help="How many, for random and halving.")] = 16,
    halve: Annotated[
        str, typer.Option(metavar="NAME=LOW..HIGH", help="For halving: what costs, from the first rung to the last.")
    ] = "",
    keep: Annotated[int, typer.Option(min=2, metavar="N", help="For halving: of N the best one goes on.")] = 2,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Run each with N seeds, from 0.")] = 1,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="How many run at a time, here.")] = 1,
    ray: Annotated[
        str | None, typer.Option(metavar="auto|ADDRESS", help="Run them on a Ray cluster instead (extra: ray).")
    ] = None,
    cpus: Annotated[float, typer.Option(min=0, metavar="N", help="With --ray: cores for each trial.")] = 1.0,
    gpus: Annotated[float, typer.Option(min=0, metavar="N", help="With --ray: GPUs for each trial.")] = 0.0,
    curves: Curves = False,
    out: Out = Path("runs"),
) -> None:
    """Run a recipe with many values of its parameters, and rank what they measured.

    Every trial is a run like any other: one that is there is not run again, so a sweep that was killed goes on
    where it was. Exit code 1 means that a trial failed, or measured clearly worse than the last good run with its
    parameters.
    """
    from kit.cli.sweep_live import live_trials
    from kit.runner import ray_trials
    from kit.runner.kernel import signals_end_the_run
    from kit.runner.library import find
    from kit.runner.sweep import carry_out, chosen_metric, prefixes_noted, ranked
    from kit.runner.sweep_report import Swept, write_report

    recipe = find(target)
    draw_curves(curves, recipe.name)
    chosen = _Search(parameters, search, trials, halve, keep, seeds)
    points, steps = _points(recipe, chosen)
    begun = time.monotonic()
    done: list[Trial] = []

    def carried(given: Sequence[Mapping[str, Any]]) -> list[Trial]:
        plans = _plans(recipe, target, size, given)
        where = f"on Ray, {cpus:g} cores each" if ray else f"{workers} at a time"
        _say(f"{recipe.name}: {len(plans)} trials, {where}")
        at_once = 0 if ray else workers
        with live_trials(len(plans), metric=metric, at_once=at_once, begun=begun) as on_trial:
            if ray:
                share = ray_trials.Share(cpus, gpus)
                found = ray_trials.carry_out(plans, out=out, share=share, on_trial=on_trial)
            else:
                found = carry_out(plans, out=out, workers=workers, on_trial=on_trial)
        done.extend(found)
        return found

    with (
        signals_end_the_run(),
        ray_trials.cluster(ray) if ray else nullcontext(),
        prefixes_noted(out / f".sweep-prefixes-{os.getpid()}") as prefixes,
    ):
        last = _halved(points, steps, keep, metric, carried) if steps is not None else carried(points)
        counted = prefixes()
    metric = chosen_metric(done, metric)
    rows = ranked(last, metric)
    _show(rows, metric)
    words = _command(target, metric, size, chosen)
    swept = Swept(recipe, size, metric, done, rows, counted, time.monotonic() - begun, workers, words)
    if counted.keys:
        said = f"{counted.computed:,} inputs computed once, {counted.found:,} found there"
        print(f"Frozen prefixes: {counted.keys}; {said}")
    print(f"Report: {_short(write_report(swept, out))}")
    failed, worse = [one for one in done if one.run is None], [one for one in done if one.worse]
    for trial in worse:
        _say(f"WORSE than the last good run: {_given(trial)}: {'; '.join(one.observed for one in trial.worse)}")
    if failed:
        _say(f"{len(failed)} of {len(done)} trials failed; the report says why.")
    if failed or worse:
        raise typer.Exit(1)


def _points(recipe: Recipe, chosen: _Search) -> tuple[list[dict[str, Any]], Axis | None]:
    """Return the trials' values, and for halving what costs."""
    from kit.runner.grid import drawn, grid, read_axes

    if chosen.search not in SEARCHES:
        raise RecipeError.of(f"--search {chosen.search}", f"no such search.{did_you_mean(chosen.search, SEARCHES)}")
    if (chosen.search == "halving") != bool(chosen.halve):
        raise RecipeError.of("--halve", "goes with --search halving", "write --search halving --halve steps=100..800")
    axes = read_axes(chosen.parameters, recipe.notebook)
    points = grid(axes) if chosen.search == "grid" else drawn(axes, chosen.trials, seed=0)
    if chosen.seeds > 1:
        if "seed" not in (recipe.notebook.parameters or {"seed"}):
            raise RecipeError.of(f"--seeds {chosen.seeds}", f"{recipe.shown} has no parameter seed", "declare one")
        points = [{**point, "seed": seed} for point in points for seed in range(chosen.seeds)]
    return points, read_axes([chosen.halve], recipe.notebook)[0] if chosen.halve else None


def _plans(recipe: Recipe, target: str, size: str, given: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Any]]:
    from kit.runner.plan import make_plan

    return [(one, make_plan(recipe, target=target, size=size, given=one)) for one in given]


def _halved(
    points: list[dict[str, Any]], steps: Axis, keep: int, metric: str, carried: Callable[..., list[Trial]]
) -> list[Trial]:
    """Run by successive halving and return the trials of the last rung."""
    from kit.runner.grid import halvings
    from kit.runner.sweep import chosen_metric, scores

    last: list[Trial] = []

    def score(rung: list[dict[str, Any]]) -> list[float]:
        last[:] = carried(rung)
        return scores(last, chosen_metric(last, metric))

    halvings(points, steps, keep=keep, score=score)
    return last


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _given(trial: Trial) -> str:
    return " ".join(f"{name}={value}" for name, value in trial.given.items())


def _show(rows: Sequence[Row], metric: str) -> None:
    from kit.cli.gate import show_table

    names = list(rows[0].given) if rows else []
    shown = []
    for row in rows:
        interval = "" if row.low is None else f"[{row.low:.4g}, {row.high:.4g}]"
        value = "failed" if row.value is None else f"{row.value:.4g}"
        spent = sum(one.run.record["wall_s"] for one in row.trials if one.run is not None)
        shown.append((*(str(one) for one in row.given.values()), value, interval, str(row.n), f"{spent:.1f}"))
    show_table((*names, metric, "interval", "runs", "s"), shown)


def _command(target: str, metric: str, size: str, chosen: _Search) -> str:
    words = ["kit", "sweep", target, *(word for pair in chosen.parameters for word in ("-p", pair))]
    words += ["--metric", metric, "--size", size]
    if chosen.search != "grid":
        words += ["--search", chosen.search, "--trials", str(chosen.trials)]
    if chosen.halve:
        words += ["--halve", chosen.halve, "--keep", str(chosen.keep)]
    return shlex.join([*words, *(["--seeds", str(chosen.seeds)] if chosen.seeds > 1 else [])])


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

"""A sweep as one HTML file and as JSON: the table, intervals on one axis, what was computed once, and the runs."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kit.runner.ledger import writable, write_text
from kit.runner.recipe import Recipe
from kit.runner.report import HERE, report_css
from kit.runner.run import REPORT
from kit.runner.sweep import Prefixes, Row, Trial
from kit.runner.sweep_crate import write_sweep_crate


@dataclass(frozen=True)
class Swept:
    """What a sweep's report is about.

    Args:
        recipe: The recipe.
        size: The size of its runs.
        metric: What they are ranked by.
        trials: The runs, in the order in which they were asked for.
        rows: Their table, best first.
        prefixes: What was computed of frozen prefixes.
        wall_s: Seconds of the whole sweep.
        workers: How many ran at a time.
        command: The command that runs it again.
    """

    recipe: Recipe
    size: str
    metric: str
    trials: Sequence[Trial]
    rows: Sequence[Row]
    prefixes: Prefixes
    wall_s: float
    workers: int
    command: str


def write_report(swept: Swept, out: Path) -> Path:
    """Write ``sweep.html``, ``sweep.json`` and their crate into ``sweeps/NAME-DIGEST`` of the folder of runs.

    Returns:
        The path of the page.

    Raises:
        RunError: the folder cannot be written.
    """
    digest = hashlib.sha256(swept.command.encode()).hexdigest()[:8]
    folder = out.absolute() / "sweeps" / f"{swept.recipe.name}-{digest}"
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "sweep.json", json.dumps(_record(swept, folder), indent=1, default=str))
    write_text(folder / "sweep.html", _render(swept, folder))
    write_sweep_crate(folder, recipe=swept.recipe.name, about=swept.recipe.about, command=swept.command,
                      metric=swept.metric, trials=swept.trials, wall_s=swept.wall_s)  # fmt: skip
    return folder / "sweep.html"


def _record(swept: Swept, folder: Path) -> dict[str, Any]:
    return {
        "recipe": swept.recipe.name,
        "size": swept.size,
        "metric": swept.metric,
        "command": swept.command,
        "wall_s": round(swept.wall_s, 3),
        "workers": swept.workers,
        "prefixes": asdict(swept.prefixes),
        "trials": [
            {"given": dict(one.given), "run": _link(one, folder), "error": one.error} for one in swept.trials
        ],
    }  # fmt: skip


def _link(trial: Trial, folder: Path) -> str:
    return "" if trial.run is None else Path(os.path.relpath(trial.run.path, folder)).as_posix()


def _render(swept: Swept, folder: Path) -> str:
    import jinja2
    from markupsafe import Markup

    ends = [end for row in swept.rows for end in (row.low, row.high, row.value) if end is not None]
    least, most = (min(ends), max(ends)) if ends else (0.0, 1.0)
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((HERE / "sweep.html.j2").read_text(encoding="utf-8"))
    seeds = any(row.n > 1 for row in swept.rows)
    words = (
        "The mean over seeds, from the least to the most." if seeds else "Each value with the interval of its own run."
    )
    return template.render(
        recipe=swept.recipe.name, size=swept.size, about=swept.recipe.about, metric=swept.metric,
        command=swept.command, css=Markup(report_css()), intervals=words,  # noqa: S704 - our own file
        started=dt.datetime.now(dt.UTC).strftime("%d %B %Y, %H:%M UTC").lstrip("0"),
        trials=len(swept.trials), worse=sum(bool(one.worse) for one in swept.trials),
        failed=sum(one.run is None for one in swept.trials),
        names=list(swept.rows[0].given) if swept.rows else [],
        rows=[_row(row, folder, least, most) for row in swept.rows],
        least=f"{least:.4g}", most=f"{most:.4g}", cards=_cards(swept),
    )  # fmt: skip


def _cards(swept: Swept) -> list[tuple[str, str, str]]:
    runs = [one.run for one in swept.trials if one.run is not None]
    spent_s = sum(run.record["wall_s"] for run in runs if not run.reused)
    cards = [
        (f"{swept.wall_s:.1f}", "s", f"wall time, {swept.workers} at a time"),
        (f"{spent_s:.1f}", "s", "in the runs themselves"),
        (str(sum(run.reused for run in runs)), "", "runs that were there already"),
    ]
    if swept.prefixes.keys:
        said = (
            f"inputs through {swept.prefixes.keys} frozen prefixes, computed once; {swept.prefixes.found:,} found there"
        )
        cards.append((f"{swept.prefixes.computed:,}", "", said))
    return cards


def _row(row: Row, folder: Path, least: float, most: float) -> dict[str, Any]:
    runs = [one.run for one in row.trials if one.run is not None]
    words = "" if row.low is None else f"{row.low:.4g} to {row.high:.4g}"
    return {
        "given": list(row.given.values()),
        "value": "–" if row.value is None else f"{row.value:.4g}",
        "plot": _plot(row, least, most),
        "words": words,
        "n": row.n,
        "seconds": f"{sum(run.record['wall_s'] for run in runs):.1f}",
        "links": [f"{_link(one, folder)}/{REPORT}" for one in row.trials if one.run is not None],
        "errors": [one.error for one in row.trials if one.error],
        "worse": [
            (f"{worse.claim}: {worse.observed}", f"{_link(one, folder)}/{worse.link}")
            for one in row.trials
            for worse in one.worse
        ],
    }


def _plot(row: Row, least: float, most: float) -> Mapping[str, float] | None:
    if row.value is None or row.low is None or row.high is None:
        return None
    width = (most - least) or 1.0
    ends = {"low": row.low, "high": row.high, "value": row.value}
    return {name: round(4 + 192 * (value - least) / width, 1) for name, value in ends.items()}

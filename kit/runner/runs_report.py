"""Several runs as one HTML file: what each measured on a common axis, in what they differ, and their figures."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit.errors import RunError
from kit.runner.figures import pictures
from kit.runner.history import Past, find_run
from kit.runner.ledger import writable, write_text
from kit.runner.regressions import REPORT
from kit.runner.report import HERE, report_css

_WORDS = {True: ("pass", "✓ claims hold"), False: ("fail", "✗ a claim failed"), None: ("none", "– nothing claimed")}


def write_runs_report(runs: Sequence[Past], path: Path) -> Path:
    """Write one HTML file about runs, in the order given, and return its path.

    It opens offline and holds every figure; only the links to the runs' own reports need the folder of runs.

    Raises:
        RunError: no run, or a file that cannot be written or read.
    """
    if not runs:
        raise RunError.of("report", "there is no run to report on", "kit history shows which there are")
    path = path.absolute()
    with writable(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, _render(runs, path.parent))
    return path


def runs_of_sweep(folder: Path) -> list[Past]:
    """Return the finished runs of a sweep; none where the folder is not a sweep's.

    Raises:
        RunError: a ``sweep.json`` that cannot be read.
    """
    path = folder / "sweep.json"
    if not path.is_file():
        return []
    try:
        found = [one["run"] for one in json.loads(path.read_text(encoding="utf-8"))["trials"] if one["run"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError.of(str(path), f"cannot be read: {error}", "run the sweep again; runs are kept") from error
    return [find_run(str((folder / one).resolve()), folder) for one in found]


def _render(runs: Sequence[Past], folder: Path) -> str:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string((HERE / "runs.html.j2").read_text(encoding="utf-8"))
    recipes = list(dict.fromkeys(run.recipe for run in runs))
    shown = [(_name(run), f"data:image/png;base64,{one}") for run in runs for one in pictures(run.path)]
    return template.render(
        title=f"{len(runs)} runs of {', '.join(recipes)}",
        css=Markup(report_css()),  # noqa: S704 - our own file
        runs=[_run(run, folder) for run in runs],
        measured=[_measured(name, runs) for name in dict.fromkeys(one for run in runs for one in run.measurements)],
        names=[_name(run) for run in runs],
        differing=_differing(runs),
        figures=[(name, number, source) for number, (name, source) in enumerate(shown, start=1)],
        failed=sum(run.passed is False for run in runs),
    )


def _name(run: Past) -> str:
    return f"{run.recipe} {run.digest}"


def _run(run: Past, folder: Path) -> dict[str, str]:
    kind, words = _WORDS[run.passed]
    report = Path(os.path.relpath(run.path / REPORT, folder)).as_posix()
    return {
        "name": _name(run), "size": run.size, "started": run.started[:16].replace("T", " "), "kind": kind,
        "words": words, "seconds": f"{run.wall_s:.1f}", "memory": f"{run.peak_rss_gib:.2f}", "report": report,
    }  # fmt: skip


def _measured(name: str, runs: Sequence[Past]) -> dict[str, Any]:
    """Return a measurement of all runs that have it, on one axis."""
    having = [(run, run.measurements[name]) for run in runs if name in run.measurements]
    ends = [end for _, (value, low, high, _) in having for end in (value, low, high) if end is not None]
    least, most = min(ends), max(ends)

    def place(value: float) -> float:
        return round(4 + 192 * (value - least) / ((most - least) or 1.0), 1)

    rows = []
    for run, (value, low, high, unit) in having:
        plot = None if low is None or high is None else {"low": place(low), "high": place(high), "value": place(value)}
        words = "" if low is None else f"{low:.4g} to {high:.4g}"
        rows.append({"name": _name(run), "value": f"{value:.4g}", "unit": unit, "plot": plot, "words": words})
    return {"name": name, "rows": rows, "least": f"{least:.4g}", "most": f"{most:.4g}"}


def _differing(runs: Sequence[Past]) -> list[tuple[str, str, list[str]]]:
    """Return in what the runs differ: kind, name, and each run's value."""
    kinds: dict[str, list[Any]] = {
        "run": [{"recipe": run.recipe, "size": run.size} for run in runs],
        "parameter": [run.parameters for run in runs],
        "part": [{name: digest[:12] for name, digest in run.inputs.items()} for run in runs],
        "version": [run.versions for run in runs],
        "machine": [run.machine for run in runs],
    }
    found = []
    for kind, each in kinds.items():
        for name in dict.fromkeys(name for one in each for name in one):
            values = [one.get(name) for one in each]
            if any(value != values[0] for value in values):
                words = ["–" if one is None else one if isinstance(one, str) else json.dumps(one) for one in values]
                found.append((kind, name, words))
    return found

"""What has become clearly worse since the last good run of the same recipe with the same parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kit.errors import KitError
from kit.result import Result
from kit.runner.claims import Verdict
from kit.runner.differences import differences
from kit.runner.history import Past, history

RESULT, REPORT = "result.json", "report.html"


def regressions(out: Path, record: Mapping[str, Any], result: Result | None) -> list[Verdict]:
    """Return a failed verdict for each measurement that fell clearly below the last good run's.

    Clearly: the interval of the difference leaves out zero. What has no interval of a stated coverage (seconds, the
    least and most of a few repeats) is not judged.

    Args:
        out: The folder of runs.
        record: The run's ``run.json``.
        result: Its Result.
    """
    before = None if result is None else last_good(out, record)
    old = None if before is None else read_result(before.path)
    if before is None or old is None or result is None:
        return []
    changed = differences(old.measurements, result.measurements)
    link = f"../{before.path.name}/{REPORT}"
    return [
        Verdict(
            f"{name} as good as in the last good run",
            f"{one.new.value:.4g} {one.new.unit}, {one} against {one.old.value:.4g} of {before.started[:16]}",
            passed=False,
            kind="regression",
            link=link,
        )
        for name, one in changed.items()
        if one.clear and one.direction == "worse"
    ]


def last_good(out: Path, record: Mapping[str, Any]) -> Past | None:
    """Return the newest earlier run of the same recipe, size and parameters whose claims held."""
    wanted = {name: _plain(value) for name, value in record["parameters"].items()}
    started = str(record["started"])
    for run in history(out, recipe=str(record["recipe"])):
        same = (run.size, dict(run.parameters)) == (record["size"], wanted)
        if same and run.passed and run.started < started and run.digest != record["digest"]:
            return run
    return None


def read_result(folder: Path) -> Result | None:
    """Return the Result of a run's folder; None when there is none that can be read."""
    try:
        return Result.from_json(json.loads((folder / RESULT).read_text(encoding="utf-8")), where=str(folder))
    except (OSError, ValueError, KitError):
        return None


def _plain(value: Any) -> Any:
    """Return a parameter as a crate keeps it."""
    return value if isinstance(value, int | float | str | bool) else json.dumps(value)

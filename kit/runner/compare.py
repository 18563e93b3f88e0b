"""Two runs side by side: what they measured, with intervals of the differences, and what differed between them."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.errors import RunError
from kit.runner.differences import Difference, differences
from kit.runner.execute import EXECUTED
from kit.runner.ledger import read_record
from kit.runner.regressions import read_result

_NOT_THERE = "–"


@dataclass(frozen=True)
class Comparison:
    """What an older and a newer run have in common, and what not.

    Args:
        measured: Differences of what both measured, by name.
        only: Measurements of one of the two alone, by name, and which ("old" or "new").
        changed: What differed, as (kind, name, old, new): parameters, parts, versions, machine, cost.
        code: Lines that differ between the two notebooks, as a unified diff; empty for the same code.
        kit: Whether kit's own sources differed.
    """

    measured: Mapping[str, Difference]
    only: Mapping[str, str]
    changed: tuple[tuple[str, str, str, str], ...]
    code: tuple[str, ...]
    kit: bool


def compare(old: Path, new: Path) -> Comparison:
    """Return the comparison of two runs.

    Args:
        old: The older run's folder.
        new: The newer's.

    Raises:
        RunError: a record that cannot be read, or a run that left no Result.
    """
    records = read_record(old), read_record(new)
    results = read_result(old), read_result(new)
    for folder, result in zip((old, new), results, strict=True):
        if result is None:
            raise RunError.of(str(folder), "left no result to compare", "end its notebook with kit.save_result(...)")
    before, after = (result.measurements if result else {} for result in results)
    measured = differences(before, after)
    only = {name: "old" for name in before if name not in measured} | {
        name: "new" for name in after if name not in measured
    }
    kit = records[0]["digests"]["kit"] != records[1]["digests"]["kit"]
    return Comparison(measured, only, tuple(_changed(*records)), tuple(_code(old, new)), kit)


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    kinds = {
        "run": [{name: one[name] for name in ("recipe", "size", "notebook")} for one in (old, new)],
        "parameter": [one["parameters"] for one in (old, new)],
        "part": [{found["parameter"]: f"{found['text']} {found['digest'][:12]}" for found in one["inputs"]}
                 for one in (old, new)],
        "version": [one["versions"] for one in (old, new)],
        "machine": [one["machine"] for one in (old, new)],
        "cost": [{name: one[name] for name in ("wall_s", "peak_rss_gib")} for one in (old, new)],
    }  # fmt: skip
    return [
        (kind, name, _word(before.get(name)), _word(after.get(name)))
        for kind, (before, after) in kinds.items()
        for name in [*before, *(name for name in after if name not in before)]
        if before.get(name) != after.get(name)
    ]


def _word(value: Any) -> str:
    if value is None:
        return _NOT_THERE
    return value if isinstance(value, str) else json.dumps(value)


def _code(old: Path, new: Path) -> list[str]:
    found = difflib.unified_diff(_source(old), _source(new), str(old / EXECUTED), str(new / EXECUTED), "", "", 1, "")
    return list(found)


def _source(run: Path) -> list[str]:
    """Return the lines of a run's code cells, without the cell of injected parameters."""
    try:
        cells = json.loads((run / EXECUTED).read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError) as error:
        raise RunError.of(str(run), f"has no executed notebook that can be read: {error}", "run it again") from error
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    own = [cell for cell in code if "injected-parameters" not in cell["metadata"].get("tags", [])]
    return [line for cell in own for line in ["", *"".join(cell["source"]).splitlines()]]

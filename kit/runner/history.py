"""What has been run: read from the runs' own RO-Crates, through an index that may be thrown away at any time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.errors import RunError, did_you_mean
from kit.runner.crate import CRATE
from kit.runner.ledger import RECORD, write_text

INDEX = ".history.json"
SCHEMA = 1  # of the index: any other is rebuilt


@dataclass(frozen=True)
class Past:
    """One finished run as its crate tells of it.

    Args:
        path: Its folder.
        recipe: The recipe.
        size: The size.
        digest: The short digest.
        started: When, ISO 8601 in UTC.
        wall_s: Seconds.
        peak_rss_gib: Peak memory, GiB.
        parameters: Every parameter's value by name.
        inputs: Content digest of every input by its parameter.
        measurements: Value, lower and upper end and unit by name; no ends without an interval.
        versions: Versions of libraries by name.
        machine: The machine, see ``kit.runner.machine.describe``.
        passed: Whether its claims held and nothing had become worse; None where nothing was claimed.
    """

    path: Path
    recipe: str
    size: str
    digest: str
    started: str
    wall_s: float
    peak_rss_gib: float
    parameters: Mapping[str, Any]
    inputs: Mapping[str, str]
    measurements: Mapping[str, tuple[float, float | None, float | None, str]]
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    passed: bool | None


def history(out: Path, *, recipe: str | None = None, rebuild: bool = False, keep: bool = False) -> list[Past]:
    """Return the runs of a folder, newest first. A crate that cannot be read is left out: its run is not whole.

    Args:
        out: The folder of runs.
        recipe: Of this recipe only; all by default.
        rebuild: Do not believe the index.
        keep: Write the index for the next time, where the folder can be written.
    """
    known = {} if rebuild else _index(out)
    found: dict[str, dict[str, Any]] = {}
    read = 0
    for name, folder, stamp in _folders(out, recipe):
        entry = known.get(name)
        if entry is None or entry.get("stamp") != stamp:
            entry = _entry(folder, stamp)
            read += 1
        if entry is not None:
            found[name] = entry
    if keep and recipe is None and (read or len(found) != len(known)):
        text = json.dumps({"schema": SCHEMA, "runs": found}, sort_keys=True, ensure_ascii=False)
        with suppress(RunError):  # somebody else's folder: read it all again next time
            write_text(out.absolute() / INDEX, text)
    runs = [_past(out.absolute() / name, entry) for name, entry in found.items()]
    return sorted(runs, key=lambda run: (run.started, run.digest), reverse=True)


def _index(out: Path) -> dict[str, dict[str, Any]]:
    try:
        read = json.loads((out / INDEX).read_text(encoding="utf-8"))
        runs = read["runs"] if read["schema"] == SCHEMA else {}
    except (OSError, ValueError, KeyError, TypeError):  # not there, cut off, or another program's
        return {}
    return runs if isinstance(runs, dict) and all(isinstance(entry, dict) for entry in runs.values()) else {}


def _folders(out: Path, recipe: str | None) -> Iterable[tuple[str, str, list[int]]]:
    """Give name, folder and stamp of everything that has a crate; ten thousand of them take 0.1 s."""
    for top in _below(str(out.absolute())):
        if recipe is not None and top.name != recipe:
            continue
        for folder in _below(top.path):
            with suppress(OSError):
                seen = os.stat(os.path.join(folder.path, CRATE))  # noqa: PTH116, PTH118 - pathlib takes four times as long
                yield f"{top.name}/{folder.name}", folder.path, [seen.st_mtime_ns, seen.st_size]


def _below(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((one for one in entries if one.name[0] != "." and one.is_dir()), key=lambda one: one.name)
    except OSError:
        return []


def _entry(folder: str, stamp: list[int]) -> dict[str, Any] | None:
    """Return what a crate says, as the index keeps it; None when it is no crate of a run."""
    try:
        graph = json.loads((Path(folder) / CRATE).read_text(encoding="utf-8"))["@graph"]
        by_id = {entity["@id"]: entity for entity in graph}
        return {"stamp": stamp, **_told(by_id), "passed": _passed(Path(folder))}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _told(by_id: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    run = by_id["#run"]
    recipe, _, rest = run["name"].partition(", size ")
    size, _, digest = rest.partition(", digest ")
    _, brace, machine = run["description"].rpartition(" on {")
    values = {key.partition("-")[2]: one for key, one in by_id.items() if key.startswith("#value-")}
    measured = {key.partition("-")[2]: one for key, one in by_id.items() if key.startswith("#measurement-")}
    return {
        "recipe": recipe,
        "size": size,
        "digest": digest,
        "started": run["startTime"],
        "wall_s": by_id["#wall_s"]["value"],
        "peak_rss_gib": by_id["#peak_rss_gib"]["value"],
        "parameters": {name: one["value"] for name, one in values.items()},
        "inputs": {
            key.partition("-")[2]: one.get("identifier", "") for key, one in by_id.items() if key.startswith("#input-")
        },
        "measurements": {
            name: [one["value"], one.get("minValue"), one.get("maxValue"), one["unitText"]]
            for name, one in measured.items()
        },
        "versions": {
            one["name"]: one["softwareVersion"] for one in by_id.values() if one.get("@type") == "SoftwareApplication"
        },
        "machine": json.loads("{" + machine) if brace else {},
    }


def _passed(folder: Path) -> bool | None:
    claims = json.loads((folder / RECORD).read_text(encoding="utf-8"))["claims"]
    judged = [claim["passed"] for claim in claims if claim["kind"] in {"claim", "regression"}]
    return all(judged) if judged else None


def _past(path: Path, entry: Mapping[str, Any]) -> Past:
    rest = {name: value for name, value in entry.items() if name not in {"stamp", "measurements"}}
    return Past(path=path, measurements={name: tuple(one) for name, one in entry["measurements"].items()}, **rest)


def find_run(text: str, out: Path) -> Past:
    """Return the run that ``text`` names: its folder, the beginning of its digest, or a recipe's newest run.

    Raises:
        RunError: none, or more than one.
    """
    folder = Path(text).expanduser()
    runs = history(folder.absolute().parents[1] if (folder / CRATE).is_file() else out)
    if (folder / CRATE).is_file():
        matching = [run for run in runs if run.path == folder.absolute()]
    else:
        matching = [run for run in runs if run.digest.startswith(text)] or [r for r in runs if r.recipe == text][:1]
    if len(matching) == 1:
        return matching[0]
    if matching:
        many = ", ".join(f"{run.recipe}/{run.digest}" for run in matching[:5])
        raise RunError.of(text, f"names {len(matching)} runs: {many}", "write more of the digest")
    hint = did_you_mean(text, {*(run.digest for run in runs), *(run.recipe for run in runs)})
    raise RunError.of(text, f"no such run in {out}.{hint}", "kit history shows which there are")

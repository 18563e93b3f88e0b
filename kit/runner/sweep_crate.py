"""The provenance record of a sweep: a Process Run Crate, beside those of its runs."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit.runner.crate import CRATE, TERMS, entity, file_digest, media_type, property_value
from kit.runner.ledger import write_text
from kit.runner.sweep import Trial

PROCESS = "https://w3id.org/ro/wfrun/process/0.5"


def write_sweep_crate(
    folder: Path, *, recipe: str, about: str, command: str, metric: str, trials: Sequence[Trial], wall_s: float
) -> None:
    """Write ``ro-crate-metadata.json`` about a sweep's table and page; each run has its own crate.

    Args:
        folder: The sweep's folder, with its other files in place.
        recipe: The recipe's name.
        about: What the recipe is about.
        command: The command that runs the sweep again.
        metric: What the trials are ranked by.
        trials: The trials.
        wall_s: Seconds of the whole sweep, which has just ended.

    Source:
        Leo et al. (2024), Recording provenance of workflow runs with RO-Crate, arXiv:2312.07852.
    """
    from rocrate.rocrate import ROCrate

    ended = dt.datetime.now(dt.UTC)
    crate = ROCrate(version="1.1")
    crate.metadata.extra_terms.update(TERMS)
    crate.name, crate.description = f"Sweep of {recipe}", about or f"{len(trials)} runs of {recipe}"
    crate.datePublished = ended
    crate.license = "Not stated by the person who ran it; inputs keep their own licences"
    profile = {"name": "Process Run Crate", "version": "0.5"}
    crate.root_dataset["conformsTo"] = [entity(crate, PROCESS, "CreativeWork", **profile)]
    action = entity(
        crate, "#sweep", "CreateAction", name=f"{len(trials)} runs of {recipe}", description=command,
        startTime=(ended - dt.timedelta(seconds=wall_s)).isoformat(timespec="milliseconds"),
        endTime=ended.isoformat(timespec="milliseconds"),
        actionStatus="http://schema.org/CompletedActionStatus",
    )  # fmt: skip
    action["agent"] = entity(crate, "#person", "Person", name="The person who ran it")
    action["instrument"] = _software(crate)
    action["result"] = [*_files(crate, folder), *_results(crate, trials, metric)]
    crate.root_dataset["mentions"] = action
    write_text(folder / CRATE, json.dumps(crate.metadata.generate(), indent=1, sort_keys=True, ensure_ascii=False))


def _software(crate: Any) -> Any:
    from importlib.metadata import version

    url, named = "https://pypi.org/project/multimodal-kit/", version("multimodal-kit")
    return entity(crate, url, "SoftwareApplication", name="kit sweep", softwareVersion=named, url=url)


def _files(crate: Any, folder: Path) -> list[Any]:
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != "." and path.name != CRATE)
    return [
        crate.add_file(
            path, path.name, properties={
                "name": path.name, "encodingFormat": media_type(path), "contentSize": str(path.stat().st_size),
                "sha256": file_digest(path),
            },
        )
        for path in paths
    ]  # fmt: skip


def _results(crate: Any, trials: Sequence[Trial], metric: str) -> list[Any]:
    """Add what each trial measured, under its run's digest."""
    found = []
    for trial in trials:
        measured = trial.measured(metric)
        if trial.run is None or measured is None:
            continue
        digest = trial.run.record["digest"]
        bounds = {} if measured.low is None else {"minValue": measured.low, "maxValue": measured.high}
        given = " ".join(f"{name}={value}" for name, value in trial.given.items())
        found.append(property_value(crate, f"#{digest}", metric, measured.value, unitText=measured.unit,
                            description=f"{given}; run {digest}", **bounds))  # fmt: skip
    return found

"""The provenance record of a run: a Workflow Run RO-Crate, which other tools can read."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import mimetypes
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kit.result import Measurement, Result
from kit.runner.ledger import write_text

CRATE = "ro-crate-metadata.json"
WORKFLOW = "executed.ipynb"
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
# The two terms that we use from https://w3id.org/ro/terms/workflow-run/context, written out, so that a reader
# without a network understands them.
TERMS = {
    "sha256": "https://w3id.org/ro/terms/workflow-run#sha256",
    "resourceUsage": {"@id": "https://w3id.org/ro/terms/workflow-run#resourceUsage", "@type": "@id"},
}
_NBFORMAT = "https://nbformat.readthedocs.io/en/latest/format_description.html"
_TYPES = {"bool": "Boolean", "int": "Integer", "float": "Float", "str": "Text"}


def write_crate(folder: Path, record: Mapping[str, Any], result: Result | None) -> None:
    """Write ``ro-crate-metadata.json`` about everything that is in a run's folder.

    Args:
        folder: The run's folder, with all its other files in place.
        record: Its ``run.json``.
        result: Its Result; None when it has none.

    Source:
        Leo et al. (2024), Recording provenance of workflow runs with RO-Crate, arXiv:2312.07852.
    """
    from rocrate.rocrate import ROCrate

    crate = ROCrate(version="1.1")
    crate.metadata.extra_terms.update(TERMS)
    _root(crate, record)
    files = _files(crate, folder, record)
    measured = [_measured(crate, name, found) for name, found in (result.measurements if result else {}).items()]
    action = entity(crate, "#run", "CreateAction", **_when(record))
    action["instrument"] = crate.mainEntity
    action["agent"] = entity(crate, "#person", "Person", name="The person who ran it")
    action["object"] = [*_parameters(crate, record), *_inputs(crate, record)]
    action["result"] = [*files, *measured]
    action["resourceUsage"] = [
        property_value(crate, f"#{name}", name, record[name], unitText=unit)
        for name, unit in (("wall_s", "s"), ("peak_rss_gib", "GiB"))
    ]
    crate.mainEntity["softwareRequirements"] = _software(crate, record)
    crate.root_dataset["mentions"] = action
    write_text(folder / CRATE, json.dumps(crate.metadata.generate(), indent=1, sort_keys=True, ensure_ascii=False))


def entity(crate: Any, identifier: str, kind: str, /, **properties: Any) -> Any:
    """Add a contextual entity to a crate, and return it."""
    from rocrate.model import ContextEntity

    return crate.add(ContextEntity(crate, identifier, properties={"@type": kind, **properties}))


def property_value(crate: Any, identifier: str, name: str, value: Any, /, **properties: Any) -> Any:
    """Add a named value to a crate, and return it; what is no plain value is written as JSON."""
    plain = value if isinstance(value, int | float | str | bool) else json.dumps(value)
    return entity(crate, identifier, "PropertyValue", name=name, value=plain, **properties)


def _root(crate: Any, record: Mapping[str, Any]) -> None:
    crate.name = f"{record['recipe']}, size {record['size']}"
    crate.description = record["about"] or f"One run of {record['notebook']}"
    crate.datePublished = dt.datetime.fromisoformat(record["started"])
    licences = sorted({found["licence"] for found in record["inputs"] if found["licence"]})
    crate.license = " AND ".join(licences) or "Not stated by the person who ran it; inputs keep their own licences"
    profiles = [
        entity(crate, url, "CreativeWork", name=name, version=version) for url, (name, version) in PROFILES.items()
    ]
    crate.root_dataset["conformsTo"] = profiles


def _when(record: Mapping[str, Any]) -> dict[str, Any]:
    started = dt.datetime.fromisoformat(record["started"])
    return {
        "name": f"{record['recipe']}, size {record['size']}, digest {record['digest']}",
        "description": f"{record['command']} on {json.dumps(record['machine'])}",
        "startTime": started.isoformat(),
        "endTime": (started + dt.timedelta(seconds=record["wall_s"])).isoformat(timespec="milliseconds"),
        "actionStatus": "http://schema.org/CompletedActionStatus",
    }


def _files(crate: Any, folder: Path, record: Mapping[str, Any]) -> list[Any]:
    """Add every file of the run; the executed notebook is the workflow, the others are what it made."""
    from rocrate.model.computationalworkflow import ComputationalWorkflow
    from rocrate.model.computerlanguage import ComputerLanguage

    jupyter = {"name": "Jupyter notebook", "identifier": {"@id": _NBFORMAT}, "url": {"@id": "https://jupyter.org/"}}
    language = crate.add(ComputerLanguage(crate, "#jupyter", properties=jupyter))
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name == CRATE or path.name.startswith("."):
            continue
        properties: dict[str, Any] = {
            "name": name,
            "encodingFormat": media_type(path),
            "contentSize": str(path.stat().st_size),
            "sha256": file_digest(path),
        }
        if name == WORKFLOW:
            properties |= {
                "name": f"{record['notebook']}, executed",
                "version": record["digest"],
                "conformsTo": {"@id": "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"},
            }
            crate.add_workflow(path, name, properties=properties, main=True, lang=language, cls=ComputationalWorkflow)
        else:
            found.append(crate.add_file(path, name, properties=properties))
    return found


def media_type(path: Path) -> str:
    """Return a file's media type by its name."""
    if path.suffix == ".ipynb":
        return "application/x-ipynb+json"
    return mimetypes.guess_type(path.name)[0] or "application/octet-stream"


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _parameters(crate: Any, record: Mapping[str, Any]) -> list[Any]:
    """Add each parameter twice, as the profile asks: what the notebook takes, and what this run gave."""
    formal, actual = [], []
    for name, value in record["parameters"].items():
        kind = _TYPES.get(type(value).__name__, "Text")
        slot = entity(crate, f"#parameter-{name}", "FormalParameter", name=name, additionalType=kind)
        given = property_value(crate, f"#value-{name}", name, value)
        slot["workExample"], given["exampleOfWork"] = given, slot
        slot["conformsTo"] = {"@id": "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"}
        formal.append(slot)
        actual.append(given)
    crate.mainEntity["input"] = formal
    return actual


def _inputs(crate: Any, record: Mapping[str, Any]) -> list[Any]:
    found = []
    for given in record["inputs"]:
        properties = {
            "name": given["text"],
            "identifier": given["digest"],
            "description": f"{given['origin']}, named by the parameter {given['parameter']}",
            "license": given["licence"],
            "creditText": given["attribution"],
        }
        kept = {name: value for name, value in properties.items() if value}
        found.append(entity(crate, f"#input-{given['parameter']}", "CreativeWork", **kept))
    return found


def _measured(crate: Any, name: str, found: Measurement) -> Any:
    bounds = {} if found.low is None else {"minValue": found.low, "maxValue": found.high}
    return property_value(
        crate, f"#measurement-{name}", name, found.value,
        unitText=found.unit, description=f"{found}; {found.method}".rstrip("; "), **bounds,
    )  # fmt: skip


def _software(crate: Any, record: Mapping[str, Any]) -> list[Any]:
    return [
        entity(
            crate, f"https://pypi.org/project/{name}/{version}/", "SoftwareApplication", name=name,
            softwareVersion=version, url=f"https://pypi.org/project/{name}/{version}/",
        )
        for name, version in record["versions"].items()
        if version
    ]  # fmt: skip

"""The digest of a run: what went into it, so that nothing is run again whose inputs did not change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import kit
from kit.runner.machine import device_type, digested
from kit.runner.notebook import Notebook

SHORT = 12


def of_run(notebook: Notebook, parameters: Mapping[str, Any], inputs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return what a run's digest is made of, each as its own hash, and the ``digest`` of them all.

    Args:
        notebook: The notebook; its outputs, metadata and execution counts do not count.
        parameters: Every effective parameter by name.
        inputs: Parameter name and content digest of every input.

    Returns:
        Hexadecimal SHA-256 by ingredient: notebook, parameters, kit, inputs, versions, device, and ``digest``.
    """
    ingredients = {
        "notebook": _of_json([[cell.get("cell_type"), cell["source"], _tags(cell)] for cell in notebook.cells]),
        "parameters": _of_json(dict(parameters)),
        "kit": of_sources(Path(kit.__file__).parent),
        "inputs": _of_json(sorted(inputs)),
        "versions": _of_json(digested()),
        "device": _of_json(device_type()),
    }
    return {**ingredients, "digest": _of_json(ingredients)}


def of_sources(package: Path) -> str:
    """Return one hash of all Python sources of a package: their paths and contents."""
    digest = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*.py") if "__pycache__" not in path.parts):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _tags(cell: Mapping[str, Any]) -> list[str]:
    return sorted(map(str, cell.get("metadata", {}).get("tags", [])))


def _of_json(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()

"""A study as YAML: read with all faults at once, written whole with its pictures and sounds beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from kit.data.picture import Picture
from kit.humaneval.answered import Asked
from kit.humaneval.errors import StudyError
from kit.humaneval.items import Item
from kit.humaneval.reading import Reading
from kit.humaneval.study import Study

FILE = "study.yaml"
KEYS = frozenset(spec.name for spec in dataclasses.fields(Study)) - {"source"} | {"outputs"}
NEEDED = {
    "question": "Which is better?", "conditions": "[base, adapted]", "raters": "[ana, ben]", "items": "items.jsonl",
}  # fmt: skip


def read_study(path: Path) -> Study:
    """Return the study that a YAML file writes down.

    The keys are ``Study``'s fields; ``name`` may be left out (the file's stem, or the folder's name for
    ``study.yaml``). ``items`` and ``gold`` are lists, or the path of a JSONL file with one item a line. An output is
    a text, or one of ``{picture: PATH}`` and ``{audio: PATH}``. Instead of inside the items, outputs can come from
    ``outputs``: for each condition a JSONL file with lines such as ``{"id": "cat", "text": "A cat."}``, or
    ``bundle:FOLDER`` (or ``{bundle: FOLDER, tokens: 64}``, or ``{bundle: FOLDER, pictures: FOLDER}``), whose answers
    are kept beside the study (``answered.py``). Paths are relative to the file.

    Raises:
        StudyError: anything wrong in it; all faults at once.
    """
    return _study(path, Reading(str(path), path.parent))


def asked_of(path: Path) -> tuple[tuple[Item, ...], tuple[Asked, ...]]:
    """Return what the study of a YAML file asks, and the conditions whose outputs come from bundles.

    Raises:
        StudyError: anything wrong in it, but for answers that bundles have not given yet; all faults at once.
    """
    reading = Reading(str(path), path.parent, asking=True)
    study = _study(path, reading)
    return study.items, tuple(reading.bundles)


def _study(path: Path, reading: Reading) -> Study:
    values = _mapping(path)
    reading.unknown("", values, KEYS)
    fields = {key: value for key, value in values.items() if key in KEYS - {"outputs", "items", "gold", "stop"}}
    fields.setdefault("name", path.absolute().parent.name if path.name == FILE else path.stem)
    for key, example in NEEDED.items():
        if values.get(key) is None:
            reading.say(key, "is missing", f"write {key}: {example}")
    fields["question"] = values.get("question", "")
    fields |= {key: reading.names(key, values.get(key)) for key in ("conditions", "raters")}
    fields["rubric"] = reading.rubric(values.get("rubric"))
    outputs = reading.outputs(values.get("outputs"), fields["conditions"])
    fields["items"] = reading.items("items", values.get("items"), outputs)
    reading.unanswered(fields["items"])
    fields["gold"] = reading.items("gold", values.get("gold"), {})
    fields["stop"] = reading.stop(values.get("stop"))
    try:
        study = Study(**fields, source=reading.where)
    except StudyError as error:
        raise StudyError([*reading.faults, *reading.news(error.faults)]) from None
    if reading.faults:
        raise StudyError(reading.faults)
    return study


def write_study(study: Study, folder: Path) -> Path:
    """Write ``study.yaml`` into a folder, its pictures and sounds under their hashes beside it, and return its path.

    The names of the files tell nothing about who made them.

    Raises:
        StudyError: the folder cannot be written.
    """
    import yaml

    try:
        folder.mkdir(parents=True, exist_ok=True)
        values: dict[str, Any] = {key: value for key, value in study.protocol().items() if value not in ({}, None)}
        values["items"] = [_item_values(item, folder) for item in study.items]
        if study.gold:
            values["gold"] = [_item_values(item, folder) for item in study.gold]
        text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
        (folder / FILE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StudyError.of(str(folder), f"cannot be written: {error.strerror}", "choose another folder") from error
    return folder / FILE


def _item_values(item: Item, folder: Path) -> dict[str, Any]:
    values: dict[str, Any] = {"id": item.id, "prompt": item.prompt}
    values |= _files(item.picture, item.audio, folder)
    values["outputs"] = {
        name: output.text if output.kind == "text" else _files(output.picture, output.audio, folder)
        for name, output in item.outputs.items()
    }
    return values


def _files(picture: Picture | None, audio: Path | None, folder: Path) -> dict[str, str]:
    found = {}
    if picture is not None:
        found["picture"] = _stored(picture.read(), picture.path or Path(picture.name), folder)
    if audio is not None:
        found["audio"] = _stored(audio.read_bytes(), audio, folder)
    return found


def _stored(content: bytes, path: Path, folder: Path) -> str:
    import hashlib

    name = f"media/{hashlib.sha256(content).hexdigest()[:32]}{path.suffix.lower()}"
    (folder / "media").mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return name


def _mapping(path: Path) -> dict[str, Any]:
    import yaml

    where = str(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError.of(where, f"cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise StudyError.of(f"{where}{line}", f"is not YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(values, dict):
        what = f"a study is a mapping of keys to values, and this is {'empty' if values is None else repr(values)[:40]}"
        raise StudyError.of(where, what, "begin it with a line such as 'question: Which is better?'")
    return values

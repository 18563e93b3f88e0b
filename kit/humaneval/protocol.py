"""A study as YAML: read with all faults at once, written whole with its pictures and sounds beside it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.data.picture import Picture
from kit.errors import Fault, did_you_mean, listed
from kit.humaneval.errors import StudyError
from kit.humaneval.items import Item, Output
from kit.humaneval.study import Stop, Study

FILE = "study.yaml"
KEYS = frozenset(spec.name for spec in dataclasses.fields(Study)) - {"source"} | {"outputs"}
NEEDED = {
    "question": "Which is better?", "conditions": "[base, adapted]", "raters": "[ana, ben]", "items": "items.jsonl",
}  # fmt: skip
ITEM_KEYS = frozenset({"id", "prompt", "picture", "audio", "outputs"})
OUTPUT_KEYS = frozenset({"text", "picture", "audio"})
STOP_KEYS = frozenset(spec.name for spec in dataclasses.fields(Stop))


def read_study(path: Path) -> Study:
    """Return the study that a YAML file writes down.

    The keys are ``Study``'s fields; ``name`` may be left out (the file's stem, or the folder's name for
    ``study.yaml``). ``items`` and ``gold`` are lists, or the path of a JSONL file with one item a line. An output is
    a text, or one of ``{picture: PATH}`` and ``{audio: PATH}``. Instead of inside the items, outputs can come from
    ``outputs``: for each condition a JSONL file with lines such as ``{"id": "cat", "text": "A cat."}``. Paths are
    relative to the file.

    Raises:
        StudyError: anything wrong in it; all faults at once.
    """
    where = str(path)
    reading = _Reading(where, path.parent)
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
    fields["gold"] = reading.items("gold", values.get("gold"), {})
    fields["stop"] = reading.stop(values.get("stop"))
    try:
        study = Study(**fields, source=where)
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


@dataclass
class _Reading:
    """Values as the file has them become values as a study has them; what is wrong is kept."""

    where: str
    folder: Path
    faults: list[Fault] = field(default_factory=list)
    places: set[str] = field(default_factory=set)

    def say(self, place: str, what: str, fix: str = "", allowed: str = "") -> None:
        self.faults.append(Fault(f"{self.where}: {place}", what, fix, allowed))
        self.places.add(f"{self.where}: {place}")

    def news(self, faults: Sequence[Fault]) -> list[Fault]:
        """Return the faults that do not follow from what could not be read and is empty by now."""
        lost = any(place.startswith(f"{self.where}: outputs") for place in self.places)
        emptied = {place.rpartition(".")[0] for place in self.places if ".outputs." in place}  # by a misspelled key
        kept = [one for one in faults if not one.where.startswith(tuple(self.places)) and one.where not in emptied]
        return [fault for fault in kept if not (lost and fault.where.endswith(".outputs"))]

    def unknown(self, place: str, values: Mapping[str, Any], allowed: frozenset[str]) -> None:
        for key in values:
            if key not in allowed:
                dotted = f"{place}.{key}" if place else str(key)
                self.say(dotted, f"not a key here.{did_you_mean(key, allowed)}", allowed=f"Allowed: {listed(allowed)}.")

    def names(self, place: str, values: Any) -> tuple[Any, ...]:
        if not isinstance(values, list | None):
            self.say(place, f"must be a list of names, got {values!r}", "write [first, second]")
            return ()
        for value in values or ():
            if not isinstance(value, str):
                self.say(place, f"{value!r} is no name", "put it in quotes")
        return tuple(value for value in values or () if isinstance(value, str))

    def rubric(self, values: Any) -> dict[str, tuple[str, ...]]:
        if values is None:
            return {}
        if not isinstance(values, dict):
            self.say("rubric", f"must be a mapping, got {values!r}", "write {helpful: 5}")
            return {}
        found = {}
        for name, labels in values.items():
            if isinstance(labels, int) and not isinstance(labels, bool) and 2 <= labels <= 101:
                found[name] = tuple(str(point) for point in range(1, labels + 1))
            elif isinstance(labels, list):
                found[name] = tuple(map(str, labels))
            else:
                self.say(f"rubric.{name}", f"must be labels or a number of points, got {labels!r}", "write 5, say")
        return found

    def stop(self, values: Any) -> Stop:
        if isinstance(values, dict):
            self.unknown("stop", values, STOP_KEYS)
            return Stop(**{key: value for key, value in values.items() if key in STOP_KEYS})
        if values is not None:
            self.say("stop", f"must be a mapping, got {values!r}", "write {alpha: 0.05, rope: 0.05}")
        return Stop()

    def items(self, place: str, values: Any, outputs: Mapping[str, Mapping[str, Any]]) -> tuple[Item, ...]:
        found = []
        for number, value in self.lines(place, values):
            here = f"{place}.{value['id']}" if isinstance(value, dict) and "id" in value else f"{place}[{number}]"
            if not isinstance(value, dict) or not isinstance(value.get("id"), str):
                self.say(here, f"needs an id that is text, got {str(value)[:60]!r}", "write {id: cat, prompt: …}")
                continue
            self.unknown(here, value, ITEM_KEYS)
            own = value.get("outputs") or {}
            if not isinstance(own, dict):
                self.say(f"{here}.outputs", f"must be a mapping by condition, got {own!r}")
                own = {}
            from_files = {name: lines[value["id"]] for name, lines in outputs.items() if value["id"] in lines}
            made = {name: self.output(f"{here}.outputs.{name}", one) for name, one in {**from_files, **own}.items()}
            picture, audio = self.path(f"{here}.picture", value), self.path(f"{here}.audio", value)
            prompt = str(value.get("prompt") or "")
            found.append(Item(value["id"], made, prompt, Picture.at(picture) if picture else None, audio))
        return tuple(found)

    def outputs(self, values: Any, conditions: Sequence[str]) -> dict[str, dict[str, Any]]:
        if values is not None and not isinstance(values, dict):
            self.say("outputs", f"must be a mapping by condition, got {values!r}", "write {base: base.jsonl}")
        found: dict[str, dict[str, Any]] = {}
        for name, file in (values if isinstance(values, dict) else {}).items():
            if conditions and name not in conditions:
                what = f"not a condition of the study.{did_you_mean(str(name), conditions)}"
                self.say(f"outputs.{name}", what, allowed=f"Conditions: {listed(conditions)}.")
                continue
            lines = found.setdefault(name, {})
            for number, line in self.lines(f"outputs.{name}", file):
                if not isinstance(line, dict) or not isinstance(line.get("id"), str):
                    self.say(f"outputs.{name}[{number}]", f"needs an id that is text, got {str(line)[:60]!r}")
                elif line["id"] in lines:
                    self.say(f"outputs.{name}[{number}]", f"{line['id']!r} is there twice")
                else:
                    lines[line["id"]] = {key: value for key, value in line.items() if key != "id"}
        return found

    def output(self, place: str, value: Any) -> Output:
        if isinstance(value, str):
            return Output(value)
        if not isinstance(value, dict):
            self.say(place, f"must be text or a mapping, got {value!r}", "put text in quotes, or write {picture: PATH}")
            return Output()
        self.unknown(place, value, OUTPUT_KEYS)
        picture, audio = self.path(f"{place}.picture", value), self.path(f"{place}.audio", value)
        return Output(str(value.get("text") or ""), Picture.at(picture) if picture else None, audio)

    def path(self, place: str, values: Mapping[str, Any]) -> Path | None:
        value = values.get(place.rpartition(".")[2])
        if value is not None and not isinstance(value, str):
            self.say(place, f"must be a path, got {value!r}")
        return self.folder / value if isinstance(value, str) else None

    def lines(self, place: str, values: Any) -> Iterator[tuple[int, Any]]:
        """Give entries with their numbers: a list's, or those of a JSONL file."""
        if isinstance(values, Sequence) and not isinstance(values, str):
            yield from enumerate(values, start=1)
        elif isinstance(values, str):
            yield from self.json_lines(place, self.folder / values)
        elif values is not None:
            self.say(place, f"must be a list, or the path of a JSONL file, got {values!r}")

    def json_lines(self, place: str, path: Path) -> Iterator[tuple[int, Any]]:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self.say(place, f"{path} cannot be read: {getattr(error, 'strerror', None) or error}")
            return
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except ValueError as error:
                self.say(f"{place}, line {number} of {path}", f"is not JSON: {error}")

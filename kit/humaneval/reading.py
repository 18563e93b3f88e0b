"""Values as a study's YAML has them become values as a study has them; everything that is wrong is kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.data.picture import Picture
from kit.errors import Fault, did_you_mean, listed
from kit.humaneval.answered import TOKENS, Asked, key_of, with_kept
from kit.humaneval.items import Item, Output
from kit.humaneval.study import Stop

ITEM_KEYS = frozenset({"id", "prompt", "picture", "audio", "outputs"})
OUTPUT_KEYS = frozenset({"text", "picture", "audio"})
BUNDLE_KEYS = frozenset({"bundle", "pictures", "tokens"})
YET = "not answered yet"
STOP_KEYS = frozenset(spec.name for spec in dataclasses.fields(Stop))


@dataclass
class Reading:
    """What one file says.

    Args:
        where: The file, for messages.
        folder: What its paths are relative to.
        asking: Whether it is read to ask bundles: what they have not answered yet is no fault then.
    """

    where: str
    folder: Path
    asking: bool = False
    faults: list[Fault] = field(default_factory=list)
    places: set[str] = field(default_factory=set)
    bundles: list[Asked] = field(default_factory=list)

    def say(self, place: str, what: str, fix: str = "", allowed: str = "") -> None:
        """Keep what is wrong at a place of the file."""
        self.faults.append(Fault(f"{self.where}: {place}", what, fix, allowed))
        self.places.add(f"{self.where}: {place}")

    def news(self, faults: Sequence[Fault]) -> list[Fault]:
        """Return the faults that do not follow from what could not be read and is empty by now."""
        lost = any(place.startswith(f"{self.where}: outputs") for place in self.places)
        emptied = {place.rpartition(".")[0] for place in self.places if ".outputs." in place}  # by a misspelled key
        kept = [one for one in faults if not one.where.startswith(tuple(self.places)) and one.where not in emptied]
        return [fault for fault in kept if not (lost and fault.where.endswith(".outputs"))]

    def unknown(self, place: str, values: Mapping[str, Any], allowed: frozenset[str]) -> None:
        """Keep which keys there should not be."""
        for key in values:
            if key not in allowed:
                dotted = f"{place}.{key}" if place else str(key)
                self.say(dotted, f"not a key here.{did_you_mean(key, allowed)}", allowed=f"Allowed: {listed(allowed)}.")

    def names(self, place: str, values: Any) -> tuple[Any, ...]:
        """Return a list of names."""
        if not isinstance(values, list | None):
            self.say(place, f"must be a list of names, got {values!r}", "write [first, second]")
            return ()
        for value in values or ():
            if not isinstance(value, str):
                self.say(place, f"{value!r} is no name", "put it in quotes")
        return tuple(value for value in values or () if isinstance(value, str))

    def rubric(self, values: Any) -> dict[str, tuple[str, ...]]:
        """Return a rubric: each criterion's labels, from worst to best."""
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
        """Return the stopping rule."""
        if isinstance(values, dict):
            self.unknown("stop", values, STOP_KEYS)
            return Stop(**{key: value for key, value in values.items() if key in STOP_KEYS})
        if values is not None:
            self.say("stop", f"must be a mapping, got {values!r}", "write {alpha: 0.05, rope: 0.05}")
        return Stop()

    def items(self, place: str, values: Any, outputs: Mapping[str, Mapping[str, Any]]) -> tuple[Item, ...]:
        """Return the items that a list or a file has, with their outputs."""
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
            given = {name: lines[value["id"]] for name, lines in outputs.items() if value["id"] in lines}
            picture, audio = self.path(f"{here}.picture", value), self.path(f"{here}.audio", value)
            prompt = str(value.get("prompt") or "")
            item = Item(value["id"], {}, prompt, Picture.at(picture) if picture else None, audio)
            if self.bundles and place == "items" and not list(item.faults(here, ())):
                key = key_of(item)
                given |= {one.condition: one.answers[key] for one in self.bundles if key in one.answers}
                given |= {one.condition: YET for one in self.bundles if self.asking and key not in one.answers}
            made = {name: self.output(f"{here}.outputs.{name}", one) for name, one in {**given, **own}.items()}
            found.append(dataclasses.replace(item, outputs=made))
        return tuple(found)

    def unanswered(self, items: Sequence[Item]) -> None:
        """Say which bundles were not asked yet."""
        for one in self.bundles:
            if missing := sum(one.condition not in item.outputs for item in items):
                what = f"{one.bundle} has not answered {missing} of {len(items)} items"
                self.say(f"outputs.{one.condition}", what, f"kit study check {self.where} asks it, once")

    def bundle(self, name: str, values: Mapping[str, Any]) -> None:
        """Take a condition's bundle, with what it answered already."""
        place = f"outputs.{name}"
        self.unknown(place, values, BUNDLE_KEYS)
        bundle, pictures = self.path(f"{place}.bundle", values), self.path(f"{place}.pictures", values)
        tokens = values.get("tokens", TOKENS)
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
            self.say(f"{place}.tokens", f"must be a whole number of at least 1, got {tokens!r}")
        elif bundle is None:
            self.say(place, f"names no bundle: {dict(values)}", f"write {name}: {{bundle: FOLDER}}")
        else:
            kept = Path(self.where).with_suffix(".outputs.json")
            asked, faults = with_kept(Asked(name, bundle, kept, pictures, tokens), f"{self.where}: {place}")
            self.bundles.append(asked)
            self.faults += faults
            self.places |= {fault.where for fault in faults}

    def outputs(self, values: Any, conditions: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return the outputs that conditions have in files, by condition and item; of bundles ``bundles`` is told."""
        if values is not None and not isinstance(values, dict):
            self.say("outputs", f"must be a mapping by condition, got {values!r}", "write {base: base.jsonl}")
        found: dict[str, dict[str, Any]] = {}
        for name, file in (values if isinstance(values, dict) else {}).items():
            if conditions and name not in conditions:
                what = f"not a condition of the study.{did_you_mean(str(name), conditions)}"
                self.say(f"outputs.{name}", what, allowed=f"Conditions: {listed(conditions)}.")
                continue
            if isinstance(file, str) and file.startswith("bundle:"):  # as sources are named everywhere else
                file = {"bundle": file.removeprefix("bundle:")}  # noqa: PLW2901
            if isinstance(file, dict):
                self.bundle(name, file)
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
        """Return one output."""
        if isinstance(value, str):
            return Output(value)
        if not isinstance(value, dict):
            self.say(place, f"must be text or a mapping, got {value!r}", "put text in quotes, or write {picture: PATH}")
            return Output()
        self.unknown(place, value, OUTPUT_KEYS)
        picture, audio = self.path(f"{place}.picture", value), self.path(f"{place}.audio", value)
        return Output(str(value.get("text") or ""), Picture.at(picture) if picture else None, audio)

    def path(self, place: str, values: Mapping[str, Any]) -> Path | None:
        """Return the path that the last key of a place names, from the file."""
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
        """Give the lines of a JSONL file with their numbers."""
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

"""The pictures that a demo searches: their names, which of them were trained on, and small copies to be shown."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.data.picture import Picture
from kit.errors import BundleError, DataError, Fault, KitError
from kit.manifest import Manifest

FILE = "pictures.json"
SIDE = 224  # pixels of a small copy
LANGUAGES = ("en", "de", "es", "fr")


@dataclass(frozen=True)
class Shown:
    """A picture that can be found.

    Args:
        picture: The picture.
        names: What it is called, by language; at least one.
        trained_on: Whether the bundle saw it in training.
    """

    picture: Picture
    names: Mapping[str, str]
    trained_on: bool


@dataclass(frozen=True)
class Shelf:
    """Pictures in the order in which they are read: those that were held out come first.

    Args:
        items: The pictures.
        source: Where they are from.
        attribution: What must be shown with them; may be empty.
        copies: A folder for small copies; it exists.
    """

    items: tuple[Shown, ...]
    source: str
    attribution: str
    copies: Path
    languages: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        known = {language for item in self.items for language in item.names}
        ordered = [one for one in LANGUAGES if one in known] + sorted(known - set(LANGUAGES))
        object.__setattr__(self, "languages", tuple(ordered))

    def __len__(self) -> int:
        return len(self.items)

    @property
    def held_out(self) -> int:
        """How many pictures were not trained on."""
        return sum(not item.trained_on for item in self.items)

    def name(self, place: int, language: str) -> str:
        """Return what a picture is called, in another language where it has no name in this one."""
        names = self.items[place].names
        return names.get(language) or next(iter(names.values()))

    def copy(self, place: int) -> Path:
        """Return the file of a picture's small copy; drawn at the first call, whole or not at all."""
        path = self.copies / f"{place}.webp"
        if not path.exists():
            image = self.items[place].picture.open()
            image.thumbnail((SIDE, SIDE))
            part = self.copies / f".{secrets.token_hex(8)}.webp"
            image.save(part, "WEBP", quality=85)
            os.replace(part, path)  # noqa: PTH105 - two may draw it at once, and both find a whole one
        return path

    def save(self, folder: Path) -> None:
        """Write names and small copies into an empty folder, from which ``read_shelf`` makes a shelf."""
        items = [
            {"file": f"{place}.webp", "names": dict(item.names), "trained_on": item.trained_on}
            for place, item in enumerate(self.items)
        ]
        for place in range(len(self)):
            (folder / f"{place}.webp").write_bytes(self.copy(place).read_bytes())
        said = {"source": self.source, "attribution": self.attribution, "items": items}
        (folder / FILE).write_text(json.dumps(said, ensure_ascii=False), encoding="utf-8")


def read_shelf(folder: Path) -> Shelf:
    """Return the shelf that was saved into a folder.

    Raises:
        DataError: there is none, or it is damaged.
    """
    try:
        said = json.loads((folder / FILE).read_text(encoding="utf-8"))
        items = tuple(
            Shown(Picture.at(folder / one["file"]), dict(one["names"]), bool(one["trained_on"]))
            for one in said["items"]
        )
        shelf = Shelf(items, said["source"], said["attribution"], folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(Fault(str(folder / FILE), f"cannot be read: {error}", "build the folder again")) from error
    if not items or not all(item.names for item in items):
        raise DataError(Fault(str(folder / FILE), "holds no pictures, or one without a name", "build it again"))
    return shelf


def make_shelf(manifest: Manifest, copies: Path, *, source: str = "") -> Shelf:
    """Return all pictures of the data that a bundle was trained on, or of another source.

    Args:
        manifest: The bundle's.
        copies: A folder for small copies.
        source: Another source with captions, by its source string; all of its pictures count as held out.

    Raises:
        BundleError: the bundle names no data.
        DataError: the source cannot be read, or holds no captions.
    """
    own = manifest.data[0] if manifest.data else None
    if not source and own is None:
        fix = "name some with --pictures SOURCE, for instance openmoji or folder:PATH"
        raise BundleError.of(manifest.name, "names no data that it was trained on, so there is nothing to find", fix)
    text = source or (own.source if own else "")
    by_language = _loaded(text, named=bool(source))
    trained = own.split if own is not None and own.source == text else ""
    first = by_language[next(iter(by_language))]
    names: dict[str, dict[str, str]] = {row.id: {} for row in first}
    for language, rows in by_language.items():
        for row in rows:
            names.setdefault(row.id, {})[language] = row.text
    items = [Shown(row.picture, names[row.id], trained in {row.split, "all"}) for row in first]
    items.sort(key=lambda item: item.trained_on)
    return Shelf(tuple(items), text, first.attribution, copies)


def _loaded(source: str, *, named: bool) -> dict[str, Any]:
    from kit.data.sources import load_rows
    from kit.parts.reference import parse

    try:
        languages: Sequence[str] = LANGUAGES if parse(source, kind="data").body == "openmoji" else ("en",)
        return {one: load_rows(source, split="all", language=one, kind="pairs") for one in languages}
    except KitError as error:
        if named:
            raise
        fix = "name it where it is now, or other pictures, with --pictures SOURCE"
        what = f"the data that the bundle was trained on cannot be read: {error.faults[0].what}"
        raise DataError(Fault(source, what, fix)) from error

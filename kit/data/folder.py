"""A user's own pictures: the Hugging Face ImageFolder convention, pictures beside a table of captions.

Columns: ``file_name`` and ``text`` or ``caption``, or ``question`` and ``answer``. ``id``, ``concept``, ``group``
and ``split`` are used where they are given; every other column goes to ``meta``.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kit.data.checks import OnBad, in_split, picture_faults, settle
from kit.data.metadata import Entry, entries
from kit.data.picture import Picture
from kit.data.rows import ImageText, Question, Rows
from kit.data.splits import NAMES, split_of, together
from kit.errors import DataError, Fault, did_you_mean, listed

CAPTIONS = ("text", "caption")
_OPTIONAL = ("id", "concept", "group", "split")


def load(root: Path, *, name: str, split: str, on_bad: OnBad = "raise") -> Rows[Any]:
    """Return the rows of a folder: Question rows where it has questions and answers, else ImageText rows.

    Splits come from folders named train, validation (or val) and test, else from a column ``split``, else
    from a hash of the concept, of the caption, or (for questions) of the picture; equal captions and equal
    pictures then stay together.

    Args:
        root: The folder.
        name: The source string, for messages.
        split: "train", "val", "test" or "all".
        on_bad: "raise" states the faults of all rows at once; "skip" leaves bad rows out and counts them.

    Raises:
        DataError: no table, a missing column, or (with "raise") bad rows.
    """
    lines, faults = entries(root)
    unread = len(faults)
    columns = _columns(lines, root, faults)
    good, row_faults = _checked(lines, columns, root)
    faults += row_faults
    settle(faults, on_bad)
    rows = [_row(entry, picture, identity, columns) for entry, picture, identity in good]
    splits = _splits(good, columns, root)
    rows = [_with_split(row, own) for row, own in zip(rows, splits, strict=True)]
    skipped = unread + len(lines) - len(good)
    return in_split(Rows(tuple(rows), name=name, split=split, faults=tuple(faults), skipped=skipped), split, splits)


Good = tuple[Entry, Picture, str]


def _columns(lines: Sequence[Entry], root: Path, faults: Sequence[Fault]) -> tuple[str, ...]:
    """Return the columns that hold a row's text: a caption's name, or "question" and "answer".

    Raises:
        DataError: no rows, or a column is missing altogether; with all faults that were found before.
    """
    there = set().union(*(entry.values for entry in lines)) if lines else set()
    table = lines[0].where.rpartition(":")[0] if lines else str(root)
    found = list(faults)
    if not lines:
        found.append(Fault(table, "holds no rows"))
    elif "file_name" not in there:
        found.append(_missing(table, "file_name", there))
    if {"question", "answer"} <= there:
        columns: tuple[str, ...] = ("question", "answer")
    else:
        columns = tuple(column for column in CAPTIONS if column in there)[:1]
    if lines and not columns:
        found.append(_missing(table, "text", there))
    if len(found) > len(faults):
        raise DataError(found)
    return columns


def _missing(table: str, column: str, there: set[str]) -> Fault:
    near = did_you_mean(column, there)
    what = f"no column {column!r}.{near.replace('Did you mean', 'Is it')}" if near else f"no column {column!r}"
    wanted = "'text' (or 'caption', or 'question' and 'answer')" if column == "text" else f"{column!r}"
    return Fault(table, what, f"name it {wanted}", f"Columns: {listed(there)}.")


def _checked(lines: Sequence[Entry], columns: Sequence[str], root: Path) -> tuple[list[Good], list[Fault]]:
    """Return the good rows with their pictures and ids, and all faults of the others, in the table's order."""
    faults: list[list[Fault]] = [_value_faults(entry, columns) for entry in lines]
    pictures: dict[int, Picture] = {}
    by_path: dict[Path, Picture] = {}
    for number, entry in enumerate(lines):
        path = _path(entry, root)
        if isinstance(path, Fault):
            faults[number].append(path)
        else:
            pictures[number] = by_path.setdefault(path, Picture.at(path))
    broken = dict(zip(by_path, picture_faults(list(by_path.values())), strict=True))
    seen: dict[str, str] = {}
    counts: dict[str, int] = {}
    good = []
    for number, entry in enumerate(lines):
        picture = pictures.get(number)
        if picture is not None and (fault := broken[_known(picture)]):
            faults[number].append(Fault(entry.where, f"{entry.values['file_name']!r} {fault.what}", fault.fix))
        if picture is None or faults[number]:
            continue
        identity = _identity(entry, picture, root, counts if len(columns) == 2 else None)
        if identity in seen:
            fix = "" if "id" in entry.values else "give each row its own 'id'"
            faults[number].append(Fault(entry.where, f"id {identity!r} is already that of {seen[identity]}", fix))
            continue
        seen[identity] = entry.where
        good.append((entry, picture, identity))
    return good, [fault for found in faults for fault in found]


def _known(picture: Picture) -> Path:
    assert picture.path is not None  # noqa: S101  # every picture here was made from a path
    return picture.path


def _value_faults(entry: Entry, columns: Sequence[str]) -> list[Fault]:
    """Return what is wrong with a row's texts, id, concept, group and split."""
    faults = []
    for column in columns:
        value = entry.values.get(column)
        if not isinstance(value, str) or not value.strip():
            faults.append(Fault(f"{entry.where}: {column}", f"must be a text, got {value!r}"))
    for column in _OPTIONAL:
        value = entry.values.get(column, "")
        if not isinstance(value, str | int) or isinstance(value, bool):
            faults.append(Fault(f"{entry.where}: {column}", f"must be a text or a whole number, got {value!r}"))
    own = entry.values.get("split")
    if isinstance(own, str) and own and own not in NAMES:
        what = f"no split {own!r}.{did_you_mean(own, NAMES)}"
        faults.append(Fault(f"{entry.where}: split", what, allowed="Splits: train, val, test."))
    return faults


def _path(entry: Entry, root: Path) -> Path | Fault:
    """Return the row's file within the folder, or what is wrong with its name."""
    where, name = f"{entry.where}: file_name", entry.values.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        return Fault(where, f"must be a file's name, got {name!r}")
    path = Path(os.path.normpath(entry.folder / name))
    try:
        if not (path.is_relative_to(root) and path.resolve().is_relative_to(root.resolve())):
            return Fault(where, f"{name!r} leads out of the folder", "keep the pictures inside it")
        if path.is_file():
            return path
        near = did_you_mean(path.name, [other.name for other in path.parent.iterdir()])
    except OSError:
        near = ""
    return Fault(where, f"no such file: {name!r}.{near}")


def _identity(entry: Entry, picture: Picture, root: Path, counts: dict[str, int] | None) -> str:
    """Return the row's id: its own, else the file's name, with a number where a picture has many questions."""
    if entry.values.get("id") not in {None, ""}:
        return str(entry.values["id"])
    name = _known(picture).relative_to(root).as_posix()
    if counts is None:
        return name
    counts[name] = counts.get(name, -1) + 1
    return f"{name}#{counts[name]}"


def _row(entry: Entry, picture: Picture, identity: str, columns: Sequence[str]) -> ImageText | Question:
    values = entry.values
    used = {"file_name", *columns, *_OPTIONAL}
    meta = {key: value for key, value in values.items() if key not in used}
    group = str(values.get("group", ""))
    if len(columns) == 2:
        question, answer = (values[column].strip() for column in columns)
        return Question(identity, picture, question, answer, group=group, meta=meta)
    text = values[columns[0]].strip()
    return ImageText(identity, picture, text, concept=_concept(entry, columns), group=group, meta=meta)


def _concept(entry: Entry, columns: Sequence[str]) -> str:
    """Return what keeps rows together: the concept, else the caption in plain lower case."""
    return str(entry.values.get("concept") or " ".join(entry.values[columns[0]].casefold().split()))


def _splits(good: Sequence[Good], columns: Sequence[str], root: Path) -> list[str]:
    """Return each row's split."""
    given = [_given_split(entry, picture, root) for entry, picture, _ in good]
    if all(given):
        return given
    keys = {}
    for number, (entry, picture, _) in enumerate(good):
        own = entry.values.get("concept") if len(columns) == 2 else _concept(entry, columns)
        keys[number] = (str(own or f"picture {picture.digest()}"), picture.digest())
    hashed = together(keys)
    return [own or split_of(hashed[number]) for number, own in enumerate(given)]


def _given_split(entry: Entry, picture: Picture, root: Path) -> str:
    """Return the split that folder or column name; the column wins, an empty string means none."""
    first = _known(picture).relative_to(root).parts[0]
    return NAMES.get(str(entry.values.get("split", "")), entry.split or NAMES.get(first, ""))


def _with_split(row: ImageText | Question, split: str) -> ImageText | Question:
    return dataclasses.replace(row, split=split)

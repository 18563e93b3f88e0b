"""Tables beside pictures: metadata.jsonl and metadata.csv, read row by row with file and line."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.data.splits import NAMES
from kit.errors import DataError, Fault

TABLES = ("metadata.jsonl", "metadata.csv")


@dataclass(frozen=True)
class Entry:
    """One line of a table.

    Args:
        where: File and line, for messages.
        values: The line's columns.
        folder: The table's folder, from which file names start.
        split: The split that the table's folder is named for; empty at the root.
    """

    where: str
    values: Mapping[str, Any]
    folder: Path
    split: str


def entries(root: Path) -> tuple[list[Entry], list[Fault]]:
    """Return the lines of every table at the root and in folders named for a split, and the lines' faults.

    Raises:
        DataError: no table, two in one folder, or an unreadable one.
    """
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir() and path.name in NAMES)]
    faults: list[Fault] = []
    rows: list[Entry] = []
    tables = 0
    for folder in folders:
        there = [folder / name for name in TABLES if (folder / name).is_file()]
        tables += len(there)
        if len(there) > 1:
            raise DataError(Fault(str(folder), f"holds both {' and '.join(TABLES)}", "keep one of them"))
        split = "" if folder == root else NAMES[folder.name]
        for table in there:
            lines, found = _jsonl(table) if table.suffix == ".jsonl" else _csv(table)
            rows += [Entry(f"{table}:{number}", values, folder, split) for number, values in lines]
            faults += found
    if not tables:
        raise DataError(_no_table(root))
    return rows, faults


def _no_table(root: Path) -> Fault:
    files = sorted(path.name for path in root.iterdir() if path.is_file())
    what = f"holds neither {' nor '.join(TABLES)}" if files or any(root.iterdir()) else "is an empty folder"
    fix = 'put a metadata.jsonl beside the pictures: {"file_name": "cat.jpg", "text": "a cat"}, one line a picture'
    return Fault(str(root), what, fix)


def _text(table: Path) -> str:
    try:
        return table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(Fault(str(table), f"cannot be read: {error}", "save it as UTF-8")) from error


def _jsonl(table: Path) -> tuple[list[tuple[int, dict[str, Any]]], list[Fault]]:
    rows, faults = [], []
    # Not splitlines(): it also breaks at characters that JSON allows within a string.
    for number, line in enumerate(_text(table).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            faults.append(Fault(f"{table}:{number}", f"is no JSON: {error}"))
            continue
        if isinstance(values, dict):
            rows.append((number, values))
        else:
            faults.append(Fault(f"{table}:{number}", f"must be a JSON object, got {type(values).__name__}"))
    return rows, faults


def _csv(table: Path) -> tuple[list[tuple[int, dict[str, Any]]], list[Fault]]:
    rows: list[tuple[int, dict[str, Any]]] = []
    faults = []
    reader = csv.DictReader(_text(table).splitlines(keepends=True), strict=True)
    try:
        for values in reader:
            if None in values or None in values.values():
                what = f"has {'more' if None in values else 'fewer'} cells than the header"
                faults.append(Fault(f"{table}:{reader.line_num}", what, "quote cells that hold commas"))
            else:
                rows.append((reader.line_num, dict(values)))
    except csv.Error as error:
        faults.append(Fault(f"{table}:{reader.line_num}", f"is no CSV: {error}"))
    return rows, faults

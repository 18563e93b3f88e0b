"""Rows in files: CSV, JSONL, JSON and Parquet, told apart by the file's ending, read with line numbers."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from kit.errors import listed
from kit.humaneval.errors import StudyError

Rows = Iterator[tuple[int, dict[str, Any]]]
CHUNK = 20_000


def read_rows(path: Path) -> Rows:
    """Give a file's rows with their line numbers (Parquet: row numbers), from 1.

    Raises:
        StudyError: no such file, an ending that is none of the four, or a file that is not what its ending says.
    """
    reader = _by_ending(path, {".csv": _csv, ".jsonl": _jsonl, ".json": _json, ".parquet": _parquet})
    with _said(path, "read"):
        yield from reader(path)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, type]) -> int:
    """Write rows and return how many there were.

    Args:
        path: The file; replaced if it is there.
        rows: Each with all columns.
        columns: The columns' types, str, int, float or bool, by name.

    Raises:
        StudyError: an ending that is none of the four, or a file that cannot be written.
    """
    writer = _by_ending(
        path, {".csv": _to_csv, ".jsonl": _to_jsonl, ".json": _to_json, ".parquet": _to_parquet}
    )  # fmt: skip
    part = path.with_name(f".{path.name}.part")  # whoever reads the file sees all of it or the one before
    with _said(path, "written"):
        try:
            count = int(writer(part, iter(rows), columns))
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return count


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        StudyError: it cannot be read.
    """
    with _said(path, "read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _by_ending(path: Path, known: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    if path.suffix.lower() not in known:
        what = f"rows are not kept in {path.suffix or 'a file without an ending'}"
        raise StudyError.of(str(path), what, "rename it, or choose another ending", f"Allowed: {listed(known)}.")
    return known[path.suffix.lower()]


@contextmanager
def _said(path: Path, done: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StudyError.of(str(path), f"cannot be {done}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise StudyError.of(str(path), f"cannot be {done}: {error}", "save it as UTF-8 text") from error


def _csv(path: Path) -> Rows:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            if None in row or None in row.values():
                what = f"has {'more' if None in row else 'fewer'} fields than the header"
                raise StudyError.of(f"{path}, line {reader.line_num}", what)
            yield reader.line_num, row


def _jsonl(path: Path) -> Rows:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _mapping(path, number, _loads(path, number, line))


def _json(path: Path) -> Rows:
    values = _loads(path, 1, path.read_text(encoding="utf-8"))
    if not isinstance(values, list):
        raise StudyError.of(str(path), "is not a list of rows", "rename it to .jsonl if each line is a row")
    for number, value in enumerate(values, start=1):
        yield number, _mapping(path, number, value)


def _loads(path: Path, number: int, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise StudyError.of(f"{path}, line {number}", f"is not JSON: {error}") from error


def _mapping(path: Path, number: int, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise StudyError.of(f"{path}, row {number}", f"must be a mapping, got {str(value)[:60]!r}")
    return value


def _parquet(path: Path) -> Rows:
    arrow, parquet = _arrow(path)
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(CHUNK):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except arrow.ArrowInvalid as error:
        raise StudyError.of(str(path), f"is not Parquet: {error}") from error


def _to_csv(path: Path, rows: Iterator[Mapping[str, Any]], columns: Mapping[str, type]) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        while chunk := list(islice(rows, CHUNK)):
            writer.writerows(chunk)
            count += len(chunk)
    return count


def _to_jsonl(path: Path, rows: Iterator[Mapping[str, Any]], _columns: Mapping[str, type]) -> int:
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007  # the last one is the answer
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return count


def _to_json(path: Path, rows: Iterator[Mapping[str, Any]], _columns: Mapping[str, type]) -> int:
    values = list(rows)
    path.write_text(json.dumps(values, ensure_ascii=False, indent=1), encoding="utf-8")
    return len(values)


def _to_parquet(path: Path, rows: Iterator[Mapping[str, Any]], columns: Mapping[str, type]) -> int:
    arrow, parquet = _arrow(path)
    kinds = {str: arrow.string(), int: arrow.int64(), float: arrow.float64(), bool: arrow.bool_()}
    schema = arrow.schema([(name, kinds[kind]) for name, kind in columns.items()])
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(rows, CHUNK)):
            writer.write_table(arrow.Table.from_pylist(chunk, schema))
            count += len(chunk)
    return count


def _arrow(path: Path) -> Sequence[Any]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        fix = "pip install 'multimodal-kit[hub]', or use .csv or .jsonl"
        raise StudyError.of(str(path), "Parquet needs pyarrow, which is not installed", fix) from error
    return pa, parquet

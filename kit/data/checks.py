"""What to do about bad rows: state all faults at once, or leave the rows out and count them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeVar

from kit.data.picture import Picture
from kit.data.rows import Row, Rows
from kit.data.splits import counts
from kit.errors import DataError, Fault

OnBad = Literal["raise", "skip"]
T = TypeVar("T", bound=Row)


def picture_faults(pictures: Sequence[Picture]) -> list[Fault | None]:
    """Return each picture's fault or None; Pillow decodes without the interpreter's lock, so threads help."""
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(Picture.fault, pictures))


def settle(faults: Sequence[Fault], on_bad: OnBad) -> None:
    """Raise all faults, unless bad rows are to be skipped.

    Raises:
        DataError: there are faults, and ``on_bad`` is "raise".
    """
    if faults and on_bad == "raise":
        raise DataError(faults)


def in_split(rows: Rows[T], split: str, found: Sequence[str]) -> Rows[T]:
    """Return the rows of one split.

    Args:
        rows: Rows of all splits.
        split: "train", "val", "test" or "all".
        found: Each row's split.

    Raises:
        DataError: none are in it; says how many are in the others.
    """
    kept = [row for row, own in zip(rows, found, strict=True) if split in {"all", own}]
    if kept:
        return rows.only(kept)
    skipped = f"; {rows.skipped} rows were skipped, the first because of: {rows.faults[0]}" if rows.faults else ""
    what = f"no rows in split {split!r} ({counts(found)}{skipped})"
    raise DataError(
        Fault(rows.name, what, "give each row a split, in a column 'split' or in folders train, val and test")
    )

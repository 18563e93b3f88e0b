"""Pictures that stand on both sides of a split: the very same one, or one that a glance would not tell apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kit.data.looks import NEAR_BITS, NEAR_COLOUR, Look, looks
from kit.data.picture import Picture
from kit.errors import DataError, Fault
from kit.intervals import exact
from kit.result import Measurement


class Pictured(Protocol):
    """A row of any kind with a picture, or None."""

    @property
    def picture(self) -> Picture | None:
        """What it shows."""


def overlap(train: Sequence[Pictured], test: Sequence[Pictured], *, split: str = "test") -> dict[str, Measurement]:
    """Return how many test pictures the training rows hold as well.

    Args:
        train: Rows that were trained on.
        test: Rows that are asked.
        split: The name of the tested split.

    Returns:
        ``overlap``: the share of distinct test pictures that are in training, pixel by pixel. ``near_overlap``: those
        that are, or that have a look-alike there: at most 6 of 192 bits of a difference hash and, on average, 5 of
        255 levels apart. A grid of clocks is full of look-alikes, so judge it by the pictures.

    Raises:
        DataError: one side has no pictures.
    """
    sides = []
    for name, rows in (("train", train), ("test", test)):
        found = {one.content: one for one in looks([row.picture for row in rows]) if one is not None}
        if not found:
            raise DataError(Fault(f"overlap: {name}", "no row has a picture"))
        sides.append(found)
    known, asked = sides
    same = np.array([content in known for content in asked])
    near = _have_look_alikes(list(asked.values()), list(known.values()))
    counts = {"overlap": int(same.sum()), "near_overlap": int(near.sum())}
    measured = {}
    for name, count in counts.items():
        interval = exact(count, len(asked))
        method = f"of distinct pictures, against {len(known)} in training; {interval.method}"
        measured[name] = Measurement(
            count / len(asked), "share", len(asked), interval.low, interval.high, method=method, split=split,
            better="lower",
        )  # fmt: skip
    return measured


def _have_look_alikes(asked: Sequence[Look], known: Sequence[Look]) -> NDArray[np.bool_]:
    """Return for each asked look whether a known one is near: by bits, and what they leave by colour."""
    signs = np.stack([2 * one.bits.astype(np.float32) - 1 for one in known]).T
    small = np.stack([one.small for one in known])
    found = []
    for one in asked:
        differing = (len(signs) - (2 * one.bits.astype(np.float32) - 1) @ signs) / 2
        candidates = small[differing <= NEAR_BITS + 0.5]
        apart = np.abs(candidates - one.small).mean(axis=(1, 2, 3))
        found.append(bool((apart <= NEAR_COLOUR).any()))
    return np.array(found)

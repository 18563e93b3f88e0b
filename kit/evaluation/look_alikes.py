"""Pictures that stand on both sides of a split: the very same one, or one that a glance would not tell apart."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kit.data.picture import Picture
from kit.errors import DataError, Fault
from kit.intervals import exact
from kit.result import Measurement

# Two pictures look alike when both hold. Of OpenMoji's test pictures 99 in 100 stay within them when they are saved as
# JPEG at quality 60 or shrunk to two thirds. Bits alone cannot tell a brown circle from a black one.
NEAR_BITS = 6  # of 192
NEAR_COLOUR = 5.0  # of 255 levels, mean over the small copy
_MARGIN = 2  # levels: the grain of a flat background is no edge


class Pictured(Protocol):
    """A row of any kind with a picture, or None."""

    @property
    def picture(self) -> Picture | None:
        """What it shows."""


@dataclass(frozen=True)
class Look:
    """What a picture is recognised by.

    Args:
        content: SHA-256 of its size and pixels; a file saved again without loss keeps it.
        small: A copy of 9 by 8 pixels, shape (8, 9, 3), levels from 0 to 255.
    """

    content: str
    small: NDArray[np.int16]

    @property
    def bits(self) -> NDArray[np.bool_]:
        """Its difference hash, shape (192,): where the small copy grows brighter to the right, channel by channel."""
        return (self.small[:, 1:] - self.small[:, :-1] > _MARGIN).reshape(-1)


def look(picture: Picture) -> Look:
    """Return what a picture is recognised by.

    Source:
        Krawetz (2013), "Kind of like that", hackerfactor.com: the difference hash, here by colour channel.
    """
    from PIL import Image

    image = picture.open()
    content = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
    return Look(content, np.asarray(image.resize((9, 8), Image.Resampling.LANCZOS), dtype=np.int16))


def looks(pictures: Sequence[Picture | None]) -> list[Look | None]:
    """Return each picture's look, in order; each distinct file is opened once, and None stays None."""
    distinct = {picture.digest(): picture for picture in pictures if picture is not None}
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(distinct, pool.map(look, distinct.values()), strict=True))
    return [None if picture is None else found[picture.digest()] for picture in pictures]


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

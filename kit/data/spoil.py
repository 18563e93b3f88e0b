"""Faults put into good rows on purpose, so that what finds them can be measured: mixed-up captions, and copies."""

from __future__ import annotations

import dataclasses
import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kit.data.picture import Picture
from kit.data.rows import ImageText, Rows
from kit.errors import DataError

QUALITY = 80  # of the JPEG that a copy becomes
SHRUNK = 0.75  # its size over the original's


class Spoiled(NamedTuple):
    """Rows with faults, and where these are.

    Args:
        rows: The rows.
        wrong: Whether a row's caption is another concept's, shape (n,).
        copied: Whether a row is a copy of an earlier one, shape (n,).
    """

    rows: Rows[ImageText]
    wrong: NDArray[np.bool_]
    copied: NDArray[np.bool_]


def spoil(rows: Rows[ImageText], *, mixed: float = 0.3, copies: float = 0.1, seed: int = 0) -> Spoiled:
    """Return the rows with some captions mixed up among each other, and copies of some rows at the end.

    A copy is its picture, smaller and as JPEG, with the caption that its row has now, right or wrong.

    Args:
        rows: Image-text rows.
        mixed: The share of captions that change places, 0 <= mixed < 1. One that lands at a row of its own concept is
            not wrong.
        copies: How many copies are added, over the number of rows; 0 <= copies <= 1.
        seed: Of both.

    Raises:
        DataError: shares out of range, or so few rows that nothing can change places.
    """
    if not 0 <= mixed < 1 or not 0 <= copies <= 1 or len(rows) < 2:
        what = f"mixed {mixed!r}, copies {copies!r} of {len(rows)} rows"
        raise DataError.of("spoil", what, "give shares from 0 on, below 1, of at least two rows")
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(rows))[: round(mixed * len(rows))]
    captions = rows.texts()
    source = np.arange(len(rows))
    source[chosen] = np.roll(chosen, 1)  # a ring in random order: none keeps its own
    concepts = [row.concept or row.id for row in rows]
    made = [dataclasses.replace(row, text=captions[source[place]]) for place, row in enumerate(rows)]
    wrong = np.array([concepts[place] != concepts[source[place]] for place in range(len(rows))])
    copied = np.sort(rng.permutation(len(rows))[: round(copies * len(rows))])
    made += [
        dataclasses.replace(made[place], id=f"{made[place].id} copy", picture=_copy(made[place].picture))
        for place in copied
    ]
    spoiled = dataclasses.replace(rows.only(made), name=f"{rows.name} (spoiled: {mixed:g} mixed, {copies:g} copied)")
    return Spoiled(spoiled, np.r_[wrong, wrong[copied]], np.r_[np.zeros(len(rows), bool), np.ones(len(copied), bool)])


def _copy(picture: Picture) -> Picture:
    """Return the picture smaller and as JPEG."""
    image = picture.open()
    file = io.BytesIO()
    image.resize([max(1, round(SHRUNK * side)) for side in image.size]).save(file, "JPEG", quality=QUALITY)
    return Picture(f"{picture.name} copy", reader=file.getvalue)

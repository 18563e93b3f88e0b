"""Planted faults are where they are said to be, the same ones for a seed, and look like what they imitate."""

import numpy as np
import pytest
from dual_encoders import noise_pictures

from kit.data.curate import look_duplicates
from kit.data.looks import looks
from kit.data.rows import ImageText, Rows
from kit.data.spoil import spoil
from kit.errors import DataError

ROWS = Rows(
    tuple(
        ImageText(f"r{number}", picture, f"text {number}", concept=f"c{number // 2}")
        for number, picture in enumerate(noise_pictures(40, size=96))
    ),
    name="mine",
)


def test_wrong_captions_are_another_concepts_and_all_captions_are_still_there():
    rows, wrong, copied = spoil(ROWS, mixed=0.3, copies=0.25, seed=1)
    assert len(rows) == 50
    assert copied.tolist() == [False] * 40 + [True] * 10
    assert sorted(row.text for row in rows[:40]) == sorted(ROWS.texts())
    moved = [place for place in range(40) if rows[place].text != ROWS[place].text]
    assert len(moved) == 12
    by_text = {row.text: row.concept for row in ROWS}
    for place, row in enumerate(rows):
        assert wrong[place] == (by_text[row.text] != row.concept)
        assert row.concept == next(own.concept for own in ROWS if row.id.startswith(f"{own.id} ") or row.id == own.id)
    assert wrong.sum() >= 10


def test_copies_are_other_files_of_the_same_look():
    rows, _, _ = spoil(ROWS, mixed=0.0, copies=0.2, seed=2)
    found = look_duplicates([row.id for row in rows], looks([row.picture for row in rows]))
    assert {one.row for one in found} <= {row.id for row in rows[40:]}
    assert len(found) >= 7, "one in eight may have lost too much as a small JPEG"
    assert all(one.row == f"{one.other} copy" for one in found)
    assert not {row.picture.digest() for row in rows[40:]} & {row.picture.digest() for row in ROWS}


def test_the_same_seed_spoils_the_same_and_nothing_asked_changes_nothing():
    one, same, other = (spoil(ROWS, seed=seed) for seed in (3, 3, 4))
    assert one.rows.texts() == same.rows.texts()
    assert one.rows.texts() != other.rows.texts()
    clean = spoil(ROWS, mixed=0, copies=0)
    assert clean.rows.items == ROWS.items
    assert not np.any(clean.wrong)
    assert "spoiled" in one.rows.name
    with pytest.raises(DataError, match="mixed 1"):
        spoil(ROWS, mixed=1.0)

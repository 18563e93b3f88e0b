"""Captions of easy-VQA's pictures: what is shown is known, and a taste for the short and exact can be told."""

import pytest
from dual_encoders import noise_pictures

from kit.data.captions import MANNERS, PROMPT, captioned, inventing, liking, shown
from kit.data.instruct import questions
from kit.data.rows import Question, Rows
from kit.errors import DataError

ONE, TWO, THREE = noise_pictures(3)
ASKED = [
    (ONE, "what is the red shape?", "circle"),
    (ONE, "is there a blue shape?", "no"),
    (TWO, "what shape is in the image?", "triangle"),
    (TWO, "is no teal shape present?", "no"),
    (THREE, "what color is the shape?", "teal"),
    (THREE, "is there not a circle?", "yes"),
]
ROWS = Rows(
    tuple(Question(f"train/{n}/{m}", one, asked, said, split="train") for m, (one, asked, said) in enumerate(ASKED)
          for n in [[ONE, TWO, THREE].index(one)]), "easy-vqa", "train", "MIT", "by its author",
)  # fmt: skip
TRUE = {"colour": "red", "shape": "circle"}


def test_colour_and_shape_follow_from_questions_and_denials():
    assert shown(ROWS) == {ONE.digest(): ("red", "circle"), TWO.digest(): ("teal", "triangle")}


def test_each_picture_gets_different_manners_the_same_for_a_seed():
    rows = captioned(ROWS, each=3)
    assert len(rows) == 6
    assert len({row.id for row in rows}) == 6
    assert len({row.messages[1].text for row in rows}) == 6
    assert captioned(ROWS, each=3) == rows
    assert captioned(ROWS, each=3, seed=1) != rows
    assert len(captioned(ROWS, each=len(MANNERS))) == 2 * len(MANNERS)
    asked = questions(rows)
    assert set(asked.texts()) == {PROMPT}
    assert asked[0].meta["colour"] == "red"
    assert (rows.licence, rows.attribution, rows.split) == ("MIT", "by its author", "train")


def test_the_taste_is_for_the_exact_then_the_short():
    best = ["a red circle", "It is a red circle.", "a circle", "a red circle and a dog", "a blue circle", "a dog"]
    found = [liking(caption, **TRUE) for caption in best]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == len(found)


def test_what_is_invented_is_counted():
    asked = questions(captioned(ROWS, each=2))[:4]
    said = ["a red circle", "a red circle and a cat", "a red triangle", "something"]
    assert [row.meta["colour"] for row in asked] == ["red", "red", "teal", "teal"]
    one = inventing(said, asked, split="test")["inventing"]
    assert (one.value, one.n, one.better) == (0.5, 4, "lower")
    with pytest.raises(DataError, match="inventing: 0 captions of 4 pictures"):
        inventing([], asked, split="test")

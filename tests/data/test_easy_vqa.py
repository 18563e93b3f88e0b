"""easy-VQA as its author split it."""

from collections import Counter

import pytest

from kit.data.sources import load_rows
from kit.errors import DataError

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def rows():
    return load_rows("easy-vqa", split="all")


def test_counts_are_those_of_its_readme(rows):
    counts = Counter(row.split for row in rows)
    assert counts["test"] == 9_673
    assert counts["train"] + counts["val"] == 38_575
    assert sum(row.group == "yes/no" for row in rows if row.split == "test") == 7_136
    assert sum(row.group == "yes/no" for row in rows if row.split != "test") == 28_407
    assert len({row.id for row in rows}) == len(rows)


def test_thirteen_answers(rows):
    assert len(rows[0].answers) == 13
    assert {row.answer for row in rows} == set(rows[0].answers)
    assert {row.answer for row in rows if row.group == "shape"} == {"circle", "rectangle", "triangle"}
    assert len({row.answer for row in rows if row.group == "colour"}) == 8


def test_no_picture_is_in_two_splits(rows):
    splits = {}
    for row in rows:
        splits.setdefault(row.picture.digest(), set()).add(row.split)
    assert len(splits) == 5_000
    assert all(len(seen) == 1 for seen in splits.values())
    val = sum(seen == {"val"} for seen in splits.values())
    assert 300 < val < 500


def test_each_split_alone_is_the_same_as_its_share_of_the_whole(rows):
    for split in ("train", "val", "test"):
        alone = load_rows("easy-vqa", split=split)
        assert list(alone) == [row for row in rows if row.split == split]
    assert (alone.licence, alone.split) == ("MIT", "test")
    assert alone[0].picture.open().size == (64, 64)


def test_mistakes_are_stated_together():
    with pytest.raises(DataError) as caught:
        load_rows("easy-vqa", split="tset", language="de", limit=0, on_bad="ignore")  # type: ignore[arg-type]
    said = str(caught.value)
    assert len(caught.value.faults) == 4
    assert "no split 'tset'. Did you mean 'test'?" in said
    assert "'de' is asked for" in said
    assert "limit: must be a whole number of at least 1, or None, got 0" in said
    assert "on_bad: must be 'raise' or 'skip', got 'ignore'" in said


def test_limit_draws_the_same_rows_again():
    ten = load_rows("easy-vqa", split="test", limit=10, seed=3)
    assert len(ten) == 10
    assert ten.digest() == load_rows("easy-vqa", split="test", limit=10, seed=3).digest()
    assert ten.digest() != load_rows("easy-vqa", split="test", limit=10, seed=4).digest()


@pytest.mark.parametrize(("source", "kind"), [("easy-vqa", "pairs"), ("openmoji", "questions")])
def test_the_wrong_kind_of_rows_is_told_at_once(source: str, kind: str) -> None:
    with pytest.raises(DataError, match=f"and {kind} are needed"):
        load_rows(source, split="test", limit=3, kind=kind)

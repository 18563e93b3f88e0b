"""Answers become columns: pairs as they are, rankings as all their pairs."""

import numpy as np
import pytest
from small_studies import cast, make_study

from kit.humaneval.schedule import Task
from kit.humaneval.table import TableBuilder, VoteTable, meaning
from kit.humaneval.votes import answer_fault, uuid_fault


def test_lists_become_columns():
    table = VoteTable.of(["a", "b", "a"], ["b", "c", "c"], ["left", "tie", "skip"], raters=["x", "y", "x"])
    assert table.models == ("a", "b", "c")
    assert table.left.tolist() == [0, 1]
    assert table.right.tolist() == [1, 2]
    assert table.answer.tolist() == [0, 2]
    assert [table.raters[code] for code in table.rater] == ["x", "y"]
    assert table.skipped == 1
    assert len(table.only(table.answer == 2)) == 1
    with pytest.raises(ValueError, match="unequal lengths"):
        VoteTable.of(["a"], ["b"], [])
    with pytest.raises(ValueError, match="'lft' is no comparison"):
        VoteTable.of(["a"], ["b"], ["lft"])


def test_a_ranking_is_its_pairs():
    builder = TableBuilder(("a", "b", "c"))
    said = [meaning(["c", "a", "b"], "[2,0,1]", "first"), meaning(["a", "b", "c"], "skip", "first")]
    builder.add(["x", "y"], ["i", "j"], said, [5, 6])
    table = builder.table()
    won = {(table.models[a], table.models[b]) for a, b in zip(*_winners(table), strict=True)}
    assert won == {("b", "c"), ("b", "a"), ("c", "a")}  # places 2, 0, 1 of (c, a, b), best first
    assert table.rater.tolist() == [0, 0, 0]
    assert table.ms.tolist() == [5, 5, 5]
    assert table.skipped == 1


def _winners(table):
    left = table.answer == 0
    return np.where(left, table.left, table.right), np.where(left, table.right, table.left)


def test_chunks_make_no_difference():
    generator = np.random.default_rng(0)
    names = np.array(["a", "b", "c", "d"])
    left = generator.integers(4, size=500)
    right = (left + generator.integers(1, 4, size=500)) % 4
    answers = generator.choice(["left", "right", "tie", "both_bad", "skip"], 500)
    whole = VoteTable.of(names[left].tolist(), names[right].tolist(), answers.tolist())
    builder = TableBuilder()
    for part in np.array_split(np.arange(500), 7):
        said = [meaning([str(names[left[i]]), str(names[right[i]])], answers[i], "first") for i in part]
        builder.add([""] * len(part), [str(i) for i in part], said, [0] * len(part))
    again = builder.table()
    for name in ("left", "right", "answer", "rater", "item", "kind", "ms"):
        assert (getattr(whole, name) == getattr(again, name)).all()
    assert whole.items == again.items


def test_nothing_is_an_empty_table():
    table = TableBuilder(("a", "b")).table()
    assert len(table) == 0
    assert len(table.comparisons()) == 0
    assert table.models == ("a", "b")


def test_comparisons_are_first_times_between_real_models():
    builder = TableBuilder()
    pairs = (["right", "wrong"], ["b", "a"], ["a", "b"], ["a", "b"])
    answers, kinds = ["left", "right", "left", "tie"], ["gold", "first", "repeat", "identical"]
    builder.add(["x"] * 4, list("ijkl"), list(map(meaning, pairs, answers, kinds)), [0] * 4)
    kept = builder.table().comparisons()
    assert kept.models == ("b", "a")
    assert (kept.left.tolist(), kept.right.tolist(), kept.answer.tolist()) == ([0], [1], [1])


@pytest.mark.parametrize(
    ("design", "answer", "right"),
    [
        ("pairwise", "both_bad", True),
        ("pairwise", "skip", True),
        ("pairwise", "[0,1]", False),
        ("best_of", "[1,0,2]", True),
        ("best_of", "skip", True),
        ("best_of", "[1,0,0]", False),
        ("best_of", "[1,0]", False),
        ("best_of", "left", False),
        ("best_of", '{"a":1}', False),
        ("best_of", '["1","0","2"]', False),
        ("best_of", "[true,0,2]", False),
        ("best_of", " [1,0,2]", False),
        ("best_of", "[" * 9000, False),
        ("likert", '{"good":3,"short":1}', True),
        ("likert", '{"good":4,"short":1}', False),
        ("likert", '{"good":0,"short":1}', False),
        ("likert", '{"good":true,"short":1}', False),
        ("likert", '{"good":1}', False),
        ("likert", ' {"good":3,"short":1}', False),
        ("likert", "3", False),
        ("likert", "tie", False),
    ],
)
def test_answers_fit_the_design(design, answer, right):
    rubric = {"good": ("no", "so so", "yes"), "short": ("no", "yes")} if design == "likert" else {}
    study = make_study(design=design, conditions=("a", "b", "c"), rubric=rubric)
    shown = {"pairwise": ("a", "b"), "best_of": ("a", "b", "c"), "likert": ("a",)}[design]
    assert (answer_fault(study, cast(study, Task("item 1", shown), answer)) is None) == right


@pytest.mark.parametrize("name", ["", "1", "f" * 32, "F47AC10B-58CC-4372-A567-0E02B2C3D479"])
def test_ids_are_uuids_as_python_writes_them(name):
    study = make_study()
    fault = uuid_fault(cast(study, Task("item 1", ("base", "adapted")), name=name or "no"))
    assert fault is not None
    assert "is no UUID" in str(fault)

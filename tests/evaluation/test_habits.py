"""Habits that win votes without being better: length, and saying nothing."""

import pytest

from kit.errors import DataError
from kit.evaluation.habits import habits, refuses


@pytest.mark.parametrize(
    "said", ["", "  ", "I cannot see it.", "I'm sorry, but no", "As an AI, I", "There is no picture.", "(nothing)"]
)
def test_what_refuses(said):
    assert refuses(said)


@pytest.mark.parametrize(
    "said", ["no", "a red circle", "There is a picture of a dog", "I see a dog", "nothing but a circle"]
)
def test_what_answers(said):
    assert not refuses(said)


def test_child_beside_parent():
    before, after = ["one two three", "one two", "one two three four"], ["one", "", "one two three four"]
    found = habits(before, after, split="test")
    assert found["words"].value == pytest.approx(5 / 3)
    assert found["words"].baseline == 3
    assert found["words_gain"].value == pytest.approx(-4 / 3)
    assert found["words_gain"].low <= -4 / 3 <= found["words_gain"].high
    assert (found["refusal_rate"].value, found["refusal_rate"].baseline) == (pytest.approx(1 / 3), 0)
    assert not [one for name, each in found.items() for one in each.faults(name)]


def test_nothing_to_compare():
    with pytest.raises(DataError, match="habits: 1 answers before and 2 after"):
        habits(["a"], ["a", "b"], split="test")

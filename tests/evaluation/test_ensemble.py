"""Choosing among answers: sureness adds up over models that agree, and what fits the picture best is given."""

import pytest

from kit.errors import DataError
from kit.evaluation.ensemble import best_of_n, surest


def test_models_that_agree_outweigh_a_surer_one():
    said = [["red", "red", "a"], ["blue", "blue", "b"], ["blue", "green", "b"]]
    assert surest(said, [[0.9, 0.9, 0.5], [0.5, 0.6, 0.5], [0.5, 0.2, 0.0]]) == ["blue", "red", "a"]
    assert surest([["only"]], [[0.1]]) == ["only"]
    with pytest.raises(DataError, match="surest: answers of lengths"):
        surest(said, [[0.1] * 3] * 2)


def test_the_best_fitting_proposal_is_given_and_asked_once():
    calls = []

    def fit(row, said):
        calls.append((row, tuple(said)))
        return [len(one) for one in said]

    assert best_of_n([["a", "bbb", "a"], ["cc", "d"]], fit) == ["bbb", "cc"]
    assert calls == [(0, ("a", "bbb")), (1, ("cc", "d"))]
    assert best_of_n([["a", "bbb", "a"]], fit, prior=[[0, 0, 9]]) == ["a"]


def test_what_cannot_be_chosen_from_is_said():
    with pytest.raises(DataError, match="question 1 has no proposal"):
        best_of_n([["a"], []], lambda row, said: [1.0] * len(said))
    with pytest.raises(DataError, match="one finite number per proposal"):
        best_of_n([["a", "b"]], lambda row, said: [1.0])
    with pytest.raises(DataError, match="2 numbers for 1 proposals"):
        best_of_n([["a"]], lambda row, said: [1.0], prior=[[0, 1]])

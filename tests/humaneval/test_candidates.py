"""Candidates: distinct answers of one model, lengths balanced; and nothing asked that was trained on."""

import numpy as np
import pytest
from dual_encoders import noise_pictures

from kit.data.rows import Preference, Question
from kit.humaneval.candidates import ONE, OTHER, candidate_items, refuse_overlap
from kit.humaneval.errors import StudyError

PICTURES = noise_pictures(4)
ROWS = [Question(f"q{n}", PICTURES[n % 4], "What is it?", "red") for n in range(40)]


def said(item):
    return item.outputs[ONE].text, item.outputs[OTHER].text


def test_equal_answers_are_one_and_a_row_with_one_answer_is_left_out():
    answers = [["red", "red ", ""], ["red", "blue", "red"], ["", " ", "x"], ["a", "b", "c"]]
    items = candidate_items(ROWS[:4], answers)
    assert [item.id for item in items] == ["q1", "q3"]
    assert set(said(items[0])) == {"red", "blue"}
    assert items[0].picture == PICTURES[1]
    assert items[0].prompt == "What is it?"


def test_lengths_are_balanced():
    generator = np.random.default_rng(0)
    answers = [["x" * int(size) for size in generator.choice(np.arange(1, 60), 4, replace=False)] for _ in ROWS]
    items = candidate_items(ROWS, answers, seed=1)
    gaps = [abs(len(one) - len(other)) for one, other in map(said, items)]
    nearest = [min(abs(len(a) - len(b)) for a in own for b in own if a != b) for own in answers]
    assert gaps[::2] == nearest[::2], "every second pair is the one nearest in length"
    assert np.mean(gaps[1::2]) > 2 * np.mean(gaps[::2])
    assert sum(len(one) > len(other) for one, other in map(said, items)) == len(items) / 2
    assert candidate_items(ROWS, answers, seed=1) == items
    assert candidate_items(ROWS, answers, seed=2) != items
    assert candidate_items(ROWS, answers, seed=1, most=7) == items[:7]


def test_nothing_to_choose_between():
    with pytest.raises(StudyError, match="candidates: none of 2 rows has two distinct answers"):
        candidate_items(ROWS[:2], [["red"], ["blue", "blue"]])
    with pytest.raises(StudyError, match="candidates: answers to 1 rows, and there are 2"):
        candidate_items(ROWS[:2], [["red"]])


def test_what_was_trained_on_is_not_asked():
    trained = [Preference("q1|one answer|the other answer", PICTURES[1], "p", "a", "b")]
    refuse_overlap(trained, [ROWS[0], ROWS[2]])
    with pytest.raises(StudyError) as told:
        refuse_overlap(trained, [ROWS[0], ROWS[1], ROWS[5]])
    assert "overlap: 1 of 3 rows were trained on (q1)" in str(told.value)
    assert "overlap: 1 of 3 rows show pictures that were trained on (q5)" in str(told.value)

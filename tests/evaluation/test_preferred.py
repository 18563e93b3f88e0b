"""Whether a model has learnt what was preferred, or only how long that was."""

import numpy as np
import pytest

from kit.errors import DataError
from kit.evaluation.preferred import contradicted, preference_accuracy

TOKENS = np.array([[3, 5], [4, 2], [6, 2], [7, 7]])


def test_the_share_of_rows_in_which_the_chosen_answer_is_ahead():
    found = preference_accuracy([[1.0, 0.5], [-1.0, -3.0], [0.0, 0.0], [0.2, 0.3]], TOKENS, split="test")
    one = found["preference_accuracy"]
    assert (one.value, one.n, one.split, one.better) == (2.5 / 4, 4, "test", "higher")
    assert one.baseline == 2.5 / 4, "always the longer: right twice, and by half where both are as long"
    assert one.low <= one.value <= one.high
    assert not one.faults("x")


def test_a_model_that_has_only_learnt_length_is_found_out():
    generator = np.random.default_rng(0)
    tokens = generator.integers(3, 30, size=(200, 2)) * np.array([2, 1]) + np.array([0, 1])
    taste = generator.normal(size=(200, 2)) + np.array([2, 0])
    by_length = preference_accuracy(tokens.astype(float), tokens, split="test")
    by_taste = preference_accuracy(taste, tokens, split="test")
    assert by_length["longer_ahead"].value == 1
    assert by_length["longer_ahead"].low > by_length["longer_ahead"].baseline + 0.1
    assert by_length["preference_accuracy"].value == by_length["preference_accuracy"].baseline > 0.6
    assert by_taste["preference_accuracy"].low > by_taste["preference_accuracy"].baseline
    assert abs(by_taste["longer_ahead"].value - by_taste["longer_ahead"].baseline) < 0.1


def test_rows_about_one_item_are_taken_together():
    gains = np.repeat([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], 10, axis=0)
    tokens = np.tile([[2, 3]], (40, 1))
    alone = preference_accuracy(gains, tokens, split="test")["preference_accuracy"]
    together = preference_accuracy(gains, tokens, split="test", clusters=np.arange(40) // 10)["preference_accuracy"]
    assert together.value == alone.value
    assert together.high - together.low > 1.5 * (alone.high - alone.low)


def test_no_lengths_to_compare_and_no_rows():
    assert "longer_ahead" not in preference_accuracy([[1.0, 0.0]], [[2, 2]], split="test")
    for gains, tokens in (([], []), ([[1.0, 2.0, 3.0]], [[1, 2, 3]]), ([[1.0, 2.0]], [[1, 2], [1, 2]])):
        with pytest.raises(DataError, match="preference_accuracy: gains have shape"):
            preference_accuracy(gains, tokens, split="test")


def test_votes_that_the_reward_model_of_the_others_contradicts_come_first():
    found = contradicted([[1.0, 0.0], [-2.0, 1.0], [0.5, 0.5], [900.0, -900.0], [-900.0, 900.0]])
    assert [place for place, _ in found] == [4, 1, 2, 0, 3]
    assert [chance for _, chance in found] == pytest.approx([0, 1 / (1 + np.e**3), 0.5, 1 / (1 + np.e**-1), 1])
    for scores in ([], [[1.0, 2.0, 3.0]], [1.0, 2.0]):
        with pytest.raises(DataError, match="contradicted: scores have shape"):
            contradicted(scores)


def test_mistaken_votes_are_found_by_a_reward_model_that_shares_the_raters_taste():
    generator = np.random.default_rng(0)
    scores = np.sort(generator.normal(size=(300, 2)), axis=1)[:, ::-1].copy()
    wrong = generator.random(300) < 0.2
    scores[wrong] = scores[wrong, ::-1]
    first = [place for place, _ in contradicted(scores + generator.normal(size=scores.shape) / 2)][:30]
    assert wrong[first].mean() > 0.8

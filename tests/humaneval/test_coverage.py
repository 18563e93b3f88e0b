"""The simulation that judges intervals is itself right: its truth, and where intervals are known to fail."""

import numpy as np
import pytest

from kit.humaneval.coverage import _truth, coverage
from kit.humaneval.ranking import Comparisons, davidson
from kit.humaneval.simulate import rater_tastes, simulated_votes


def test_the_truth_is_what_very_many_votes_say():
    tastes = {"rater_sd": 0.6, "item_sd": 0.8, "tie": 0.4}
    generator = np.random.default_rng(0)
    appeal = np.array([0.7, 0, -0.7]) + generator.normal(size=(50_000, 3))  # deviations of 0.6 and 0.8 together
    table = simulated_votes([0.7, 0, -0.7], raters=400, items=400, share=0.9, **tastes, seed=5)
    assert davidson(Comparisons.of(table)).strengths == pytest.approx(_truth(appeal, 0.4), abs=0.06)


def test_without_tastes_the_truth_is_the_strengths():
    assert _truth(np.tile([0.7, 0.0, -0.7], (10, 1)), 0.4) == pytest.approx([0.7, 0, -0.7])
    assert _truth(np.tile([0.7, 0.0, -0.7], (10, 1)), 0.0) == pytest.approx([0.7, 0, -0.7])


def test_tastes_are_those_of_the_votes():
    tastes = rater_tastes(2, raters=3, rater_sd=2.0, seed=4)
    table = simulated_votes([0, 0], raters=3, items=4000, rater_sd=2.0, tie=0.0, seed=4)
    for rater in range(3):
        own = davidson(Comparisons.of(table.only(table.rater == rater))).strengths
        assert own[0] - own[1] == pytest.approx(tastes[rater, 0] - tastes[rater, 1], abs=0.25)


def test_intervals_cover_and_naive_ones_do_not():
    found = coverage([0.4, -0.4], raters=8, items=60, rater_sd=0.4, item_sd=1.2, studies=100, rounds=100)
    for name in ("these_raters", "sandwich", "sandwich_new"):
        assert 0.89 <= found[name].value <= 1.0, name
        assert found[name].low <= found[name].value <= found[name].high
    assert found["naive"].high < 0.9
    assert found["naive_new"].value < found["naive"].value
    assert found["sandwich"].n == 100

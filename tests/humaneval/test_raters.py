"""Sides, repeats, gold, speed and leaving a rater out: against plain loops."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest

from kit.humaneval.ranking import Comparisons, davidson
from kit.humaneval.raters import (
    gold_accuracy,
    leave_one_out,
    left_share,
    median_seconds,
    rater_reports,
    same_side,
    self_consistency,
)
from kit.humaneval.simulate import simulated_votes
from kit.humaneval.table import FIRST, GOLD, REPEAT, TableBuilder, VoteTable, meaning


def rows(*votes):
    """A table of (rater, item, left, right, answer, kind)."""
    builder = TableBuilder()
    who, what, left, right, answers, kinds = zip(*votes, strict=True)
    said = list(map(meaning, zip(left, right, strict=True), answers, kinds))
    builder.add(who, what, said, [2000] * len(votes))
    return builder.table()


def test_the_left_side():
    fair, biased = (simulated_votes([0.5, 0], raters=4, items=200, left_bias=bias, seed=0) for bias in (0.0, 0.7))
    found = left_share(fair)
    assert found.low < 0.5 < found.high
    found = left_share(biased)
    decided = biased.only(biased.answer < 2)
    left = int((decided.answer == 0).sum())
    assert found.value == left / len(decided)
    assert found.low > 0.55
    assert f"p = {binomtest(left, len(decided)).pvalue:.3g}" in found.method
    assert found.better == "neither"
    assert left_share(VoteTable.of(["a"], ["b"], ["tie"])) is None


def test_a_fair_coin_is_called_biased_as_often_as_it_should():
    p = [
        float(
            left_share(simulated_votes([2.0, 0], raters=3, items=40, rater_sd=1, item_sd=1, seed=n))
            .method.split("p = ")[1]
            .split(";")[0]
        )
        for n in range(400)
    ]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.08


REPEATED = [
    ("ana", "i", "a", "b", "left", "first"),
    ("ana", "i", "b", "a", "right", "repeat"),  # a both times
    ("ana", "j", "a", "b", "left", "first"),
    ("ana", "j", "b", "a", "left", "repeat"),  # left both times
    ("ana", "k", "a", "b", "tie", "first"),
    ("ana", "k", "b", "a", "tie", "repeat"),
    ("ana", "l", "a", "b", "tie", "first"),
    ("ana", "l", "b", "a", "both_bad", "repeat"),  # not the same
    ("ben", "i", "a", "b", "right", "first"),  # somebody else's
    ("ben", "m", "a", "b", "left", "repeat"),  # without a first time
]


def test_repeats():
    table = rows(*REPEATED)
    assert (self_consistency(table).value, self_consistency(table).n) == (0.5, 4)
    assert (same_side(table).value, same_side(table).n) == (0.5, 2)
    assert self_consistency(rows(*REPEATED[:1])) is None
    assert same_side(rows(*REPEATED[4:6])) is None


def test_gold():
    table = rows(
        ("ana", "g", "right", "wrong", "left", "gold"),
        ("ana", "h", "wrong", "right", "left", "gold"),
        ("ana", "i", "wrong", "right", "right", "gold"),
        ("ana", "j", "wrong", "right", "tie", "gold"),
        ("ana", "k", "a", "b", "tie", "first"),
    )
    assert (gold_accuracy(table).value, gold_accuracy(table).n) == (0.5, 4)
    assert gold_accuracy(table.kinds(FIRST)) is None
    assert gold_accuracy(rows(("ana", "g", "wrong", "x", "left", "gold"))).value == 0


def test_leaving_one_out_is_fitting_the_others():
    table = simulated_votes([0.6, 0, -0.6], raters=5, items=40, rater_sd=0.8, seed=4)
    whole = davidson(Comparisons.of(table)).strengths
    found = leave_one_out(table)
    assert list(found) == list(table.raters)
    for code, rater in enumerate(table.raters):
        alone = davidson(Comparisons.of(table.only(table.rater != code))).strengths
        assert found[rater] == pytest.approx(alone - whole, abs=2e-3)  # a hundredth of a vote a pair
    assert np.isnan(leave_one_out(table.only(table.rater == 0))["simulated rater 0"]).all()
    one_way = VoteTable.of(["a", "a"], ["b", "b"], ["left", "left"], raters=["x", "y"])
    assert np.isnan(leave_one_out(one_way)["x"]).all()


def test_reports_name_the_odd_one_out():
    table = simulated_votes([0.8, -0.8], raters=5, items=60, seed=0)
    odd = table.rater == 3
    against = np.where(odd & (table.answer < 2), 1 - table.answer, table.answer).astype(np.int8)
    ms = np.full(len(table), 4000, np.int32)
    ms[0] = 10_000_000
    reports = rater_reports(replace(table, answer=against, ms=ms))
    assert len(reports) == 5
    assert max(reports, key=lambda one: one.shift).rater == "simulated rater 3"
    assert {one.votes for one in reports} == {60}
    assert {one.median_s for one in reports} == {4.0}
    assert reports[0].self_consistency is reports[0].gold_accuracy is None
    assert reports[0].tie_share == ((table.answer > 1) & (table.rater == 0)).sum() / 60


def test_speed_without_pauses():
    table = simulated_votes([0, 0], raters=1, items=4, seed=0)
    assert np.isnan(median_seconds(table))
    assert median_seconds(replace(table, ms=np.array([0, 1000, 3000, 700_000], np.int32))) == 2.0


def test_repeats_and_gold_are_not_ranked():
    table = simulated_votes([0.5, -0.5], raters=2, items=30, seed=0)
    for kind in (REPEAT, GOLD):
        assert len(replace(table, kind=np.full(len(table), kind, np.int8)).comparisons()) == 0
    assert rater_reports(replace(table, kind=np.full(len(table), REPEAT, np.int8))) == ()

"""Shares of one mean in another: by definition, with intervals that cover, and none where the whole may be nothing."""

import numpy as np
import pytest

from kit.errors import DataError
from kit.evaluation.shares import share_of


def test_it_is_the_ratio_of_means_with_the_rows_drawn_together():
    rng = np.random.default_rng(0)
    whole = rng.random(400)
    found = share_of(0.9 * whole, whole, split="test", what="kept over had")
    assert found.value == pytest.approx(0.9)
    assert (found.low, found.high) == pytest.approx((0.9, 0.9)), "a fixed share has no noise, however rows scatter"
    assert found.n == 400
    assert found.method.startswith("kept over had, ratio of means")


def test_the_interval_covers_the_true_ratio():
    rng, covered = np.random.default_rng(1), 0
    for trial in range(200):
        whole = rng.normal(1.0, 1.0, 150)
        part = 0.6 * whole + rng.normal(0, 0.5, 150)
        found = share_of(part, whole, split="test", seed=trial)
        covered += found.low <= 0.6 <= found.high
    assert 0.90 <= covered / 200 <= 0.985


def test_clusters_widen_it():
    rng = np.random.default_rng(2)
    part, whole = np.repeat(rng.normal(0.5, 1, 40), 10), np.ones(400)
    alone = share_of(part, whole, split="test")
    together = share_of(part, whole, split="test", clusters=np.repeat(np.arange(40), 10).tolist())
    assert together.high - together.low > 2 * (alone.high - alone.low)
    assert "over clusters" in together.method


def test_a_whole_that_may_be_nothing_gives_no_interval():
    rng = np.random.default_rng(3)
    whole = rng.normal(0.02, 1, 100)
    whole += 0.02 - whole.mean()
    found = share_of(np.ones(100), whole, split="test")
    assert found.low is None
    assert "no interval: the whole is not above 0 in" in found.method
    for part, other, said in (
        ([1.0, 2.0], [-1.0, -2.0], "says nothing"), ([1.0], [1.0, 2.0], "one number per row"),
        ([np.nan], [1.0], "finite"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said):
            share_of(part, other, split="test")

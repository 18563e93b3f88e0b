"""Paired differences: what both find alike is no noise."""

import numpy as np
import pytest
import torch

from kit.errors import DataError
from kit.evaluation.paired import recall, recall_gain
from kit.evaluation.scores import retrieval


def matrices(n=40, seeds=3, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.eye(n) + noise * torch.rand(n, n, generator=generator) for _ in range(seeds)]


def by_hand(similarity, k):
    return np.array([(row > row[place]).sum() < k for place, row in enumerate(similarity.numpy())], dtype=float)


def test_recall_is_retrievals_own():
    found = recall(matrices(noise=1.4), k=5, split="test")
    expected = retrieval(matrices(noise=1.4), split="test")["recall_at_5"]
    assert (found.value, found.low, found.high, found.n, found.baseline) == (
        expected.value, expected.low, expected.high, expected.n, expected.baseline,
    )  # fmt: skip
    assert 0 < found.low < found.value < found.high < 1


def test_a_gain_is_the_mean_difference_with_the_interval_of_differences():
    one, other = matrices(noise=1.3), matrices(noise=1.6, seed=1)
    found = recall_gain(one, other, k=1, split="val", over="seeds in one language")
    difference = np.mean([by_hand(a, 1) - by_hand(b, 1) for a, b in zip(one, other, strict=True)], axis=0)
    assert found.value == pytest.approx(difference.mean())
    draws = np.random.default_rng(7).choice(difference, size=(4000, len(difference))).mean(1)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.02)
    assert (found.baseline, found.n, found.split) == (0.0, 40, "val")
    assert found.method.startswith("paired differences, mean of 3 seeds in one language, percentile bootstrap")


def test_what_both_find_alike_widens_nothing():
    half = torch.eye(80)
    half[::2] = 1 - half[::2]
    better = half.clone()
    better[:8] = torch.eye(80)[:8]
    alone, paired = recall([half], k=1, split="test"), recall_gain([better], [half], k=1, split="test")
    assert (alone.value, paired.value) == (0.5, 4 / 80)
    assert paired.high - paired.low < (alone.high - alone.low) / 2


def test_clusters_are_drawn_whole():
    rows = [str(place // 10) for place in range(40)]
    better = torch.eye(40)
    worse = better.clone()
    worse[:20] = 1 - worse[:20]
    apart = recall_gain([better], [worse], k=1, split="test")
    together = recall_gain([better], [worse], k=1, split="test", clusters=rows)
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_models_that_were_not_asked_the_same_are_refused():
    with pytest.raises(DataError, match="ask both models the same"):
        recall_gain(matrices(), matrices(seeds=2), k=1, split="test")
    with pytest.raises(DataError, match="no similarities were given"):
        recall([], k=1, split="test")

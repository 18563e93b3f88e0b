"""Intervals against scipy and by simulation."""

import numpy as np
import pytest
import scipy.stats

from kit.intervals import bootstrap, exact


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (1, 10), (10, 10), (37, 311), (1, 1)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_exact_is_clopper_and_pearsons(successes, n, level):
    tail = (1 - level) / 2
    low = 0 if successes == 0 else scipy.stats.beta.ppf(tail, successes, n - successes + 1)
    high = 1 if successes == n else scipy.stats.beta.ppf(1 - tail, successes + 1, n - successes)
    found = exact(successes, n, level=level)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert found.level == level


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_bootstrap_agrees_with_scipys(statistic):
    values = np.random.default_rng(3).exponential(size=200)
    mine = bootstrap(values, statistic=statistic, rounds=4000)
    theirs = scipy.stats.bootstrap(
        (values,), getattr(np, statistic), method="percentile", n_resamples=4000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (mine.low, mine.high) == pytest.approx(theirs, rel=0.04)


def test_bootstrap_covers_as_often_as_it_says():
    generator = np.random.default_rng(0)
    trials = 400
    hits = 0
    for trial in range(trials):
        sample = generator.random(100) < 0.3
        found = bootstrap(sample, rounds=400, seed=trial)
        hits += found.low <= 0.3 <= found.high
    assert 0.91 <= hits / trials <= 0.98  # nominal 0.95, standard error of the simulation 0.011


def test_cluster_bootstrap_covers_where_the_item_bootstrap_does_not():
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 5)
    hits = {"items": 0, "clusters": 0}
    trials = 200
    for trial in range(trials):
        values = np.repeat(generator.normal(size=40), 5) + 0.3 * generator.normal(size=200)
        for name, clusters in (("items", None), ("clusters", labels.tolist())):
            found = bootstrap(values, clusters=clusters, rounds=300, seed=trial)
            hits[name] += found.low <= 0 <= found.high
    assert hits["clusters"] / trials > 0.89
    assert hits["items"] / trials < 0.75


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_cluster_interval_is_wider_for_clustered_data(statistic):
    generator = np.random.default_rng(5)
    values = np.repeat(generator.normal(size=30), 10)
    labels = [f"concept {number // 10}" for number in range(300)]
    items = bootstrap(values, statistic=statistic)
    clusters = bootstrap(values, statistic=statistic, clusters=labels)
    assert clusters.high - clusters.low > 1.7 * (items.high - items.low)
    assert "over clusters" in clusters.method
    assert "over items" in items.method


def test_clusters_of_one_item_are_items():
    values = np.random.default_rng(2).normal(size=300)
    items, clusters = bootstrap(values, rounds=4000), bootstrap(values, clusters=list(range(300)), rounds=4000)
    assert (items.low, items.high) == pytest.approx((clusters.low, clusters.high), abs=0.02)


def test_same_seed_same_interval():
    values = np.random.default_rng(2).normal(size=50)
    assert bootstrap(values, seed=1) == bootstrap(values, seed=1)
    assert bootstrap(values, seed=1) != bootstrap(values, seed=2)


def test_a_single_item_or_cluster_has_no_width():
    assert bootstrap([3.0]).low == bootstrap([3.0]).high == 3.0
    one = bootstrap([1.0, 5.0], clusters=["a", "a"])
    assert one.low == one.high == 3.0


def test_blocks_do_not_change_the_number_of_rounds():
    values = np.arange(30_000.0)  # drawn in several blocks
    labels = np.arange(30_000).tolist()
    for found in (bootstrap(values, rounds=300), bootstrap(values, clusters=labels, rounds=300)):
        assert found.low < 14_999.5 < found.high
        assert found.high - found.low == pytest.approx(4 * values.std() / 30_000**0.5, rel=0.2)


@pytest.mark.parametrize(
    ("values", "options", "said"),
    [
        ([], {}, "one number per item"),
        ([[1.0]], {}, "got shape"),
        ([1.0, np.nan], {}, "1 of 2 are no finite numbers"),
        ([1.0], {"statistic": "mode"}, "'mean' or 'median', got 'mode'"),
        ([1.0, 2.0], {"clusters": ["a"]}, "1 labels for 2 values"),
        ([1.0], {"level": 95}, "level: above 0 and below 1"),
        ([1.0], {"rounds": 0}, "rounds: at least 1"),
    ],
)
def test_bad_input(values, options, said):
    with pytest.raises(ValueError, match=said):
        bootstrap(values, **options)

"""Bootstrap and sandwich against plain loops, and the coverage of every interval by simulation."""

import numpy as np
import pytest
from scipy.stats import t as student

from kit.humaneval.ranking import Comparisons, bradley_terry, davidson
from kit.humaneval.resample import BLOCK, _two_way_counts, prompt_rounds, rater_prompt_rounds, sandwich
from kit.humaneval.simulate import simulated_votes


@pytest.fixture(scope="module")
def table():
    return simulated_votes([0.5, 0.0, -0.5], raters=4, items=50, rater_sd=0.4, item_sd=0.6, share=0.7, seed=1)


def literally(table, rounds, *, raters, seed=0):
    """Bootstrap by copying votes about: prompts, and raters if asked, drawn with replacement."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(rounds):
        prompts = np.bincount(generator.integers(50, size=50), minlength=50)
        people = np.bincount(generator.integers(4, size=4), minlength=4) if raters else np.ones(4, int)
        rows = np.repeat(np.arange(len(table)), prompts[table.item] * people[table.rater])
        found.append(davidson(Comparisons.of(table.only(rows))).strengths if len(rows) else np.full(3, np.nan))
    return np.array(found)


def test_prompt_rounds_are_a_prompt_bootstrap(table):
    comparisons = Comparisons.of(table)
    fit = davidson(comparisons)
    mine = prompt_rounds(comparisons, table.item, davidson, start=fit, rounds=2000, seed=0)
    theirs = literally(table, 600, raters=False)
    assert mine.shape == (2000, 3)
    assert mine.mean(0) == pytest.approx(theirs.mean(0), abs=0.02)
    assert mine.std(0) == pytest.approx(theirs.std(0), rel=0.12)


def test_two_way_rounds_are_a_pigeonhole_bootstrap(table):
    comparisons = Comparisons.of(table)
    fit = davidson(comparisons)
    mine = rater_prompt_rounds(comparisons, table.item, table.rater, davidson, start=fit, rounds=2000, seed=0)
    theirs = literally(table, 600, raters=True)
    assert mine.std(0) == pytest.approx(theirs.std(0), rel=0.12)
    # Owen (2007): the noise of single votes counts three times.
    one_way = prompt_rounds(comparisons, table.item, davidson, start=fit, rounds=500, seed=0)
    assert (mine.std(0) > one_way.std(0)).all()


def test_prompts_with_one_vote_and_with_many_are_drawn_alike():
    table = simulated_votes([0.5, 0.0, -0.5], raters=1, items=400, share=0.3, seed=2)
    comparisons = Comparisons.of(table)
    fit = davidson(comparisons)
    single = np.arange(len(table), dtype=np.int32)
    doubled = [np.concatenate([one, one]) for one in (comparisons.cell, single)]
    twice = Comparisons(comparisons.models, comparisons.first, comparisons.second, doubled[0])
    by_cell = prompt_rounds(comparisons, single, davidson, start=fit, rounds=3000, seed=0)
    by_prompt = prompt_rounds(twice, doubled[1], davidson, start=fit, rounds=3000, seed=0)  # every prompt has two votes
    assert by_cell.std(0) == pytest.approx(by_prompt.std(0), rel=0.06)


def test_blocks_and_seeds(table):
    comparisons = Comparisons.of(table)
    fit = bradley_terry(comparisons)
    draws = [
        prompt_rounds(comparisons, table.item, bradley_terry, start=fit, rounds=BLOCK + 7, seed=seed)
        for seed in (0, 0, 1)
    ]
    assert draws[0].shape == (BLOCK + 7, 3)
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).all()


def test_two_way_weights_are_products(table):
    comparisons = Comparisons.of(table)
    (counts,) = _two_way_counts(comparisons, table.item, table.rater, 5, np.random.default_rng(0))
    generator = np.random.default_rng(0)
    prompts = np.stack([np.bincount(row, minlength=50) for row in generator.integers(50, size=(5, 50))])
    people = np.stack([np.bincount(row, minlength=4) for row in generator.integers(4, size=(5, 4))])
    for number in range(5):
        weights = prompts[number][table.item] * people[number][table.rater]
        expected = np.bincount(comparisons.cell, weights, minlength=counts[0].size)
        assert (counts[number].ravel() == expected).all()


def test_a_round_in_which_a_model_loses_everything_stays_finite():
    table = simulated_votes([2.0, -2.0], raters=1, items=20, tie=0.0, seed=1)
    comparisons = Comparisons.of(table)
    draws = prompt_rounds(comparisons, table.item, bradley_terry, start=bradley_terry(comparisons), rounds=200, seed=0)
    assert 3 < np.abs(draws).max() < 5  # far out, at half the log of 20 votes over half a hundredth


def by_loops(table, fit, clusters, *, ties):
    """The sandwich as its definition: scores vote by vote, summed by cluster, outer products summed."""
    m = len(table.models)
    scores, information = {}, np.zeros((m + 1, m + 1))
    for left, right, answer, cluster in zip(table.left, table.right, table.answer, clusters, strict=True):
        gap = fit.strengths[left] - fit.strengths[right]
        weights = np.array([np.exp(gap / 2), np.exp(-gap / 2), np.exp(fit.log_tie)])
        chances = weights / weights.sum()
        features = np.zeros((3, m + 1))
        features[0, left] = features[1, right] = features[2, m] = 1
        features[0, right] = features[1, left] = 0
        features[0, [left, right]], features[1, [left, right]] = (0.5, -0.5), (-0.5, 0.5)
        mean = chances @ features
        if ties:
            score = features[min(answer, 2)] - mean
        else:
            score = (features[answer] if answer < 2 else np.zeros(m + 1)) - mean
        scores[cluster] = scores.get(cluster, 0) + score
        information += (features.T * chances) @ features - np.outer(mean, mean)
    size = m + ties
    meat = sum(np.outer(one, one) for one in scores.values())[:size, :size] * len(scores) / (len(scores) - 1)
    bread = np.linalg.pinv(information[:size, :size], rcond=1e-9)
    return (bread @ meat @ bread)[:m, :m]


@pytest.mark.parametrize(("fit", "ties"), [(davidson, True), (bradley_terry, False)])
def test_the_sandwich_is_its_definition(table, fit, ties):
    comparisons = Comparisons.of(table)
    found = fit(comparisons)
    assert sandwich(comparisons, found, (table.item,), ties=ties) == pytest.approx(
        by_loops(table, found, table.item, ties=ties)
    )
    both = table.item * 10 + table.rater
    one, other, cross = (by_loops(table, found, clusters, ties=ties) for clusters in (table.item, table.rater, both))
    values, vectors = np.linalg.eigh(one + other - cross)
    expected = (vectors * np.maximum(values, 0)) @ vectors.T
    assert sandwich(comparisons, found, (table.item, table.rater), ties=ties) == pytest.approx(expected, abs=1e-9)


# Rater and prompt tastes, as standard deviations in log-odds; the truth is what infinitely many prompts and raters say.
@pytest.mark.parametrize(("rater_sd", "item_sd"), [(0.0, 0.0), (0.4, 0.7)])
def test_coverage_by_simulation(rater_sd, item_sd):
    strengths, trials, raters, prompts = [0.4, 0.0, -0.4], 200, 6, 60
    tastes = {"rater_sd": rater_sd, "item_sd": item_sd}
    big = simulated_votes(strengths, raters=500, items=500, share=0.4, **tastes, seed=99)
    truth = davidson(Comparisons.of(big)).strengths
    hits = {"new raters": 0, "naive": 0}
    for trial in range(trials):
        table = simulated_votes(strengths, raters=raters, items=prompts, share=0.5, **tastes, seed=trial)
        comparisons = Comparisons.of(table)
        fit = davidson(comparisons)
        single = np.arange(len(table), dtype=np.int32)
        for name, clusters, degrees in (
            ("new raters", (table.item, table.rater), raters - 1),
            ("naive", (single,), 10**6),
        ):
            reach = student.ppf(0.975, degrees) * np.sqrt(np.diag(sandwich(comparisons, fit, clusters, ties=True)))
            hits[name] += (np.abs(fit.strengths - truth) <= reach).mean()
    assert 0.92 <= hits["new raters"] / trials <= 0.98  # nominal 0.95, standard error of the simulation 0.01
    assert (hits["naive"] / trials < 0.75) == (rater_sd > 0)  # what ignoring raters and prompts does

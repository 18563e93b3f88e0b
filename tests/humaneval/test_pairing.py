"""Asking where a vote tells most: what it prefers, that it costs no honesty, and that it saves votes."""

import numpy as np
import pytest
from scipy.stats import t as student
from small_studies import make_study

from kit.humaneval.errors import StudyError
from kit.humaneval.items import Item, Output
from kit.humaneval.pairing import SHARPNESS, by_information, pair_chances
from kit.humaneval.ranking import Comparisons, davidson
from kit.humaneval.resample import sandwich
from kit.humaneval.schedule import tasks_of
from kit.humaneval.table import VoteTable

NAMES = tuple("abcde")
TRUE = np.linspace(2.5, -2.5, 6)
STUDIES = 100


def chance(table, first, second, **options):
    return pair_chances(table, NAMES, **options)[frozenset((first, second))]


def test_before_any_vote_all_pairs_are_equal():
    chances = pair_chances(VoteTable.of([], [], []), NAMES)
    assert list(chances.values()) == pytest.approx([0.1] * 10)


def test_close_and_seldom_compared_pairs_come_first():
    rounds = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("e", "a")] * 6
    left, right = zip(*rounds, strict=True)
    answers = ["left" if number % 10 < 8 or a == "e" else "right" for number, (a, _) in enumerate(rounds)]
    table = VoteTable.of(left, right, answers)
    assert sum(pair_chances(table, NAMES).values()) == pytest.approx(1)
    often = VoteTable.of([*left, *["a"] * 60], [*right, *["b"] * 60], [*answers, *["left", "right"] * 30])
    assert chance(often, "a", "b") < chance(often, "a", "c")
    # Two models that are far apart tell less than two that are level, compared equally often.
    apart = VoteTable.of(
        ["a"] * 40 + ["c"] * 40, ["b"] * 40 + ["d"] * 40, ["left"] * 39 + ["right"] + ["left", "right"] * 20
    )
    assert chance(apart, "a", "b") < chance(apart, "c", "d")


def test_a_random_share_is_kept():
    table = VoteTable.of(["a"] * 500, ["b"] * 500, ["left", "right"] * 250)
    assert chance(table, "a", "b", random_share=0.5) == pytest.approx(0.05, abs=0.01)
    assert chance(table, "a", "b", random_share=1.0) == pytest.approx(0.1)
    assert min(pair_chances(table, NAMES).values()) >= 0.02


def test_the_gain_is_that_of_the_determinant():
    table = VoteTable.of(list("aabbcd") * 4, list("bcccde") * 4, (["left", "right", "tie"] * 8))
    comparisons = Comparisons.of(table)
    fit = davidson(comparisons, comparisons.counts + np.array([[0.5], [0.5], [0.0]]))

    def information(counts):
        found = np.eye(5) / 4
        for (i, j), n in counts.items():
            won, lost, _ = fit.odds(np.array([i]), np.array([j]))
            weight = n * float(((won + lost) / 4 - ((won - lost) / 2) ** 2)[0])
            found[[i, j], [i, j]] += weight
            found[[i, j], [j, i]] -= weight
        return found

    counts = dict.fromkeys([(i, j) for i in range(5) for j in range(i + 1, 5)], 0.0)
    for i, j, n in zip(comparisons.first, comparisons.second, comparisons.counts.sum(0), strict=True):
        counts[int(i), int(j)] = n
    before = np.linalg.slogdet(information(counts))[1]
    gains = np.array(
        [np.linalg.slogdet(information({**counts, pair: counts[pair] + 1}))[1] - before for pair in counts]
    )
    chances = pair_chances(table, NAMES, random_share=0.2)
    expected = 0.2 / 10 + 0.8 * gains**SHARPNESS / (gains**SHARPNESS).sum()
    assert list(chances.values()) == pytest.approx(expected)


def adaptive(generator, votes, *, batch, random_share):
    """A study whose pairs are chosen as it goes, each vote on an item of its own."""
    sides, answers = np.empty((0, 2), np.int32), np.empty(0, np.int8)
    models = tuple(f"model {number}" for number in range(len(TRUE)))

    def table():
        n = len(answers)
        zeros, items = np.zeros(n, np.int32), np.arange(n, dtype=np.int32)
        flat = zeros.astype(np.int8)
        return VoteTable(models, ("",), tuple(map(str, items)), *sides.T, answers, zeros, items, flat, zeros)

    while len(answers) < votes:
        chances = pair_chances(table(), models, random_share=random_share)
        pairs = np.array([sorted(models.index(name) for name in pair) for pair in chances], np.int32)
        drawn = pairs[generator.choice(len(pairs), size=batch, p=list(chances.values()))]
        shown = generator.permuted(drawn, axis=1)
        gap = TRUE[shown[:, 0]] - TRUE[shown[:, 1]]
        weights = np.stack([np.exp(gap / 2), np.exp(-gap / 2), np.full(batch, 0.5)])
        told = (generator.random(batch) > np.cumsum(weights / weights.sum(0), axis=0)).sum(0)
        sides, answers = np.concatenate([sides, shown]), np.concatenate([answers, told.astype(np.int8)])
    return table()


@pytest.fixture(scope="module")
def studies():
    """Strengths and hits of their intervals, in adaptive studies and in ones with uniform pairs."""
    found = {}
    for share in (0.2, 1.0):
        generator = np.random.default_rng(7)
        rows = []
        for _ in range(STUDIES):
            table = adaptive(generator, 600, batch=60, random_share=share)
            comparisons = Comparisons.of(table)
            fit = davidson(comparisons)
            covariance = sandwich(comparisons, fit, (table.item,), ties=True)
            reach = student.ppf(0.975, len(table) - 1) * np.sqrt(np.diag(covariance))
            rows.append((fit.strengths, np.abs(fit.strengths - TRUE) <= reach))
        found[share] = [np.array(one) for one in zip(*rows, strict=True)]
    return found


def test_intervals_keep_their_coverage(studies):
    for _, hits in studies.values():
        assert 0.92 <= hits.mean() <= 0.98  # nominal 0.95, standard error of the simulation 0.01


def test_strengths_are_no_more_biased_than_with_uniform_pairs(studies):
    biases = {share: (strengths - TRUE).mean(0) for share, (strengths, _) in studies.items()}
    error = studies[0.2][0].std(0) / np.sqrt(STUDIES)
    assert (np.abs(biases[0.2]) < np.abs(biases[1.0]) + 3 * error).all()


def test_neighbours_are_told_apart_with_fewer_votes(studies):
    variances = {share: np.diff(strengths, axis=1).var(0).mean() for share, (strengths, _) in studies.items()}
    assert variances[0.2] < 0.85 * variances[1.0]


def test_tasks_come_by_their_pairs_chances():
    study = make_study(n=120, conditions=("a", "b", "c"), repeats=0.1, gold=_gold())
    tasks = tasks_of(study, "ana")
    chances = {frozenset("ab"): 0.8, frozenset("bc"): 0.15, frozenset("ac"): 0.05}
    ordered = by_information(tasks, chances, seed=1)
    assert sorted(task.key for task in ordered) == sorted(task.key for task in tasks)
    assert [task.kind for task in ordered] == [task.kind for task in tasks]
    early = [frozenset(task.shown) for task in ordered if task.kind == "first"][:60]
    assert early.count(frozenset("ab")) > 35
    assert by_information(tasks, chances, seed=1) == ordered != by_information(tasks, chances, seed=2)


def _gold():
    return (Item("gold", {"right": Output("r"), "wrong": Output("w")}, "p"),)


def test_bad_input():
    with pytest.raises(StudyError, match=r"1 models given, two are needed\n.*random_share must be above 0"):
        pair_chances(VoteTable.of([], [], []), ("a",), random_share=0)

"""Asking where a vote tells most: what it prefers, that it costs no honesty, and that it saves votes."""

import math

import numpy as np
import pytest
from scipy.stats import t as student
from small_studies import cast, make_study

from kit.humaneval.coverage import _truth
from kit.humaneval.errors import StudyError
from kit.humaneval.items import Item, Output
from kit.humaneval.pairing import SHARPNESS, by_information, pair_chances
from kit.humaneval.ranking import Comparisons, davidson
from kit.humaneval.resample import sandwich
from kit.humaneval.schedule import tasks_of
from kit.humaneval.session import Session
from kit.humaneval.table import VoteTable

NAMES = tuple("abcde")
TRUE = np.linspace(2.5, -2.5, 6)
ITEM_SD = 0.5  # of an item's own bias for each model, log-odds
STUDIES = 60


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


def adaptive(generator, study, tasks, votes, *, batch):
    """A study whose raters are asked what ``PairChoice`` puts next, a batch each in turn, until there are enough votes.

    Items favour one model or the other; raters are alike.
    """
    drawn = generator.normal(size=(len(study.items), len(TRUE))) * ITEM_SD
    bias = dict(zip(study.by_id, drawn, strict=True))
    place = {name: number for number, name in enumerate(study.conditions)}
    rows, answered, number = [], {rater: [] for rater in study.raters}, 0

    def table():
        lists = [list(column) for column in zip(*rows, strict=True)] or [[]] * 5
        return VoteTable.of(*lists[:3], raters=lists[3], items=lists[4])

    while len(rows) < votes:
        rater = study.raters[number % len(study.raters)]
        number += 1
        if study.informative:
            chances = pair_chances(table(), study.conditions, random_share=1 - study.informative)
            order = by_information(tasks[rater], chances, seed=int(generator.integers(2**31)), answered=answered[rater])
        else:
            order = tasks[rater]
        closed = set(answered[rater])
        for task in [task for task in order if task not in closed][:batch]:
            worth = [TRUE[place[name]] + bias[task.item][place[name]] for name in task.shown]
            won = math.exp((worth[0] - worth[1]) / 2)
            luck = generator.random() * (won + 1 / won + 0.5)
            answer = "left" if luck < won else "right" if luck < won + 1 / won else "tie"
            rows.append((*task.shown, answer, rater, task.item))
            answered[rater].append(task)
    return table()


@pytest.fixture(scope="module")
def studies():
    """Errors of strengths and hits of their intervals, by the share of pairs that was chosen."""
    draws = np.random.default_rng(1).normal(size=(1000, len(TRUE))) * ITEM_SD
    truth = _truth(TRUE + np.concatenate([draws, -draws]), 0.5)  # what votes on infinitely many items would say
    found = {}
    for informative in (0.8, 0.0):
        names = tuple(f"model {n}" for n in range(len(TRUE)))
        study = make_study(80, conditions=names, raters=("a", "b", "c"), informative=informative)
        generator, rows = np.random.default_rng(7), []
        tasks = {rater: tasks_of(study, rater) for rater in study.raters}
        for _ in range(STUDIES):
            table = adaptive(generator, study, tasks, 600, batch=40)
            comparisons = Comparisons.of(table)
            fit = davidson(comparisons)
            covariance = sandwich(comparisons, fit, (table.item,), ties=True)
            reach = student.ppf(0.975, len(np.unique(table.item)) - 1) * np.sqrt(np.diag(covariance))
            places = [table.models.index(name) for name in names]
            errors = fit.strengths[places] - truth
            rows.append((errors, np.abs(errors) <= reach[places]))
        found[informative] = [np.array(one) for one in zip(*rows, strict=True)]
    return found


def test_intervals_keep_their_coverage(studies):
    for _, hits in studies.values():
        assert 0.92 <= hits.mean() <= 0.98  # nominal 0.95, standard error of the simulation 0.013


def test_strengths_are_no_more_biased_than_with_uniform_pairs(studies):
    biases = {share: errors.mean(0) for share, (errors, _) in studies.items()}
    error = studies[0.8][0].std(0) / np.sqrt(STUDIES)
    assert (np.abs(biases[0.8]) < np.abs(biases[0.0]) + 3 * error).all()


def test_neighbours_are_told_apart_with_fewer_votes(studies):
    variances = {share: np.diff(errors, axis=1).var(0).mean() for share, (errors, _) in studies.items()}
    assert variances[0.8] < 0.9 * variances[0.0]


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


def test_what_was_answered_keeps_its_place():
    tasks = tasks_of(make_study(n=40, conditions=("a", "b", "c"), repeats=0.1), "ana")
    chances = {frozenset("ab"): 0.8, frozenset("bc"): 0.15, frozenset("ac"): 0.05}
    answered = [task for task in tasks if task.kind == "first"][:30]
    ordered = by_information(tasks, chances, seed=1, answered=answered)
    assert [ordered.index(task) for task in answered] == [tasks.index(task) for task in answered]
    assert ordered != tasks


def test_a_sitting_asks_where_a_vote_tells_most(store):
    shares = {}
    for informative in (0.0, 0.9):
        study = make_study(120, name=f"study {informative}", conditions=("one", "two", "far"), informative=informative)
        store.register(study)
        luck, level = np.random.default_rng(3), {"one", "two"}
        known = [task for task in tasks_of(study, "ben") if set(task.shown) != level]  # each of them with "far" alone
        answers = luck.choice(["left", "right"], len(known))
        votes = [cast(study, task, str(answer), rater="ben") for task, answer in zip(known, answers, strict=True)]
        store.append(study.name, votes)
        session, asked = Session(study, store, "ana", holder="ana's window"), []
        state = session.state()
        for _ in range(30):
            asked.append(session._tokens[state.page.token])
            state = session.answer(state.page.token, "tie")
        assert len({task.key for task in asked}) == 30
        shares[informative] = np.mean([set(task.shown) == level for task in asked])
    assert shares[0.0] == pytest.approx(1 / 3, abs=0.17)
    assert shares[0.9] > 0.65


def _gold():
    return (Item("gold", {"right": Output("r"), "wrong": Output("w")}, "p"),)


def test_bad_input():
    with pytest.raises(StudyError, match=r"1 models given, two are needed\n.*random_share must be above 0"):
        pair_chances(VoteTable.of([], [], []), ("a",), random_share=0)

"""Strengths against evalica, choix and a general optimiser; derivatives against differences."""

import choix
import evalica
import numpy as np
import pytest
from scipy.optimize import minimize

from kit.humaneval.ranking import Comparisons, Fit, bradley_terry, davidson, derivatives
from kit.humaneval.simulate import simulated_votes
from kit.humaneval.table import BOTH_BAD, LEFT, RIGHT

CASES = [(3, 1, 40, 0.0), (6, 4, 30, 0.5), (20, 3, 20, 0.3)]


def votes(case, seed=0):
    m, raters, items, tie = case
    return simulated_votes(np.linspace(-1, 1, m), raters=raters, items=items, tie=tie, seed=seed)


def matrices(table):
    """Wins and ties as a plain loop counts them."""
    m = len(table.models)
    wins, ties = np.zeros((m, m)), np.zeros((m, m))
    for left, right, answer in zip(table.left, table.right, table.answer, strict=True):
        if answer == LEFT:
            wins[left, right] += 1
        elif answer == RIGHT:
            wins[right, left] += 1
        else:
            ties[left, right] += 1
            ties[right, left] += 1
    return wins, ties


@pytest.mark.parametrize("case", CASES)
def test_cells_are_counts(case):
    table = votes(case)
    wins, ties = matrices(table)
    comparisons = Comparisons.of(table)
    expected = [wins[comparisons.first, comparisons.second], wins[comparisons.second, comparisons.first]]
    expected.append(ties[comparisons.first, comparisons.second])
    assert (comparisons.counts == np.stack(expected)).all()
    assert comparisons.counts.sum() == len(table)
    again = Comparisons.of_wins(table.models, wins, ties)
    assert (again.counts == comparisons.counts).all()


@pytest.mark.parametrize("case", CASES)
def test_bradley_terry_is_evalicas(case):
    table = votes(case)
    winners = {LEFT: evalica.Winner.X, RIGHT: evalica.Winner.Y}
    found = evalica.bradley_terry(
        [table.models[one] for one in table.left],
        [table.models[one] for one in table.right],
        [winners.get(answer, evalica.Winner.Draw) for answer in table.answer],
        tolerance=1e-13,
        limit=100_000,
    )
    theirs = np.log(found.scores.reindex(table.models).to_numpy())
    mine = bradley_terry(Comparisons.of(table)).strengths
    assert np.abs(mine - (theirs - theirs.mean())).max() < 1e-6


@pytest.mark.parametrize("case", CASES)
def test_without_ties_both_are_choixs(case):
    table = votes(case)
    table = table.only(table.answer <= RIGHT)
    theirs = choix.ilsr_pairwise_dense(matrices(table)[0], tol=1e-12, max_iter=10_000)
    comparisons = Comparisons.of(table)
    for fit in (bradley_terry, davidson):
        assert np.abs(fit(comparisons).strengths - (theirs - theirs.mean())).max() < 1e-6
    assert davidson(comparisons).log_tie == -np.inf


def davidson_loss(parameters, wins, ties):
    """Davidson's likelihood as his paper writes it, in p and nu."""
    p, nu = np.exp(parameters[:-1]), np.exp(parameters[-1])
    root = np.sqrt(np.outer(p, p))
    total = p[:, None] + p[None, :] + nu * root
    return -(wins * np.log(p[:, None] / total)).sum() - (np.triu(ties, 1) * np.log(nu * root / total)).sum()


@pytest.mark.parametrize("case", CASES[1:])
def test_davidson_is_what_an_optimiser_finds(case):
    table = votes(case)
    wins, ties = matrices(table)
    best = minimize(davidson_loss, np.zeros(case[0] + 1), args=(wins, ties), method="BFGS", options={"gtol": 1e-6})
    fit = davidson(Comparisons.of(table))
    assert np.abs(fit.strengths - (best.x[:-1] - best.x[:-1].mean())).max() < 1e-4
    assert fit.log_tie == pytest.approx(best.x[-1], abs=1e-4)
    mine = davidson_loss(np.append(fit.strengths, fit.log_tie), wins, ties)
    assert mine <= best.fun + 1e-9


def test_davidson_finds_what_was_simulated():
    table = simulated_votes([1.0, 0.0, -1.0], raters=20, items=1000, tie=0.6, seed=3)
    fit = davidson(Comparisons.of(table))
    assert fit.strengths == pytest.approx([1, 0, -1], abs=0.03)
    assert np.exp(fit.log_tie) == pytest.approx(0.6, abs=0.02)
    won, lost, tied = fit.odds(np.array([0]), np.array([2]))
    assert won + lost + tied == pytest.approx(1)
    share = table.only((table.left != 1) & (table.right != 1))
    assert tied[0] == pytest.approx((share.answer > RIGHT).mean(), abs=0.005)


def test_derivatives_are_those_of_the_likelihood():
    table = votes(CASES[1])
    comparisons = Comparisons.of(table)
    wins, ties = matrices(table)
    at = np.random.default_rng(0).normal(size=7) * 0.3
    gradient, information = derivatives(comparisons, comparisons.counts[None], Fit(at[None, :6], at[6:]), ties=True)
    h = 1e-5
    for i, step in enumerate(np.eye(7) * h):
        up, down = davidson_loss(at + step, wins, ties), davidson_loss(at - step, wins, ties)
        assert gradient[0, i] == pytest.approx(-(up - down) / (2 * h), rel=1e-5, abs=1e-4)
        for j, other in enumerate(np.eye(7) * h):
            ends = [davidson_loss(at + a * step + b * other, wins, ties) for a in (1, -1) for b in (1, -1)]
            assert information[0, i, j] == pytest.approx(
                (ends[0] - ends[1] - ends[2] + ends[3]) / (4 * h * h), abs=0.02
            )


def test_many_samples_at_once_are_each_ones_fit():
    comparisons = Comparisons.of(votes(CASES[1]))
    counts = np.random.default_rng(0).poisson(comparisons.counts, size=(5, *comparisons.counts.shape)).astype(float)
    for fit in (bradley_terry, davidson):
        together = fit(comparisons, counts, start=fit(comparisons))
        for sample, strengths, log_tie in zip(counts, together.strengths, together.log_tie, strict=True):
            alone = fit(comparisons, sample)
            assert np.abs(alone.strengths - strengths).max() < 1e-6
            assert log_tie == pytest.approx(alone.log_tie, abs=1e-6)


def test_both_bad_counts_as_a_tie():
    table = votes(CASES[1])
    assert (table.answer == BOTH_BAD).any()
    calm = simulated_votes(np.linspace(-1, 1, 6), raters=4, items=30, tie=0.5)
    calm.answer[calm.answer == BOTH_BAD] = 2
    assert (Comparisons.of(calm).counts == Comparisons.of(table).counts).all()


@pytest.mark.parametrize("scale", [1, 1000, 1_000_000])
def test_lopsided_counts_converge(scale):
    wins = np.array([[0, 999, 5000], [1, 0, 50], [1, 2, 0]]) * float(scale)
    fit = bradley_terry(Comparisons.of_wins("abc", wins, np.zeros((3, 3))) if scale == 1 else _cells(wins))
    theirs = choix.ilsr_pairwise_dense(wins, tol=1e-12, max_iter=10_000)
    assert np.abs(fit.strengths - (theirs - theirs.mean())).max() < 1e-6


@pytest.mark.parametrize("fit", [bradley_terry, davidson])
def test_a_bad_start_does_not_matter(fit):
    comparisons = Comparisons.of(votes(CASES[1]))
    far = Fit(np.array([9.0, -9, 5, -5, 7, -7]), np.array(-8.0))
    assert fit(comparisons, start=far).strengths == pytest.approx(fit(comparisons).strengths, abs=1e-9)


def _cells(wins):
    """Comparisons with given counts, without a row for each vote."""
    small = Comparisons.of_wins("abc", wins / wins[1, 0], np.zeros((3, 3)))
    small.__dict__["counts"] = np.stack([wins[[0, 0, 1], [1, 2, 2]], wins[[1, 2, 2], [0, 0, 1]], np.zeros(3)])
    return small

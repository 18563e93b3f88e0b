"""Bradley-Terry strengths, with Davidson's ties, by Newton's method on win counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from kit.humaneval.table import LEFT, RIGHT, VoteTable

Floats = NDArray[np.float64]
WON, LOST, TIED = range(3)
MAX_STEPS = 100
STEP = 3.0  # log-odds that one Newton step may go: far from the solution the curvature says little


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Votes collapsed to cells: for each pair of models that met, how often the first won, lost and tied.

    Args:
        models: Names, m of them.
        first: The first model of each pair, an index into ``models``, shape (p,).
        second: The second one, first < second, shape (p,).
        cell: Each vote's cell, ``outcome * p + pair`` with outcome WON, LOST or TIED, shape (n,).
    """

    models: tuple[str, ...]
    first: NDArray[np.int32]
    second: NDArray[np.int32]
    cell: NDArray[np.int32]

    @cached_property
    def counts(self) -> Floats:
        """Votes in each cell, shape (3, p)."""
        counts = np.bincount(self.cell, minlength=3 * len(self.first))
        return counts.reshape(3, -1).astype(np.float64)

    @classmethod
    def of(cls, table: VoteTable) -> Comparisons:
        """Return the cells of a table's votes; "both bad" is a tie here, since it prefers neither."""
        m = len(table.models)
        low, high = np.minimum(table.left, table.right), np.maximum(table.left, table.right)
        pairs, pair = np.unique(low.astype(np.int64) * m + high, return_inverse=True)
        won_by_left = np.where(table.left == low, WON, LOST)
        won_by_right = np.where(table.left == low, LOST, WON)
        outcome = np.select([table.answer == LEFT, table.answer == RIGHT], [won_by_left, won_by_right], TIED)
        cell = (outcome * len(pairs) + pair).astype(np.int32)
        return cls(table.models, (pairs // max(m, 1)).astype(np.int32), (pairs % max(m, 1)).astype(np.int32), cell)

    @classmethod
    def of_wins(cls, models: Sequence[str], wins: NDArray[np.float64], ties: NDArray[np.float64]) -> Comparisons:
        """Return the cells of a win matrix (row beat column) and a symmetric tie matrix, whole numbers, (m, m) each."""
        first, second = np.nonzero(np.triu(wins + wins.T + ties, 1))
        counts = np.stack([wins[first, second], wins[second, first], ties[first, second]]).astype(np.int64)
        cell = np.repeat(np.arange(counts.size), counts.ravel()).astype(np.int32)
        return cls(tuple(models), first.astype(np.int32), second.astype(np.int32), cell)


@dataclass(frozen=True, eq=False)
class Fit:
    """Maximum-likelihood strengths.

    Args:
        strengths: Natural log-odds scale, mean 0 over the models that have one, shape (..., m).
        log_tie: Log of Davidson's tie parameter, shape (...); -inf where ties are counted as half wins.
    """

    strengths: Floats
    log_tie: Floats

    def odds(self, first: NDArray[np.int32], second: NDArray[np.int32]) -> tuple[Floats, Floats, Floats]:
        """Return the probabilities that the first of each pair wins, loses and ties, shape (..., p) each."""
        half = (self.strengths[..., first] - self.strengths[..., second]) / 2
        # Scaled by the largest of the three terms, so that nothing overflows.
        tie = np.broadcast_to(np.expand_dims(self.log_tie, -1), half.shape)
        top = np.maximum(np.abs(half), tie)
        won, lost, tied = np.exp(half - top), np.exp(-half - top), np.exp(tie - top)
        total = won + lost + tied
        return won / total, lost / total, tied / total


def bradley_terry(comparisons: Comparisons, counts: Floats | None = None, *, start: Fit | None = None) -> Fit:
    """Return Bradley-Terry strengths, a tie counting as half a win for either side.

    Args:
        comparisons: The pairs that met, each model linked to each other by a chain of wins both ways
            (``identify`` tells; elsewhere there is no finite solution and the outcome is arbitrary).
        counts: Votes in each cell, shape (..., 3, p): many samples are fitted at once. By default the votes' own.
        start: Where to begin; a fit of similar counts saves steps.

    Returns:
        A fit for each sample.

    Source:
        Bradley and Terry (1952), Biometrika 39, 324-345; Hunter (2004), Annals of Statistics 32, 384-406.
    """
    votes = comparisons.counts if counts is None else counts
    halves = votes[..., :TIED, :] + votes[..., TIED:, :] / 2
    whole = np.concatenate([halves, np.zeros_like(halves[..., :1, :])], axis=-2)
    return _newton(comparisons, whole, start, ties=False)


def davidson(comparisons: Comparisons, counts: Floats | None = None, *, start: Fit | None = None) -> Fit:
    """Return strengths and the tie parameter nu of Davidson's model, P(i ties j) ~ nu sqrt(p_i p_j) beside p_i and p_j.

    Without ties it is Bradley-Terry. Arguments and conditions are those of ``bradley_terry``.

    Source:
        Davidson (1970), Journal of the American Statistical Association 65, 317-328.
    """
    votes = comparisons.counts if counts is None else counts
    if not votes[..., TIED, :].any():
        return _newton(comparisons, votes, start, ties=False)
    return _newton(comparisons, votes, start, ties=True)


def _newton(comparisons: Comparisons, counts: Floats, start: Fit | None, *, ties: bool) -> Fit:
    """Maximise the log-likelihood, concave in (strengths, log tie), for samples of shape (..., 3, p)."""
    m, shape = len(comparisons.models), counts.shape[:-2]
    samples = counts.reshape(-1, *counts.shape[-2:])
    strengths = np.zeros((len(samples), m)) + (0.0 if start is None else start.strengths)
    log_tie = np.zeros(len(samples)) + (0.0 if start is None or not ties else start.log_tie)
    log_tie = log_tie if ties else np.full(len(samples), -np.inf)
    tolerance = 1e-10 if len(samples) == 1 else 1e-7  # far below the noise of a bootstrap round
    active = np.arange(len(samples))
    for _ in range(MAX_STEPS):
        step = _step(comparisons, samples[active], Fit(strengths[active], log_tie[active]), ties=ties)
        largest = np.abs(step).max(axis=1, initial=0.0)
        step *= (STEP / np.maximum(largest, STEP))[:, None]
        strengths[active] += step[:, :m]
        if ties:
            log_tie[active] = np.clip(log_tie[active] + step[:, m], -30.0, 30.0)
        active = active[largest > tolerance]
        if not len(active):
            break
    return Fit(strengths.reshape(*shape, m), log_tie.reshape(shape))


def _step(comparisons: Comparisons, counts: Floats, fit: Fit, *, ties: bool) -> Floats:
    """Return one Newton step for each sample, shape (k, m) or, with the tie parameter, (k, m + 1)."""
    gradient, information = derivatives(comparisons, counts, fit, ties=ties)
    m = len(comparisons.models)
    # Strengths are known up to a constant: this makes the matrix regular and keeps their sum.
    information[:, :m, :m] += (np.trace(information, axis1=1, axis2=2) / m**2)[:, None, None]
    scale = np.einsum("kii->ki", information)
    np.einsum("kii->ki", information)[...] += 1e-12 * scale.max(axis=1, keepdims=True) + 1e-300
    return np.asarray(np.linalg.solve(information, gradient[..., None])[..., 0], np.float64)


def derivatives(comparisons: Comparisons, counts: Floats, fit: Fit, *, ties: bool) -> tuple[Floats, Floats]:
    """Return gradient and information matrix of the log-likelihood for samples of shape (k, 3, p).

    Returns:
        Arrays of shape (k, m) and (k, m, m); with the tie parameter last, one more in each dimension.
    """
    first, second, m = comparisons.first, comparisons.second, len(comparisons.models)
    won, lost, tied = fit.odds(first, second)
    n = counts.sum(axis=1)
    size = m + ties
    lean = (won - lost) / 2
    pull = (counts[:, WON] - counts[:, LOST]) / 2 - n * lean
    weight = n * ((won + lost) / 4 - lean**2)
    gradient, information = np.empty((len(counts), size)), np.zeros((len(counts), size, size))
    ends = _ends(first, second, m)
    gradient[:, :m] = pull @ ends
    information[:, first, second] = information[:, second, first] = -weight
    np.einsum("kii->ki", information)[:, :m] = weight @ np.abs(ends)
    if ties:
        cross = n * tied
        gradient[:, m] = (counts[:, TIED] - cross).sum(axis=1)
        information[:, m, m] = (cross * (1 - tied)).sum(axis=1)
        information[:, :m, m] = information[:, m, :m] = -(cross * lean) @ ends
    return gradient, information


def _ends(first: NDArray[np.int32], second: NDArray[np.int32], m: int) -> Floats:
    """Return +1 at each pair's first model and -1 at its second, shape (p, m)."""
    ends = np.zeros((len(first), m))
    rows = np.arange(len(first))
    ends[rows, first], ends[rows, second] = 1.0, -1.0
    return ends

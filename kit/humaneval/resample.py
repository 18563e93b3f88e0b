"""How sure a ranking is: bootstrap over prompts ("these raters"), over raters and prompts ("new raters"), sandwich."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from kit.humaneval.ranking import Comparisons, Fit, Floats, derivatives

Fitter = Callable[..., Fit]
BLOCK = 64  # rounds at a time: their cells stay in the processor's cache, 2.5 times faster than all at once
# In a bootstrap round a model may lose everything; a hundredth of a vote for either side of each pair that met keeps
# its strength finite (and far out), and moves no other round.
PRIOR = 0.01


def prompt_rounds(
    comparisons: Comparisons, items: NDArray[np.int32], fit: Fitter, *, start: Fit, rounds: int, seed: int
) -> Floats:
    """Return strengths of bootstrap rounds over prompts, shape (rounds, m): what other prompts would have given.

    Args:
        comparisons: The votes.
        items: Each vote's prompt, shape (n,).
        fit: ``bradley_terry`` or ``davidson``.
        start: The fit of all votes.
        rounds: Bootstrap rounds.
        seed: Seed of the resampling.

    Source:
        Field and Welsh (2007), JRSS B 69, 369-390. Prompts with a single vote are drawn by cell, as Poisson counts:
        the Poisson bootstrap of Chamandy et al. (2012), which makes 100,000 of them as cheap as their cells.
    """
    generator = np.random.default_rng(seed)
    return _fitted(comparisons, _prompt_counts(comparisons, items, rounds, generator), fit, start)


def rater_prompt_rounds(
    comparisons: Comparisons,
    items: NDArray[np.int32],
    raters: NDArray[np.int32],
    fit: Fitter,
    *,
    start: Fit,
    rounds: int,
    seed: int,
) -> Floats:
    """Return strengths of bootstrap rounds over raters and prompts, shape (rounds, m): what new raters would give.

    Raters and prompts are drawn apart, and a vote counts as often as both of its were drawn together.

    Source:
        Owen (2007), "The pigeonhole bootstrap", Annals of Applied Statistics 1, 386-411. It errs on the wide side.
    """
    generator = np.random.default_rng(seed)
    return _fitted(comparisons, _two_way_counts(comparisons, items, raters, rounds, generator), fit, start)


def _fitted(comparisons: Comparisons, blocks: Iterator[Floats], fit: Fitter, start: Fit) -> Floats:
    from threadpoolctl import threadpool_limits

    prior = np.zeros((3, len(comparisons.first)))
    prior[:2] = PRIOR / 2
    # Many small systems: with a second BLAS thread they take five times as long (measured beside another process).
    with threadpool_limits(1, user_api="blas"):
        return np.concatenate([fit(comparisons, block + prior, start=start).strengths for block in blocks])


def _prompt_counts(
    comparisons: Comparisons, items: NDArray[np.int32], rounds: int, generator: np.random.Generator
) -> Iterator[Floats]:
    from scipy.sparse import coo_array

    size = 3 * len(comparisons.first)
    votes = np.bincount(items, minlength=int(items.max(initial=0)) + 1)
    alone = votes[items] == 1
    single = np.bincount(comparisons.cell[alone], minlength=size).astype(np.float64)
    prompts, prompt = np.unique(items[~alone], return_inverse=True)
    ones = np.ones(len(prompt))
    cells = coo_array((ones, (comparisons.cell[~alone], prompt)), shape=(size, len(prompts))).tocsr()
    for count in _blocks(rounds, len(prompts)):
        drawn = generator.poisson(single, size=(count, size)).astype(np.float64)
        if len(prompts):
            drawn += (cells @ _draws(len(prompts), count, generator).T).T
        yield drawn.reshape(count, 3, -1)


def _two_way_counts(
    comparisons: Comparisons,
    items: NDArray[np.int32],
    raters: NDArray[np.int32],
    rounds: int,
    generator: np.random.Generator,
) -> Iterator[Floats]:
    from scipy.sparse import csr_array

    size = 3 * len(comparisons.first)
    (prompts, prompt), (people, person) = (np.unique(codes, return_inverse=True) for codes in (items, raters))
    order = np.argsort(comparisons.cell, kind="stable")
    prompt, person = prompt[order], person[order]
    ends = np.concatenate([[0], np.cumsum(np.bincount(comparisons.cell, minlength=size))])
    ones = np.ones(len(order), np.float32)
    cells = csr_array((ones, np.arange(len(order)), ends), shape=(size, len(order)))
    for count in _blocks(rounds, len(order)):
        by_prompt = np.ascontiguousarray(_draws(len(prompts), count, generator).T, np.float32)
        by_person = np.ascontiguousarray(_draws(len(people), count, generator).T, np.float32)
        drawn = cells @ (by_prompt[prompt] * by_person[person])
        yield drawn.T.astype(np.float64).reshape(count, 3, -1)


def _blocks(rounds: int, units: int) -> Iterator[int]:
    """Give how many rounds to draw at a time, so that the weights of so many units stay below some 100 MB."""
    size = max(1, min(BLOCK, 8_000_000 // max(1, units)))
    for start in range(0, rounds, size):
        yield min(size, rounds - start)


def _draws(k: int, count: int, generator: np.random.Generator) -> Floats:
    """Return how often each of k is drawn when k are drawn with replacement, shape (count, k)."""
    picks = generator.integers(k, size=(count, k)) + (np.arange(count) * k)[:, None]
    return np.bincount(picks.ravel(), minlength=count * k).reshape(count, k).astype(np.float64)


def sandwich(
    comparisons: Comparisons, fit: Fit, clusters: tuple[NDArray[np.int32], ...], *, ties: bool
) -> Floats:  # fmt: skip
    """Return the covariance of strengths that holds although votes within a cluster are alike, shape (m, m).

    Args:
        comparisons: The votes.
        fit: Their fit.
        clusters: Each vote's cluster, shape (n,): one (prompts), or two (prompts, raters) for the two-way covariance,
            which adds both and takes their intersections off again.
        ties: Whether the fit has a tie parameter.

    Source:
        Liang and Zeger (1986), Biometrika 73, 13-22; Cameron, Gelbach and Miller (2011), Journal of Business and
        Economic Statistics 29, 238-249, for two ways and the factor G / (G - 1).
    """
    m = len(comparisons.models)
    _, information = derivatives(
        comparisons, comparisons.counts[None], Fit(fit.strengths[None], fit.log_tie[None]), ties=ties
    )
    # Strengths are known up to a constant: one eigenvalue is zero but for rounding, which numpy's own limit let pass.
    bread = np.linalg.pinv(information[0], rcond=1e-12, hermitian=True)
    if len(clusters) == 1:
        return (bread @ _meat(comparisons, fit, clusters[0], ties=ties) @ bread)[:m, :m]
    both = np.unique(np.stack(clusters), axis=1, return_inverse=True)[1].astype(np.int32).ravel()
    first, second, cross = (_meat(comparisons, fit, codes, ties=ties) for codes in (*clusters, both))
    found = (bread @ (first + second - cross) @ bread)[:m, :m]
    values, vectors = np.linalg.eigh(found)  # a difference of matrices may come out negative in small samples
    return np.asarray((vectors * np.maximum(values, 0)) @ vectors.T)


def _meat(comparisons: Comparisons, fit: Fit, clusters: NDArray[np.int32], *, ties: bool) -> Floats:
    """Return the sum over clusters of their scores' outer products, shape (m, m) or (m + 1, m + 1)."""
    from scipy.sparse import coo_array

    p, m, n = len(comparisons.first), len(comparisons.models), len(comparisons.cell)
    won, lost, tied = fit.odds(comparisons.first, comparisons.second)
    pair, outcome = comparisons.cell % p, comparisons.cell // p
    lean = np.array([0.5, -0.5, 0.0])[outcome] - ((won - lost) / 2)[pair]
    values = np.concatenate([lean, -lean, (outcome == 2) - tied[pair]])
    columns = np.concatenate([comparisons.first[pair], comparisons.second[pair], np.full(n, m)])
    labels, cluster = np.unique(clusters, return_inverse=True)
    scores = coo_array((values, (np.tile(cluster, 3), columns)), shape=(len(labels), m + 1)).tocsr()
    k = len(labels)
    return np.asarray((scores.T @ scores).toarray()[: m + ties, : m + ties] * (k / max(1, k - 1)))

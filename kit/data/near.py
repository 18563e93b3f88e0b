"""Near-duplicates among vectors: which rows may go so that every row that goes has one like it that stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kit.data.near_search import BLOCK, Search, Vectors, blocks, search_of, unit
from kit.errors import DataError, Fault, raise_faults
from kit.intervals import Interval
from kit.progress import track

NEIGHBOURS = 16  # that a row is compared with at a time
_HALF = 2e-3  # how far a cosine of half-precision vectors may lie from the true one
Confirm = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]


@dataclass(frozen=True)
class Pairs:
    """Rows that are near each other.

    Args:
        left: Places of the rows that asked, shape (m,).
        right: Places of their neighbours, shape (m,).
        cosine: Their cosines, shape (m,).
        full: Rows that had as many neighbours as are looked for, and may have more.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    cosine: NDArray[np.float32]
    full: NDArray[np.int64]


@dataclass(frozen=True)
class Thinned:
    """What thinning decided.

    Args:
        dropped: Places of the rows that may go, ascending, shape (m,).
        kept: For each, the place of the row like it that stays, shape (m,).
        cosine: Their cosines, shape (m,).
        recall: Share of near neighbours that the search finds, on a sample against exact search; None where the
            search is exact, or the sample had none.
    """

    dropped: NDArray[np.int64]
    kept: NDArray[np.int64]
    cosine: NDArray[np.float32]
    recall: Interval | None


def thin(
    vectors: Vectors,
    *,
    at_least: float = 0.95,
    priority: ArrayLike | None = None,
    confirm: Confirm | None = None,
    neighbours: int = NEIGHBOURS,
    search: Search | None = None,
    seed: int = 0,
) -> Thinned:
    """Return which rows are near-duplicates of a row that stays.

    Rows are gone through by priority, and one that stays sends away all that are near it; so likeness does not chain,
    and each row that goes is near the very row that is named. What is held in memory grows with the rows, not with
    their pairs: of each row only so many neighbours are kept, and one that has more is asked again when its turn comes.

    Args:
        vectors: Shape (n, d); may be a memory map.
        at_least: Rows of this cosine or more are near, -1 < at_least <= 1.
        priority: Which row of two is to stay: the one with more; shape (n,). The earlier one by default.
        confirm: Whether pairs of places, two arrays of one shape, are near indeed, beyond what vectors tell.
        neighbours: How many of a row's are kept.
        search: Searches these vectors; made by default.
        seed: Of the search's sample.

    Raises:
        DataError: settings or shapes that do not fit, all at once; see ``search_of``.
    """
    n = len(vectors)
    weight = np.zeros(n) if priority is None else np.asarray(priority, dtype=np.float64)
    _check(n, at_least, weight, neighbours)
    order = np.lexsort((np.arange(n), -weight))
    rank = np.empty(n, dtype=np.int64)
    rank[order] = np.arange(n)
    search = search or search_of(vectors, at_least=at_least, seed=seed)
    pairs = near_pairs(search, vectors, np.arange(n), at_least=at_least, neighbours=neighbours)
    if confirm is not None:
        kept = np.asarray(confirm(pairs.left, pairs.right), dtype=bool)
        pairs = Pairs(pairs.left[kept], pairs.right[kept], pairs.cosine[kept], pairs.full)

    def around(row: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return all neighbours of one row."""
        query = unit(vectors[row : row + 1])
        others = search.around(query, at_least - _HALF)
        cosine = _cosines(query, np.zeros(len(others), dtype=np.int64), vectors, others)
        near = (cosine >= at_least) & (others != row)
        others, cosine = others[near], cosine[near]
        if confirm is not None:
            near = np.asarray(confirm(np.full(len(others), row), others), dtype=bool)
            others, cosine = others[near], cosine[near]
        return others, cosine

    by, cosine = _sent_away(pairs, rank, around)
    dropped = np.flatnonzero(by >= 0)
    return Thinned(dropped, by[dropped], cosine[dropped], search.recall)


def near_pairs(
    search: Search,
    vectors: Vectors,
    asked: NDArray[np.int64],
    *,
    at_least: float,
    neighbours: int = NEIGHBOURS,
) -> Pairs:
    """Return the near neighbours of some rows, with exact cosines.

    Args:
        search: Searches ``vectors``.
        vectors: Shape (n, d).
        asked: Places of the rows that ask.
        at_least: The least cosine.
        neighbours: How many are looked for.
    """
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
    full: list[NDArray[np.int64]] = []
    with track(total=len(asked), label="searching near-duplicates") as bar:
        for part in blocks(len(asked)):
            rows = asked[part]
            queries = unit(vectors[rows])
            scores, places = search.nearest(queries, neighbours + 1)
            near = (scores >= at_least - _HALF) & (places >= 0) & (places != rows[:, None])
            full.append(rows[near.sum(1) >= neighbours])
            at, column = np.nonzero(near)
            left, right = rows[at], places[at, column]
            exact = _cosines(queries, at, vectors, right)
            kept = exact >= at_least
            parts.append((left[kept], right[kept], exact[kept]))
            bar.update(len(rows))
    left, right, cosine = (np.concatenate(one) for one in zip(*parts, strict=True))
    return Pairs(left, right, cosine, np.concatenate(full))


def _cosines(
    queries: NDArray[np.float32], at: NDArray[np.int64], vectors: Vectors, right: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return the cosines of pairs from the vectors themselves, some thousand at a time."""
    found = np.empty(len(right), dtype=np.float32)
    for part in blocks(len(right), BLOCK):
        found[part] = np.einsum("ij,ij->i", queries[at[part]], unit(vectors[right[part]]))
    return found


def _sent_away(
    pairs: Pairs, rank: NDArray[np.int64], around: Callable[[int], tuple[NDArray[np.int64], NDArray[np.float32]]]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return for each row the one that sent it away, or -1, and their cosine.

    A search finds a pair from one side and not always from the other, so each is taken both ways.
    """
    left, right = np.concatenate([pairs.left, pairs.right]), np.concatenate([pairs.right, pairs.left])
    both = np.concatenate([pairs.cosine, pairs.cosine])
    order = np.argsort(rank[left], kind="stable")
    left, right, both = left[order], right[order], both[order]
    own = np.flatnonzero(np.r_[True, left[1:] != left[:-1]]) if len(left) else np.empty(0, dtype=np.int64)
    span = {int(left[start]): slice(start, stop) for start, stop in pairwise([*own.tolist(), len(left)])}
    full = set(pairs.full.tolist())
    by, cosine = np.full(len(rank), -1, dtype=np.int64), np.zeros(len(rank), dtype=np.float32)
    for row in sorted(full | span.keys(), key=rank.__getitem__):
        if by[row] >= 0:
            continue
        others, near = around(row) if row in full else (right[span[row]], both[span[row]])
        taken = (by[others] < 0) & (rank[others] > rank[row])
        by[others[taken]], cosine[others[taken]] = row, near[taken]
    return by, cosine


def _check(n: int, at_least: float, weight: NDArray[np.float64], neighbours: int) -> None:
    faults = []
    if not -1 < at_least <= 1:
        faults.append(Fault("at_least", f"must be above -1 and at most 1, got {at_least!r}"))
    if weight.shape != (n,) or not np.isfinite(weight).all():
        faults.append(Fault("priority", f"one finite number per row is needed, {n} of them, got shape {weight.shape}"))
    if neighbours < 1:
        faults.append(Fault("neighbours", f"must be at least 1, got {neighbours!r}"))
    raise_faults(faults, DataError)

"""Nearest vectors among many: exact in blocks where they are few, through faiss's inverted lists where they are many.

A million vectors of 512 numbers compared with each other are 5e14 products of numbers, an hour and a half on two cores.
Near-duplicates lie in one another's cells, so few cells need to be looked into; how few is tried on a sample against
exact search, and what was reached there is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kit.errors import DataError
from kit.intervals import Interval, bootstrap

EXACT_ROWS = 20_000  # fewer are compared one by one: 2 s for 384 numbers each
BLOCK = 8_192  # vectors at a time
EXTRA = "pip install 'multimodal-kit[curate]'"
_PRODUCTS = 16_000_000  # similarities in memory at a time: 64 MB
_SAMPLE = 2_000  # rows that the number of cells is tried on
_PROBES = (1, 2, 4, 8, 16, 32, 64)
_PER_CELL = 40  # training vectors a cell; faiss warns below 39
_ROUNDS = 6  # of k-means: more moved recall by less than 0.01 on a million vectors

Vectors = NDArray[Any]
Found = tuple[NDArray[np.float32], NDArray[np.int64]]


class Search(Protocol):
    """What finds the nearest of its vectors."""

    @property
    def recall(self) -> Interval | None:
        """Share of near neighbours that it finds, on a sample; None where it is exact, or the sample had none."""

    def nearest(self, queries: NDArray[np.float32], k: int) -> Found:
        """Return cosines and places of the k nearest, best first, shapes (q, k); place -1 where there are fewer."""

    def around(self, query: NDArray[np.float32], at_least: float) -> NDArray[np.int64]:
        """Return the places of all vectors of this cosine or more with one query, shape (1, d)."""


def search_of(vectors: Vectors, *, at_least: float, target: float = 0.97, seed: int = 0) -> Search:
    """Return what searches these vectors.

    Args:
        vectors: Shape (n, d), of any float type and length; may be a memory map, and is read in blocks.
        at_least: The cosine from which on a neighbour must be found.
        target: Share of such neighbours that a sample must find before cells are enough.
        seed: Of the sample and the cells.

    Raises:
        DataError: no matrix of numbers, or more than 20,000 vectors without faiss.
    """
    if vectors.ndim != 2 or not vectors.size:
        raise DataError.of("vectors", f"a matrix (n, d) is needed, got shape {vectors.shape}")
    if len(vectors) <= EXACT_ROWS:
        return ExactSearch(vectors)
    return CellSearch.build(vectors, at_least=at_least, target=target, seed=seed)


def unit(block: Vectors) -> NDArray[np.float32]:
    """Return vectors as float32 of length 1; zeros stay zeros.

    Raises:
        DataError: some are no finite numbers.
    """
    plain = np.ascontiguousarray(block, dtype=np.float32)
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    if not np.isfinite(lengths).all():
        raise DataError.of("vectors", f"{int((~np.isfinite(lengths)).sum())} of a block are no finite numbers")
    scaled: NDArray[np.float32] = plain / np.maximum(lengths, np.finfo(np.float32).tiny)
    return scaled


def blocks(n: int, size: int = BLOCK) -> Iterator[slice]:
    """Yield the slices that n rows are read in."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


class ExactSearch:
    """Every query with every vector, in blocks of both.

    Args:
        vectors: Shape (n, d).
    """

    recall: Interval | None = None

    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors

    def nearest(self, queries: NDArray[np.float32], k: int) -> Found:
        """Return cosines and places of the k nearest; see ``Search``."""
        n = len(self.vectors)
        best = np.full((len(queries), 0), -np.inf, dtype=np.float32)
        places = np.full((len(queries), 0), -1, dtype=np.int64)
        for part in blocks(n, max(k, _PRODUCTS // max(1, len(queries)))):
            scores = queries @ unit(self.vectors[part]).T
            own = np.broadcast_to(np.arange(part.start, part.stop), scores.shape)
            best, places = _best(np.hstack([best, scores]), np.hstack([places, own]), k)
        spare = ((0, 0), (0, max(0, k - n)))
        return np.pad(best, spare, constant_values=-np.inf), np.pad(places, spare, constant_values=-1)

    def around(self, query: NDArray[np.float32], at_least: float) -> NDArray[np.int64]:
        """Return the places of all vectors near one query; see ``Search``."""
        parts = blocks(len(self.vectors))
        near = [np.flatnonzero(unit(self.vectors[part]) @ query[0] >= at_least) + part.start for part in parts]
        return np.concatenate(near)


@dataclass(frozen=True)
class CellSearch:
    """Faiss's inverted file over half-precision vectors: a query is compared with those in the nearest cells.

    Args:
        index: The faiss index.
        recall: Share of near neighbours that a sample of queries found, with its interval; None where the sample
            had none.
        probes: Cells that a query looks into.

    Source:
        Johnson et al. (2017), arXiv:1702.08734.
    """

    index: Any
    recall: Interval | None
    probes: int

    @classmethod
    def build(cls, vectors: Vectors, *, at_least: float, target: float, seed: int) -> CellSearch:
        """Return the index of vectors, with as many cells to look into as a sample needs.

        Raises:
            DataError: faiss is missing.
        """
        try:
            import faiss
        except ImportError as error:
            what = (
                f"{len(vectors):,} vectors need the package faiss-cpu; without it at most {EXACT_ROWS:,} are compared"
            )
            raise DataError.of("vectors", what, EXTRA) from error
        n, width = vectors.shape
        cells = int(2 ** np.floor(np.log2(min(4 * np.sqrt(n), n / _PER_CELL))))
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(width), width, cells, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
        )
        index.cp.niter, index.cp.spherical, index.cp.seed = _ROUNDS, True, seed
        rng = np.random.default_rng(seed)
        chosen = np.sort(rng.choice(n, min(n, _PER_CELL * cells), replace=False))
        index.train(unit(vectors[chosen]))
        for part in blocks(n):
            index.add(unit(vectors[part]))
        sample = np.sort(rng.choice(n, _SAMPLE, replace=False))
        probes, recall = _enough(index, vectors, sample, at_least=at_least, target=target)
        return cls(index, recall, probes)

    def nearest(self, queries: NDArray[np.float32], k: int) -> Found:
        """Return cosines (of half-precision vectors) and places of the k nearest; see ``Search``."""
        self.index.nprobe = self.probes
        scores, places = self.index.search(queries, k)
        return scores, places

    def around(self, query: NDArray[np.float32], at_least: float) -> NDArray[np.int64]:
        """Return the places of all vectors near one query, by half-precision vectors; see ``Search``."""
        self.index.nprobe = self.probes
        _, _, places = self.index.range_search(query, at_least)
        return np.asarray(places, dtype=np.int64)


def _enough(
    index: Any, vectors: Vectors, sample: NDArray[np.int64], *, at_least: float, target: float
) -> tuple[int, Interval | None]:
    """Return how many cells find the sample's near neighbours, and which share they find."""
    queries, most = unit(vectors[sample]), 8
    exact, own = ExactSearch(vectors).nearest(queries, most + 1)
    wanted = (exact >= at_least) & (own != sample[:, None])
    asked = wanted.any(1)
    if not asked.any():
        return 8, None
    for probes in _PROBES:
        index.nprobe = probes
        _, places = index.search(queries[asked], most + 2)
        shares = np.array(
            [
                np.isin(own[row][wanted[row]], found).mean()
                for row, found in zip(np.flatnonzero(asked), places, strict=True)
            ]
        )
        if shares.mean() >= target:
            break
    return probes, bootstrap(shares)


def _best(scores: NDArray[np.float32], places: NDArray[np.int64], k: int) -> Found:
    """Return the k best of each row, best first; of equal ones the earlier place."""
    if scores.shape[1] > k:
        kept = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        scores, places = np.take_along_axis(scores, kept, 1), np.take_along_axis(places, kept, 1)
    order = np.lexsort((places, -scores), axis=1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)

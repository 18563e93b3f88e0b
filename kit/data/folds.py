"""Folds for scores that a row's own training did not touch: each row is scored by a model that never saw its group."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kit.errors import DataError


def folds(groups: Sequence[str], k: int, *, seed: int = 0) -> NDArray[np.int64]:
    """Return each row's fold, 0 to k - 1; rows of one group are in one fold, and folds are as even as groups allow.

    Args:
        groups: Each row's group, shape (n,): its concept, its picture, or its id where rows stand alone.
        k: How many folds, at least 2 and at most the number of groups.
        seed: Of the order that groups are dealt in.

    Raises:
        DataError: k out of range.
    """
    names, sizes = np.unique(np.asarray(groups, dtype=object).astype(str), return_counts=True)
    if not 2 <= k <= len(names):
        raise DataError.of("folds", f"must be 2 to {len(names)}, the number of groups, got {k}")
    luck = [hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in names]
    order = sorted(range(len(names)), key=lambda one: (-int(sizes[one]), luck[one]))  # large ones first, then the gaps
    held, fold = np.zeros(k, dtype=np.int64), {}
    for one in order:
        emptiest = int(held.argmin())
        fold[str(names[one])] = emptiest
        held[emptiest] += sizes[one]
    return np.array([fold[str(group)] for group in groups], dtype=np.int64)

"""Two models asked the same questions: how much more often the one finds what belongs to a text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kit.errors import DataError
from kit.evaluation.metrics import ranks
from kit.intervals import bootstrap
from kit.result import Measurement


def recall(
    similarities: Sequence[Tensor], *, k: int, split: str, clusters: Sequence[str] | None = None, over: str = "seeds"
) -> Measurement:
    """Return the share of texts whose own picture is among the first k, averaged text by text before the interval.

    Args:
        similarities: Text-by-picture scores, each of shape (n, n), row i belonging to column i; one matrix for each
            seed, or for each seed and language.
        k: How many pictures count as found.
        split: The data it was measured on.
        clusters: One label per row, where rows are not independent; shape (n,).
        over: What there is a matrix of, in words.

    Raises:
        DataError: no matrix.
    """
    hits = _hits(similarities, k)
    interval = bootstrap(hits, clusters=clusters)
    return Measurement(
        float(hits.mean()), "share", len(hits), interval.low, interval.high,
        method=f"mean of {len(similarities)} {over}, {interval.method}", baseline=min(1.0, k / len(hits)), split=split,
    )  # fmt: skip


def recall_gain(
    one: Sequence[Tensor],
    other: Sequence[Tensor],
    *,
    k: int,
    split: str,
    clusters: Sequence[str] | None = None,
    over: str = "seeds",
) -> Measurement:
    """Return how much more often ``one`` finds the picture than ``other``, paired text by text.

    Both are asked the same, so what makes a text hard for both is no noise here: the interval is of the differences.

    Args:
        one: As for ``recall``.
        other: Of the other model, in the same order.
        k: How many pictures count as found.
        split: The data it was measured on.
        clusters: As for ``recall``.
        over: What there is a matrix of, in words.

    Raises:
        DataError: no matrix, or models that were not asked the same.
    """
    shapes = [[tuple(matrix.shape) for matrix in each] for each in (one, other)]
    if shapes[0] != shapes[1]:
        raise DataError.of("recall_gain", f"{shapes[0]} against {shapes[1]}", "ask both models the same")
    difference = _hits(one, k) - _hits(other, k)
    interval = bootstrap(difference, clusters=clusters)
    return Measurement(
        float(difference.mean()), "share", len(difference), interval.low, interval.high,
        method=f"paired differences, mean of {len(one)} {over}, {interval.method}", baseline=0.0, split=split,
    )  # fmt: skip


def _hits(similarities: Sequence[Tensor], k: int) -> NDArray[np.float64]:
    if not similarities:
        raise DataError.of("recall", "no similarities were given", "check seeds, data and limit")
    found: NDArray[np.float64] = torch.stack([ranks(one) <= k for one in similarities]).double().mean(0).numpy()
    return found

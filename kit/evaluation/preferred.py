"""Whether a model has learnt what was preferred, or only how long that was."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kit.errors import DataError
from kit.intervals import bootstrap
from kit.result import Measurement

Floats = NDArray[np.float64]


def preference_accuracy(
    gains: ArrayLike, tokens: ArrayLike, *, split: str, clusters: Sequence[object] | None = None
) -> dict[str, Measurement]:
    """Return how often the chosen answer is ahead of the rejected one, and how often the longer one is.

    Args:
        gains: What the model gives the chosen and the rejected answer, shape (n, 2): after preference tuning by how
            many nats each became likelier (``likelihoods(tail, column).answers - column.reference[:, :2]``), or a
            reward model's scores.
        tokens: How long each is, shape (n, 2): ``likelihoods(tail, column).tokens``.
        split: The data that it was measured on; rows that were trained on say nothing.
        clusters: What each row is about, shape (n,), where several are about one item.

    Returns:
        ``preference_accuracy``, a share, equal gains counting half; its baseline is the better of always taking the
        longer and always taking the shorter answer of these very rows. ``longer_ahead``, of the rows whose lengths
        differ the share in which the longer answer is ahead; its baseline is the share in which the longer one was
        chosen, and a model far from that has learnt length. It is left out where all lengths are equal.

    Raises:
        DataError: no rows, or shapes that do not match.
    """
    ahead, length = np.asarray(gains, np.float64), np.asarray(tokens, np.float64)
    if ahead.ndim != 2 or ahead.shape[1:] != (2,) or not len(ahead) or length.shape != ahead.shape:
        what = f"gains have shape {ahead.shape} and tokens {length.shape}"
        raise DataError.of("preference_accuracy", what, "give both as (n, 2), n at least 1")
    right = _ahead(ahead[:, 0] - ahead[:, 1])
    longer = _ahead(length[:, 0] - length[:, 1])
    by_length = float(np.mean(longer))
    found = {"preference_accuracy": _measured(right, clusters, max(by_length, 1 - by_length), split, "higher")}
    differ = longer != 0.5
    if differ.any():
        follows = np.where(longer[differ] == 1, right[differ], 1 - right[differ])
        own = None if clusters is None else [one for one, here in zip(clusters, differ, strict=True) if here]
        found["longer_ahead"] = _measured(follows, own, float(longer[differ].mean()), split, "neither")
    return found


def _ahead(difference: Floats) -> Floats:
    """Return 1 where the first is ahead, 0 where the second is, a half where neither."""
    return (np.sign(difference) + 1) / 2


def _measured(
    values: Floats,
    clusters: Sequence[object] | None,
    baseline: float,
    split: str,
    better: str,
) -> Measurement:
    found = bootstrap(values, clusters=clusters)
    return Measurement(
        float(values.mean()), "share", len(values), found.low, found.high,
        method=f"mean over rows; {found.method}", baseline=baseline, split=split, better=better,
    )  # fmt: skip

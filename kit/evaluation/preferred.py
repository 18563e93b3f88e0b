"""Whether a model has learnt what was preferred, or only how long that was; and which votes the others contradict."""

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


def contradicted(scores: ArrayLike) -> list[tuple[int, float]]:
    """Return each vote's place with the chance that the other votes give it, the most contradicted first.

    What a reward model learnt from some votes is held against others: worth a second look, by people, are those that
    it finds unlikely. It may be wrong itself, so nothing is to be dropped by it alone.

    Args:
        scores: What a reward model gives the chosen and the rejected answer, log-odds, shape (n, 2); one that was not
            trained on these votes nor on others about the same items.

    Raises:
        DataError: no votes, or another shape.

    Source:
        Bradley and Terry (1952): of two answers whose scores differ by d, the first is preferred with 1 / (1 + e^-d).
    """
    given = np.asarray(scores, np.float64)
    if given.ndim != 2 or given.shape[1:] != (2,) or not len(given):
        raise DataError.of("contradicted", f"scores have shape {given.shape}", "give them as (n, 2), n at least 1")
    chance = np.exp(-np.logaddexp(0.0, given[:, 1] - given[:, 0]))
    return [(int(place), float(chance[place])) for place in np.argsort(chance, kind="stable")]


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

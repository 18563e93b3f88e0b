"""Checks that say which rows of a data set should go, and why: repeats, wrong captions, noise, imbalance, leakage.

Each takes plain arrays (embeddings, scores, losses) that somebody computed with whatever model, and returns decisions
for a ``kit.data.curation.Curation``, which keeps them and can take them back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kit.data.curation import Decision
from kit.data.looks import NEAR_COLOUR, Look, bits_cosine, look_vectors
from kit.data.near import NEIGHBOURS, Thinned, thin
from kit.data.near_search import BLOCK, Vectors, blocks, search_of, unit
from kit.data.strangers import stranger_probability
from kit.data.two_groups import two_groups
from kit.errors import DataError, Fault, raise_faults

EXACT, LOOK, NEAR = "exact duplicate", "look-alike", "near duplicate"
AGREEMENT, NOISE, BALANCE, LEAK = "caption disagrees", "label noise", "class balance", "leakage"
_FITTED = ", the border of two groups"


def exact_duplicates(ids: Sequence[str], contents: Sequence[str]) -> list[Decision]:
    """Return the rows whose content an earlier row has.

    Args:
        ids: The rows' ids, n of them.
        contents: What makes rows equal, n of them: a picture's digest with its caption, or the digest alone.

    Raises:
        DataError: unequal lengths.
    """
    _same_length(len(ids), contents=contents)
    first: dict[str, str] = {}
    return [
        Decision(row, "drop", EXACT, f"holds what {first[content]} holds", other=first[content])
        for row, content in zip(ids, contents, strict=True)
        if first.setdefault(content, row) != row
    ]


def near_duplicates(
    ids: Sequence[str], vectors: Vectors, *, at_least: float = 0.95, priority: ArrayLike | None = None, **options: Any
) -> list[Decision]:
    """Return the rows whose embedding lies near that of a row that stays.

    Args:
        ids: The rows' ids, n of them.
        vectors: Their embeddings, shape (n, d); may be a memory map of a million rows.
        at_least: The least cosine of near rows.
        priority: Of two near rows the one with more stays, such as the caption's agreement; the earlier by default.
        options: neighbours and seed of ``kit.data.near.thin``.

    Raises:
        DataError: shapes that do not fit.
    """
    _same_length(len(ids), vectors=vectors)
    found = thin(vectors, at_least=at_least, priority=priority, **options)
    return _repeats(ids, found, NEAR, "cosine {:.3f} to {}, which stays", found.cosine)


def look_duplicates(ids: Sequence[str], looks: Sequence[Look], *, priority: ArrayLike | None = None) -> list[Decision]:
    """Return the rows whose picture looks like that of a row that stays: at most 6 of 192 bits and 5 levels apart.

    Args:
        ids: The rows' ids, n of them.
        looks: What their pictures are recognised by, from ``kit.data.looks.looks``.
        priority: As for ``near_duplicates``.

    Raises:
        DataError: unequal lengths.
    """
    _same_length(len(ids), looks=looks)
    small = np.stack([one.small for one in looks])

    def alike(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
        apart = np.empty(len(left))
        for part in blocks(len(left), BLOCK):
            apart[part] = np.abs(small[left[part]] - small[right[part]]).mean(axis=(1, 2, 3))
        return apart <= NEAR_COLOUR

    at_least = bits_cosine() - 1e-3  # float16's rounding; the next number of bits is 0.0104 away
    found = thin(look_vectors(looks), at_least=at_least, priority=priority, confirm=alike, neighbours=4 * NEIGHBOURS)
    bits = np.rint((1 - found.cosine) * 192 / 2)
    return _repeats(ids, found, LOOK, "{:.0f} of 192 bits from {}, which stays", bits)


def low_agreement(
    ids: Sequence[str],
    scores: ArrayLike,
    *,
    reached: ArrayLike | None = None,
    below: float | None = None,
    surest: float = 0.5,
) -> list[Decision]:
    """Return the rows whose picture and caption agree least, by scores that somebody's CLIP gave.

    A model that was trained on the very rows agrees with their mistakes too: score each row with a model that has not
    seen it (``kit.data.folds``).

    Args:
        ids: The rows' ids, n of them.
        scores: How well picture and caption agree, higher is better; shape (n,).
        reached: The share of other rows' captions that agree at least as well, from ``kit.data.strangers.beyond``;
            shape (n,). It tells how probable it is that a caption is such a stranger, and no threshold is needed.
        below: Scores that are too low. Without it and without ``reached``: the border between two groups of scores.
        surest: Without ``below``: how probable it must be that a caption is wrong, 0 < surest < 1.

    Raises:
        DataError: shapes that do not fit, or scores without two groups.
    """
    values = _numbers("scores", scores, len(ids))
    if reached is not None and below is None:
        _check_surest(surest)
        shares = _numbers("reached", reached, len(ids))
        chance = stranger_probability(shares).probability
        reason = "{:.1%} of other rows' captions agree as well: one of them with probability {:.2f}"
        return [
            Decision(ids[row], "drop", AGREEMENT, reason.format(shares[row], chance[row]), float(chance[row]))
            for row in np.flatnonzero(chance > surest).tolist()
        ]
    bad, border = _low(values, below, surest)
    rule = f"below {border:.3g}{_FITTED if below is None else ''}"
    return [
        Decision(ids[row], "drop", AGREEMENT, f"agreement {values[row]:.3g}, {rule}", float(values[row]))
        for row in np.flatnonzero(bad).tolist()
    ]


def label_noise(
    ids: Sequence[str],
    losses: ArrayLike,
    *,
    classes: Sequence[str] | None = None,
    above: float | None = None,
    surest: float = 0.5,
) -> list[Decision]:
    """Return the rows that a model which was not trained on them finds too surprising.

    Args:
        ids: The rows' ids, n of them.
        losses: Each row's loss by a model trained on other rows, in nats; shape (n,).
        classes: Each row's class. Losses are then compared within the class, in units of its median deviation, since
            hard classes are not wrong ones.
        above: Losses that are too high, in the unit compared; by default the border between two groups.
        surest: Without ``above``: how probable it must be that a row is of the high group, 0 < surest < 1.

    Raises:
        DataError: shapes that do not fit, or losses without two groups.

    Source:
        Northcutt et al. (2021), arXiv:1911.00068, for the held-out prediction; Li et al. (2020), arXiv:2002.07394, for
        two groups of losses.
    """
    values = _numbers("losses", losses, len(ids))
    if classes is not None:
        _same_length(len(ids), classes=classes)
        values = _within(values, classes)
    bad, border = _low(-values, None if above is None else -above, surest)
    unit_name = "held-out loss" if classes is None else "held-out loss beside its class"
    rule = f"above {-border:.3g}{_FITTED if above is None else ''}"
    return [
        Decision(ids[row], "drop", NOISE, f"{unit_name} {values[row]:.3g}, {rule}", float(values[row]))
        for row in np.flatnonzero(bad).tolist()
    ]


def class_balance(
    ids: Sequence[str], classes: Sequence[str], *, at_most: int, priority: ArrayLike | None = None
) -> list[Decision]:
    """Return the rows that their class has too many of.

    Args:
        ids: The rows' ids, n of them.
        classes: Their classes.
        at_most: Rows that a class keeps, at least 1.
        priority: Which rows of a class stay: those with more. By a hash of the id by default, as if by lot.

    Raises:
        DataError: unequal lengths, or at_most below 1.
    """
    if at_most < 1:
        raise DataError.of("at_most", f"must be at least 1, got {at_most}")
    _same_length(len(ids), classes=classes)
    if priority is None:
        lots = [int.from_bytes(hashlib.sha256(row.encode()).digest()[:6], "big") for row in ids]
        weight = np.array(lots, dtype=np.float64)
    else:
        weight = _numbers("priority", priority, len(ids))
    left: dict[str, int] = {}
    found = []
    for row in np.lexsort((np.arange(len(ids)), -weight)):
        name = classes[row]
        left[name] = left.get(name, 0) + 1
        if left[name] > at_most:
            found.append(int(row))
    sizes = left
    return [
        Decision(ids[row], "drop", BALANCE, f"{classes[row]!r} has {sizes[classes[row]]} rows, and {at_most} stay")
        for row in sorted(found)
    ]


def leakage(
    ids: Sequence[str], vectors: Vectors, test_ids: Sequence[str], test: Vectors, *, at_least: float = 0.95
) -> list[Decision]:
    """Return the training rows that lie near a test row, or hold the very same.

    Args:
        ids: The training rows' ids, n of them.
        vectors: Their embeddings, shape (n, d).
        test_ids: The test rows' ids, m of them.
        test: Their embeddings, shape (m, d).
        at_least: The least cosine of near rows.

    Raises:
        DataError: shapes that do not fit.
    """
    _same_length(len(ids), vectors=vectors)
    _same_length(len(test_ids), test=test)
    search = search_of(test, at_least=at_least)
    found = []
    for part in blocks(len(ids)):
        scores, places = search.nearest(unit(vectors[part]), 1)
        for row in np.flatnonzero(scores[:, 0] >= at_least).tolist():
            score, other = float(scores[row, 0]), test_ids[places[row, 0]]
            found.append(
                Decision(ids[part.start + row], "drop", LEAK, f"cosine {score:.3f} to test row {other}", score, other)
            )
    return found


def _repeats(ids: Sequence[str], found: Thinned, check: str, reason: str, numbers: NDArray[Any]) -> list[Decision]:
    return [
        Decision(ids[row], "drop", check, reason.format(number, ids[kept]), float(number), ids[kept])
        for row, kept, number in zip(found.dropped, found.kept, numbers, strict=True)
    ]


def _low(values: NDArray[np.float64], below: float | None, surest: float) -> tuple[NDArray[np.bool_], float]:
    """Return which numbers are too low, and below what."""
    if below is not None:
        return values < below, below
    _check_surest(surest)
    groups = two_groups(values)
    return groups.low(values) > surest, groups.border(surest)


def _check_surest(surest: float) -> None:
    if not 0 < surest < 1:
        raise DataError.of("surest", f"must be above 0 and below 1, got {surest!r}")


def _within(values: NDArray[np.float64], classes: Sequence[str]) -> NDArray[np.float64]:
    """Return how far each number is above its class's median, in median deviations of the whole."""
    names, own = np.unique(np.asarray(classes, dtype=object).astype(str), return_inverse=True)
    medians = np.array([np.median(values[own == number]) for number in range(len(names))])
    apart = values - medians[own]
    scale = float(np.median(np.abs(apart))) or 1.0
    centred: NDArray[np.float64] = apart / scale
    return centred


def _numbers(name: str, values: ArrayLike, n: int) -> NDArray[np.float64]:
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (n,) or not np.isfinite(found).all():
        raise DataError.of(name, f"one finite number per row is needed, {n} of them, got shape {found.shape}")
    return found


def _same_length(n: int, **lists: Sequence[Any] | Vectors) -> None:
    faults = [Fault(name, f"{len(one)} for {n} rows") for name, one in lists.items() if len(one) != n]
    raise_faults(faults, DataError)

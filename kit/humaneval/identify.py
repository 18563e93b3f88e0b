"""Which strengths the votes determine at all, and what to say about the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kit.humaneval.ranking import LOST, TIED, WON, Comparisons
from kit.intervals import exact


@dataclass(frozen=True, eq=False)
class Identified:
    """What the votes determine.

    Args:
        group: Models of one group were compared with each other, directly or through others; shape (m,).
        core: Models whose strength is finite within their group, shape (m,).
        ahead: Models that beat their group's core and never lost to it: strength +inf, shape (m,).
        behind: Models that lost to their group's core and never beat it: strength -inf, shape (m,).
        notes: All this in words; empty where every strength is finite and comparable.
    """

    group: NDArray[np.int32]
    core: NDArray[np.bool_]
    ahead: NDArray[np.bool_]
    behind: NDArray[np.bool_]
    notes: tuple[str, ...]


def identify(comparisons: Comparisons) -> Identified:
    """Return which strengths exist.

    A finite maximum-likelihood solution exists where every model can be reached from every other by a chain of wins
    or ties (Ford 1957, condition A). Models that are only connected one way are infinitely far apart, and models that
    are not connected at all cannot be ranked against each other.

    Source:
        Ford (1957), American Mathematical Monthly 64, 28-33; Hunter (2004), section 2.
    """
    beats = _beats(comparisons)
    m = len(comparisons.models)
    group = _components(beats, strong=False)
    strong = _components(beats, strong=True)
    reach = _reach(beats)
    core = np.zeros(m, bool)
    for one in range(group.max(initial=-1) + 1):
        members = np.flatnonzero(group == one)
        sizes = np.bincount(strong[members])
        biggest = members[strong[members] == sizes.argmax()]
        if len(biggest) > 1:
            core[biggest] = True
    linked = core[None, :] & (group[:, None] == group[None, :])
    ahead, behind = (reach & linked).any(axis=1) & ~core, (reach.T & linked).any(axis=1) & ~core
    for one in {*group.tolist()} - {*group[core].tolist()}:  # all wins went one way: only the ends are known
        members = np.flatnonzero(group == one)
        if len(members) > 1:
            ahead[members] = ~beats.T[members].any(axis=1)
            behind[members] = ~beats[members].any(axis=1)
    return Identified(group, core, ahead, behind, tuple(_notes(comparisons, group, core, ahead, behind)))


def _beats(comparisons: Comparisons) -> NDArray[np.bool_]:
    """Return whether the row's model ever beat or tied the column's, shape (m, m)."""
    m = len(comparisons.models)
    beats = np.zeros((m, m), bool)
    counts = comparisons.counts
    beats[comparisons.first, comparisons.second] = (counts[WON] + counts[TIED]) > 0
    beats[comparisons.second, comparisons.first] = (counts[LOST] + counts[TIED]) > 0
    return beats


def _components(beats: NDArray[np.bool_], *, strong: bool) -> NDArray[np.int32]:
    from scipy.sparse.csgraph import connected_components

    kind = "strong" if strong else "weak"
    return np.asarray(connected_components(beats, directed=True, connection=kind)[1], np.int32)


def _reach(beats: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return whether a chain of wins leads from the row's model to the column's."""
    reach = beats.copy()
    for _ in range(max(1, int(np.ceil(np.log2(max(2, len(beats))))))):
        reach |= (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
    return reach


def _notes(
    comparisons: Comparisons,
    group: NDArray[np.int32],
    core: NDArray[np.bool_],
    ahead: NDArray[np.bool_],
    behind: NDArray[np.bool_],
) -> list[str]:
    names, counts = np.array(comparisons.models, dtype=object), comparisons.counts
    found = []
    groups = [names[group == one] for one in range(group.max(initial=-1) + 1)]
    if len(groups) > 1:
        parts = "; ".join(", ".join(members) for members in groups)
        found.append(f"never compared with each other, even through others, so not ranked against each other: {parts}")
    for model in range(len(names)):
        won = counts[WON, comparisons.first == model].sum() + counts[LOST, comparisons.second == model].sum()
        lost = counts[LOST, comparisons.first == model].sum() + counts[WON, comparisons.second == model].sum()
        tied = counts[TIED, (comparisons.first == model) | (comparisons.second == model)].sum()
        n = int(won + lost + tied)
        if not n:
            found.append(f"{names[model]}: no votes")
        elif ahead[model] or behind[model]:
            share = exact(int(won), n)
            end = "never lost to" if ahead[model] else "never beat"
            won_of = f"won {int(won)} of {n}, a share of {share.low:.2f} to {share.high:.2f} (exact, 95%)"
            found.append(f"{names[model]}: {end} those it would be measured against, so no finite strength; {won_of}")
        elif not core[model]:
            found.append(f"{names[model]}: wins went one way only, so no finite strength and no place")
    return found

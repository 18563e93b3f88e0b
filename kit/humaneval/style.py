"""Strengths with style held equal: Bradley-Terry with covariates such as length and side."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kit.errors import Fault, raise_faults
from kit.humaneval.errors import StudyError
from kit.humaneval.identify import identify
from kit.humaneval.ranking import Comparisons, Floats
from kit.humaneval.study import Study
from kit.humaneval.table import LEFT, RIGHT, VoteTable

MAX_STEPS, STEP, TOLERANCE = 100, 3.0, 1e-10
FAR = 25.0  # log-odds; what grows past it has no finite solution
METHOD = "Bradley-Terry with covariates, ties half, normal, sandwich by item"


@dataclass(frozen=True)
class Effect:
    """One coefficient.

    Args:
        value: Log-odds.
        low: Lower end of its 95% interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Styled:
    """Strengths beside what style did to the votes.

    Args:
        strengths: Each model's log-odds at equal style, mean 0.
        style: Each covariate's: log-odds of winning for one standard deviation of the lead in it; for "side", of
            standing on the left.
        votes: How many votes it rests on.
        method: How intervals were made.
    """

    strengths: Mapping[str, Effect]
    style: Mapping[str, Effect]
    votes: int
    method: str = METHOD


def length_leads(study: Study, table: VoteTable) -> Floats:
    """Return by how much the left answer is longer, (left - right) / (left + right) in characters, shape (n,), -1 to 1.

    Args:
        study: Whose items the votes are about.
        table: Pairwise votes on texts.

    Raises:
        StudyError: the study has no such item or condition, or an output is no text.
    """
    lengths = np.full((len(table.items), len(table.models)), np.nan)
    seen = {*zip(table.item.tolist(), table.left.tolist(), strict=True)}
    seen |= {*zip(table.item.tolist(), table.right.tolist(), strict=True)}
    faults = []
    for item, model in sorted(seen):
        row, name = study.by_id.get(table.items[item]), table.models[model]
        output = row.outputs.get(name) if row is not None else None
        if output is None or output.kind != "text":
            what = "the study has no such output" if output is None else f"is a {output.kind}, which has no length"
            faults.append(Fault(f"{study.name}: {table.items[item]}: {name}", what))
        else:
            lengths[item, model] = len(output.text)
    raise_faults(faults, StudyError)
    left, right = lengths[table.item, table.left], lengths[table.item, table.right]
    return np.asarray((left - right) / (left + right), np.float64)


def style_controlled(table: VoteTable, leads: Mapping[str, Floats], *, side: bool = True) -> Styled:
    """Return strengths at equal style, and what style did to the votes.

    Args:
        table: Pairwise votes; repeats, gold and automatic ties are left out by ``VoteTable.comparisons``. A tie
            counts as half a win for either side.
        leads: By how much the left answer has more of each style, for each vote, shape (n,); ``length_leads`` makes
            one. May be none.
        side: Let standing on the left be a covariate too.

    Returns:
        Coefficients with 95% intervals for these raters and other items: votes on one item are not independent, so the
        sandwich is summed by item. Few items make such intervals too narrow; take 40 or more.

    Raises:
        StudyError: leads that are no numbers or of another length, votes that do not determine all strengths, or a
            style that explains every vote; all that can be told before fitting at once.

    Source:
        Bradley and Terry (1952), with covariates as in Li, Angelopoulos and Chiang (2024), "Does style matter?",
        lmsys.org; Liang and Zeger (1986), Biometrika 73, 13-22, for the sandwich.
    """
    raise_faults(_faults(table, leads), StudyError)
    n, m = len(table), len(table.models)
    rows = np.arange(n)
    models = np.zeros((n, m))
    models[rows, table.left], models[rows, table.right] = 1.0, -1.0
    styles = {name: np.asarray(lead, np.float64) / (np.std(lead) or 1.0) for name, lead in leads.items()}
    if side:
        styles["side"] = np.ones(n)
    design = np.column_stack([models, *styles.values()])
    won = np.select([table.answer == LEFT, table.answer == RIGHT], [1.0, 0.0], 0.5)
    found = _newton(design, won, m)
    spread = 1.959964 * np.sqrt(np.diag(_sandwich(design, won, found, table.item, m)))
    effects = [Effect(float(a), float(a - b), float(a + b)) for a, b in zip(found, spread, strict=True)]
    return Styled(dict(zip(table.models, effects, strict=False)), dict(zip(styles, effects[m:], strict=True)), n)


def _faults(table: VoteTable, leads: Mapping[str, Floats]) -> list[Fault]:
    faults = []
    for name, lead in leads.items():
        values = np.asarray(lead, np.float64)
        if values.shape != (len(table),):
            faults.append(Fault(f"style: {name}", f"has shape {values.shape}, and there are {len(table)} votes"))
        elif not np.isfinite(values).all():
            faults.append(Fault(f"style: {name}", f"{int((~np.isfinite(values)).sum())} leads are no numbers"))
    if not len(table):
        return [*faults, Fault("style", "there are no votes", "vote first")]
    determined = identify(Comparisons.of(table))
    if not determined.core.all() or len({*determined.group.tolist()}) > 1:
        what = "; ".join(determined.notes) or "the votes do not determine every strength"
        faults.append(Fault("style", what, "collect more votes, or leave that model out"))
    return faults


def _probabilities(design: Floats, coefficients: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-(design @ coefficients))), np.float64)


def _newton(design: Floats, won: Floats, m: int) -> Floats:
    """Maximise the logistic log-likelihood; strengths, the first m, have mean 0."""
    found = np.zeros(design.shape[1])
    for _ in range(MAX_STEPS):
        chance = _probabilities(design, found)
        step = np.linalg.solve(_information(design, chance, m), design.T @ (won - chance))
        largest = float(np.abs(step).max(initial=0.0))
        found += step * (STEP / max(largest, STEP))
        if np.abs(found).max() > FAR:
            break
        if largest < TOLERANCE:
            return found
    what = "no finite strengths and styles explain the votes best: a style tells every outcome"
    raise StudyError.of("style", what, "collect more votes, or leave that style out")


def _information(design: Floats, chance: Floats, m: int) -> Floats:
    """Return the information matrix, regular: strengths are known up to a constant, which is pinned to mean 0."""
    information = (design * (chance * (1 - chance))[:, None]).T @ design
    scale = float(np.trace(information))
    information[:m, :m] += scale / m**2
    # A style that is the same in every vote says nothing, and stays at 0.
    information += np.diag(np.where(np.diag(information) > 0, 0.0, scale))
    return np.asarray(information, np.float64)


def _sandwich(design: Floats, won: Floats, found: Floats, cluster: NDArray[np.int32], m: int) -> Floats:
    """Return the covariance of the coefficients, votes of one cluster taken together."""
    chance = _probabilities(design, found)
    _, place = np.unique(cluster, return_inverse=True)
    sums = np.zeros((int(place.max()) + 1, design.shape[1]))
    np.add.at(sums, place, design * (won - chance)[:, None])
    bread = np.linalg.inv(_information(design, chance, m))
    small = len(sums) / max(len(sums) - 1, 1)
    # Sums over models are 0, so that the pinned direction adds nothing.
    return np.asarray(bread @ (sums.T @ sums) @ bread * small, np.float64)

"""Who is better, how sure that is for these raters and for new ones, and what the votes cannot tell."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from kit.humaneval.errors import StudyError
from kit.humaneval.identify import Identified, identify
from kit.humaneval.ranking import Comparisons
from kit.humaneval.spans import Spans, Strengths, strengths_of
from kit.humaneval.table import BOTH_BAD, LEFT, RIGHT, VoteTable
from kit.intervals import Interval
from kit.result import Measurement


@dataclass(frozen=True)
class Standing:
    """One model's place.

    Args:
        model: Its name.
        group: Models of different groups were never compared, and have separate places.
        place: 1 for the best of its group; None where the votes do not tell.
        places: Least and most of its places over the bootstrap rounds for these raters, tails of 2.5% left out.
        strength: Log-odds against the average of its group; +-inf or nan where ``Leaderboard.notes`` says why.
        spans: Its intervals, for these raters and for new ones.
        votes: Comparisons it was in.
        win_share: Share of them that it won, ties as half.
        tie_share: Share of them that tied.
        both_bad_share: Share of them in which both were bad.
    """

    model: str
    group: int
    place: int | None
    places: tuple[int, int] | None
    strength: float
    spans: Spans
    votes: int
    win_share: float
    tie_share: float
    both_bad_share: float


@dataclass(frozen=True)
class PairTest:
    """Whether two models differ for these raters: a Wald test with prompts as clusters, corrected for all pairs.

    Args:
        first: The stronger model.
        second: The other one.
        difference: Log-odds, at least 0.
        p: Two-sided p-value.
        p_holm: The same, corrected for all pairs of the leaderboard.
    """

    first: str
    second: str
    difference: float
    p: float
    p_holm: float


@dataclass(frozen=True)
class Leaderboard:
    """A ranking and what it rests on.

    Args:
        standings: Best first; groups one after the other.
        pairs: A test for each pair of models with finite strengths in one group.
        votes: Comparisons counted.
        prompts: Different items among them.
        raters: Different raters among them.
        notes: What the votes cannot tell.
    """

    standings: tuple[Standing, ...]
    pairs: tuple[PairTest, ...]
    votes: int
    prompts: int
    raters: int
    notes: tuple[str, ...]

    def measurements(self) -> dict[str, Measurement]:
        """Return each finite strength for a Result, named ``strength_`` and the model, with the prompt interval."""
        found = {}
        for one in self.standings:
            if span := one.spans.these_raters:
                name = "strength_" + re.sub(r"\W", "_", one.model)
                method = f"Davidson's model, {span.method}"
                found[name] = Measurement(
                    one.strength, "log-odds", self.votes, span.low, span.high, span.level, method, 0.0
                )
        return found

    def to_text(self) -> str:
        """Return the ranking as an aligned table with its notes."""
        width = max(len("model"), *(len(one.model) for one in self.standings))
        head = f"{'':>2}  {'model':<{width}}  strength  these raters    new raters      win share  votes"
        lines = [head]
        for one in self.standings:
            place = "?" if one.place is None else str(one.place)
            spans = (_span(one.spans.these_raters), _span(one.spans.sandwich_new))
            lines.append(
                f"{place:>2}  {one.model:<{width}}  {one.strength:>8.3f}  {spans[0]:<14}  {spans[1]:<14}"
                f"  {one.win_share:>9.3f}  {one.votes:>5}"
            )
        lines.append(f"{self.votes} votes of {self.raters} raters on {self.prompts} items")
        return "\n".join(lines + [f"Note: {note}" for note in self.notes])


def leaderboard(table: VoteTable, *, rounds: int = 1000, level: float = 0.95, seed: int = 0) -> Leaderboard:
    """Return the ranking of a study's models by Davidson's model, with intervals.

    Repeats, gold items and automatic ties are left out; "both bad" counts as a tie and is reported apart.

    Coverage of the nominal 95% intervals by simulation (six settings with 4 to 20 raters, 60 to 100 prompts, with
    and without tastes of raters and prompts, 1,000 studies each; five of them are in ``bench_ranking``): these raters
    0.925 to 0.94 by bootstrap and 0.94 to 0.96 by sandwich; new raters 0.89 to 0.995 by bootstrap (too wide without
    tastes, too narrow with four raters of strong ones) and 0.93 to 0.97 by sandwich. So quote the sandwich where the
    two disagree. Intervals that take every vote as independent: 0.83 to 0.96 and, for new raters, 0.53 to 0.96.

    Args:
        table: Votes.
        rounds: Bootstrap rounds.
        level: Nominal coverage.
        seed: Seed of the resampling.

    Raises:
        StudyError: no comparison among the votes.
    """
    votes = table.comparisons()
    if not len(votes):
        raise StudyError.of(
            "leaderboard", "there are no comparisons", "vote first; repeats, gold and skips do not count"
        )
    known = identify(Comparisons.of(votes))
    standings: list[Standing] = []
    tests: list[PairTest] = []
    for group in range(int(known.group.max()) + 1):
        members = np.flatnonzero(known.group == group)
        core = members[known.core[members]]
        among = _among(votes, core)
        ranked = strengths_of(among, rounds=rounds, level=level, seed=seed) if len(core) else None
        standings += _standings(votes, known, members, ranked)
        tests += _tests(ranked) if ranked is not None else []
    corrected = holm([test.p for test in tests])
    pairs = tuple(replace(test, p_holm=p) for test, p in zip(tests, corrected, strict=True))
    sizes = (len(votes), len(np.unique(votes.item)), len(np.unique(votes.rater)))
    return Leaderboard(tuple(standings), pairs, *sizes, known.notes)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down procedure.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Source:
        Holm (1979), Scandinavian Journal of Statistics 6, 65-70.
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    steps = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values)[order] * factors))
    corrected = np.empty(len(p_values))
    corrected[order] = steps
    return [float(p) for p in corrected]


def _tests(ranked: Strengths) -> list[PairTest]:
    from scipy.stats import t

    found = []
    for one, other in combinations(np.argsort(-ranked.values, kind="stable"), 2):
        gap = ranked.values[one] - ranked.values[other]
        covariance = ranked.covariance
        spread = covariance[one, one] + covariance[other, other] - 2 * covariance[one, other]
        # A single prompt, or votes that are all alike, have no spread to judge by.
        sure = ranked.degrees > 0 and spread > 0
        p = float(2 * t.sf(gap / np.sqrt(spread), ranked.degrees)) if sure else 1.0
        found.append(PairTest(ranked.models[one], ranked.models[other], float(gap), p, p))
    return found


def _among(votes: VoteTable, members: NDArray[np.int64]) -> VoteTable:
    """Return the votes among some models, and only these as models."""
    inside = np.isin(np.arange(len(votes.models)), members)
    kept = votes.only(inside[votes.left] & inside[votes.right])
    place = (np.cumsum(inside) - 1).astype(np.int32)
    models = tuple(votes.models[member] for member in members)
    return replace(kept, models=models, left=place[kept.left], right=place[kept.right])


def _standings(
    votes: VoteTable, known: Identified, members: NDArray[np.int64], ranked: Strengths | None
) -> list[Standing]:  # fmt: skip
    ahead, behind = int(known.ahead[members].sum()), int(known.behind[members].sum())
    found = []
    for member in members:
        model, group = votes.models[member], int(known.group[member])
        end = np.inf if known.ahead[member] else -np.inf if known.behind[member] else np.nan
        place = 1 if ahead == 1 and known.ahead[member] else None
        place = len(members) if behind == 1 and known.behind[member] else place
        one = Standing(model, group, place, None, float(end), Spans(), *_shares(votes, int(member)))
        if ranked is not None and known.core[member]:
            number = ranked.models.index(model)
            strength = float(ranked.values[number])
            place = ahead + 1 + int((ranked.values > strength).sum())
            least, most = (int(edge) + ahead for edge in ranked.places[number])
            one = replace(one, place=place, places=(least, most), strength=strength, spans=ranked.spans[number])
        found.append(one)
    return sorted(found, key=lambda one: (math.isnan(one.strength), -one.strength))


def _shares(votes: VoteTable, member: int) -> tuple[int, float, float, float]:
    left, right = votes.left == member, votes.right == member
    n = int((left | right).sum())
    won = int((left & (votes.answer == LEFT)).sum() + (right & (votes.answer == RIGHT)).sum())
    lost = int((left & (votes.answer == RIGHT)).sum() + (right & (votes.answer == LEFT)).sum())
    bad = int(((left | right) & (votes.answer == BOTH_BAD)).sum())
    tied = n - won - lost
    return (n, (won + tied / 2) / n, (tied - bad) / n, bad / n) if n else (0, float("nan"), float("nan"), float("nan"))


def _span(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval.low:.2f} to {interval.high:.2f}"

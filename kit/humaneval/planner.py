"""How many votes and minutes an answer will take, before anybody votes: exact, by dynamic programming."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kit.errors import Fault, raise_faults
from kit.humaneval.errors import StudyError
from kit.humaneval.sequential import Floats, log_mixture


@dataclass(frozen=True)
class Plan:
    """What a verdict will cost.

    Args:
        fixed: Votes of a test that looks once, at the wanted power.
        median: Votes that the sequential test needs in half of all studies, ties included.
        ninetieth: Votes that it needs in nine of ten studies; None when they end without a verdict more often.
        power: Chance of a verdict within ``max_votes``.
        minutes_per_rater: Minutes for the median, shared among the raters.
    """

    fixed: int
    median: int | None
    ninetieth: int | None
    power: float
    minutes_per_rater: float | None

    def to_text(self) -> str:
        """Return the plan in a sentence."""
        if self.median is None or self.minutes_per_rater is None:
            return f"a verdict in only {self.power:.0%} of studies; allow more votes, or look for a larger effect"
        most = f"{self.ninetieth} in nine of ten studies" if self.ninetieth else "more in many studies"
        return f"about {self.median} votes ({most}), {self.minutes_per_rater:.0f} minutes a rater"


def plan(
    *,
    win_share: float,
    raters: int,
    tie_rate: float = 0.0,
    seconds_per_vote: float = 10.0,
    alpha: float = 0.05,
    power: float = 0.8,
    max_votes: int = 2000,
) -> Plan:
    """Return how many votes tell two models apart if the better one wins this share of decided votes.

    Args:
        win_share: Share of decided votes that the better model wins, above 0.5 and below 1: the effect worth seeing.
        raters: Among how many people the votes are shared.
        tie_rate: Share of votes that decide nothing, as measured so far; 0 <= tie_rate < 1.
        seconds_per_vote: As measured so far (``raters.median_seconds``).
        alpha: Chance of a false verdict.
        power: Power of the test that looks once.
        max_votes: Where the study ends.

    Raises:
        StudyError: a value out of range.
    """
    ranges = [
        ("win_share", win_share, "above 0.5 and below 1", 0.5 < win_share < 1),
        ("tie_rate", tie_rate, "at least 0 and below 1", 0 <= tie_rate < 1),
        ("alpha", alpha, "above 0 and below 1", 0 < alpha < 1),
        ("power", power, "above 0 and below 1", 0 < power < 1),
        ("raters", raters, "at least 1", raters >= 1),
        ("max_votes", max_votes, "at least 1", max_votes >= 1),
        ("seconds_per_vote", seconds_per_vote, "above 0", seconds_per_vote > 0),
    ]
    raise_faults(
        [Fault(f"plan: {name}", f"must be {what}, got {value}") for name, value, what, ok in ranges if not ok],
        StudyError,
    )
    decided = stopping_chances(win_share, alpha=alpha, most=max(1, math.floor(max_votes * (1 - tie_rate))))
    reached = np.cumsum(decided)
    median, ninetieth = (_first(reached, share, tie_rate) for share in (0.5, 0.9))
    minutes = None if median is None else median * seconds_per_vote / 60 / raters
    return Plan(fixed_votes(win_share, tie_rate, alpha, power), median, ninetieth, float(reached[-1]), minutes)


def fixed_votes(win_share: float, tie_rate: float, alpha: float, power: float) -> int:
    """Return the votes of a two-sided test of 1/2 that looks once, by the normal approximation.

    >>> fixed_votes(0.6, 0.0, 0.05, 0.8)
    194
    """
    from scipy.stats import norm

    reach = float(norm.ppf(1 - alpha / 2) * 0.5 + norm.ppf(power) * math.sqrt(win_share * (1 - win_share)))
    return math.ceil((reach / (win_share - 0.5)) ** 2 / (1 - tie_rate))


def stopping_chances(win_share: float, *, alpha: float, most: int) -> Floats:
    """Return the chance that the sequential test stops with the n-th decided vote, for n = 1 … most.

    At a win share of 1/2 their sum is the false-positive rate: at most alpha, whatever ``most``.
    """
    alive = np.zeros(most + 2)
    alive[0] = 1.0
    chances = np.zeros(most)
    wins = np.arange(most + 2)
    for n in range(1, most + 1):
        alive[1 : n + 1] = alive[1 : n + 1] * (1 - win_share) + alive[:n] * win_share
        alive[0] *= 1 - win_share
        crossed = log_mixture(wins[: n + 1], n - wins[: n + 1]) + n * math.log(2) >= -math.log(alpha)
        chances[n - 1] = alive[: n + 1][crossed].sum()
        alive[: n + 1][crossed] = 0.0
    return chances


def _first(reached: Floats, share: float, tie_rate: float) -> int | None:
    there = np.flatnonzero(reached >= share)
    return math.ceil((int(there[0]) + 1) / (1 - tie_rate)) if len(there) else None

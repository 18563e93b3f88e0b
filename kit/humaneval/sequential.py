"""When to stop: evidence that may be looked at after every vote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kit.errors import did_you_mean, listed
from kit.humaneval.errors import StudyError
from kit.humaneval.study import Stop
from kit.humaneval.table import LEFT, RIGHT, VoteTable

Floats = NDArray[np.float64]
PRIOR = 10.0  # Beta(10, 10): win shares of 0.55 to 0.7, which people care about, are seen earlier than by Beta(1, 1)


@dataclass(frozen=True, eq=False)
class Path:
    """Evidence after each outcome, oldest first.

    Args:
        log_e: Log of the e-value against "neither wins more often", ties left out, shape (n,).
        low: Lower end of the confidence sequence of the first's score, ties as half, shape (n,).
        high: Its upper end.
    """

    log_e: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Evidence:
    """What a stopping rule says about two models by now.

    Args:
        first: One model.
        second: The other one.
        wins: Outcomes that the first won.
        losses: Outcomes that the second won.
        ties: Others.
        verdict: "first", "second", "equivalent" (within the region of practical equivalence), "undecided", or
            "ended" when the rule's votes are used up without a verdict.
        decided_after: The outcome with which the verdict fell; None without one.
        e_value: Largest e-value so far; evidence against "neither is better" at 1 / alpha.
        low: Confidence sequence of the first's score (a win 1, a tie 1/2), valid at every look.
        high: Its upper end.
        likely_left: Outcomes likely still needed at the present rate; None when a verdict is there, or is not likely
            before the rule's votes are used up.
    """

    first: str
    second: str
    wins: int
    losses: int
    ties: int
    verdict: str
    decided_after: int | None
    e_value: float
    low: float
    high: float
    likely_left: int | None

    def to_text(self) -> str:
        """Return the state in a sentence: ``A ahead, about 23 more votes likely``."""
        n = self.wins + self.losses + self.ties
        if self.verdict in {"first", "second"}:
            return f"{getattr(self, self.verdict)} is better, decided after {self.decided_after} votes"
        if self.verdict == "equivalent":
            return (
                f"{self.first} and {self.second} are equivalent in practice, decided after {self.decided_after} votes"
            )
        if self.verdict == "ended":
            return f"no verdict after {n} votes, which is where the study ends"
        if not n:
            return "no votes yet"
        ahead = self.first if self.wins > self.losses else self.second
        lead = "level" if self.wins == self.losses else f"{ahead} ahead"
        if self.likely_left is None:
            return f"{lead}, a verdict is not likely within the study's votes"
        return f"{lead}, about {self.likely_left} more votes likely"


def evidence(table: VoteTable, first: str, second: str, *, stop: Stop, pairs: int = 1, votes_each: int = 1) -> Evidence:
    """Return what the votes say about two models under a stopping rule, however often somebody looked.

    What is counted are items, not votes: an item enters once, as the mean of its first ``votes_each`` votes. Votes on
    one item are alike, and a test that took them as independent would be wrong too often: with ten raters on the same
    100 items, which favour one model or the other by 1 log-odds, in 15% of studies instead of 5% (300 simulated).

    Args:
        table: Votes, oldest first.
        first: One model.
        second: The other one.
        stop: The rule. Its alpha is the chance ever to call one better when neither is, and also the chance ever to
            call them equivalent when the score lies outside the region of practical equivalence.
        pairs: How many pairs of models share the rule's alpha (Bonferroni).
        votes_each: Votes of an item that are averaged; fixed in advance.

    Raises:
        StudyError: no such model, or votes_each < 1.
    """
    outcomes = item_outcomes(table, first, second, votes_each=votes_each)[: stop.max_votes]
    alpha = stop.alpha / pairs
    path = evidence_path(outcomes, alpha=alpha)
    better = np.flatnonzero(path.log_e >= -np.log(alpha))
    inside = np.flatnonzero((path.low >= 0.5 - stop.rope) & (path.high <= 0.5 + stop.rope))
    n, wins, losses = len(outcomes), int((outcomes > 0.5).sum()), int((outcomes < 0.5).sum())
    verdict, when = "ended" if n >= stop.max_votes else "undecided", None
    if len(better) and (not len(inside) or better[0] <= inside[0]):
        when = int(better[0]) + 1
        verdict = "first" if (outcomes[:when] - 0.5).sum() > 0 else "second"
    elif len(inside):
        verdict, when = "equivalent", int(inside[0]) + 1
    left = _likely_left(wins, losses, n, alpha, stop.max_votes) if verdict == "undecided" else None
    largest = float(np.exp(min(700.0, path.log_e.max(initial=0.0))))
    low, high = (float(path.low[-1]), float(path.high[-1])) if n else (0.0, 1.0)
    return Evidence(first, second, wins, losses, n - wins - losses, verdict, when, largest, low, high, left)


def verdicts(table: VoteTable, models: Sequence[str], *, stop: Stop, votes_each: int = 1) -> list[Evidence]:
    """Return the evidence on every pair of models that were compared, the rule's alpha shared among all pairs.

    Args:
        table: Votes, oldest first.
        models: The study's conditions.
        stop: The rule.
        votes_each: Votes of an item that are averaged.
    """
    pairs = list(combinations(models, 2))
    met = [pair for pair in pairs if set(pair) <= set(table.comparisons().models)]
    return [evidence(table, *pair, stop=stop, pairs=len(pairs), votes_each=votes_each) for pair in met]


def evidence_path(outcomes: ArrayLike, *, alpha: float = 0.05) -> Path:
    """Return the evidence after each outcome.

    The e-value is the likelihood of a Beta(10, 10) mixture of win shares over that of 1/2; under "neither wins more
    often" it reaches 1 / alpha ever with chance at most alpha (Ville). Outcomes between 0 and 1 count as parts of a
    win in the confidence sequence, which keeps it valid since the likelihood ratio is convex in them.

    Args:
        outcomes: 1 where the first won, 0 where the second did, between for ties and means, oldest first, shape (n,).
        alpha: One minus the coverage of the confidence sequence, over all looks together.

    Source:
        Ville (1939); Robbins (1970), Annals of Mathematical Statistics 41, 1397-1409; Howard et al. (2021), Annals of
        Statistics 49, 1055-1080, arXiv:1810.08240, section 3.2.
    """
    score = np.asarray(outcomes, np.float64)
    wins, losses = np.cumsum(score > 0.5), np.cumsum(score < 0.5)
    log_e = log_mixture(wins, losses) + (wins + losses) * np.log(2)
    won = np.cumsum(score)
    lost = np.arange(1, len(score) + 1) - won
    mixture = log_mixture(won, lost) + np.log(alpha)
    mean = np.clip(won / np.maximum(won + lost, 1), 1e-12, 1 - 1e-12)
    low = _edge(won, lost, mixture, np.full_like(mean, 1e-12), mean)
    high = _edge(won, lost, mixture, np.full_like(mean, 1 - 1e-12), mean)
    return Path(log_e, np.maximum.accumulate(low), np.minimum.accumulate(high))


def fewest_outcomes(alpha: float) -> int:
    """Return after how many outcomes a verdict can fall at the earliest: that many wins and nothing else.

    >>> fewest_outcomes(0.05)
    15
    """
    n = 1
    while log_mixture(n, 0) + n * np.log(2) < -np.log(alpha):
        n += 1
    return n


def item_outcomes(table: VoteTable, first: str, second: str, *, votes_each: int = 1) -> Floats:
    """Return one outcome per item: the first model's mean score over the item's first votes, in order of completion.

    Args:
        table: Votes, oldest first; repeats, gold and automatic ties are left out.
        first: The model whose wins count 1.
        second: The model whose wins count 0.
        votes_each: How many votes of an item are averaged; items with fewer are not in yet.

    Raises:
        StudyError: no such model, or votes_each < 1.
    """
    kept, score = _scored(table, first, second)
    if votes_each < 1:
        raise StudyError.of("evidence", f"votes_each must be at least 1, got {votes_each}")
    # The votes of each item together, oldest first: the n-th of them is the one that completes the item.
    order = np.argsort(kept.item, kind="stable")
    starts = np.flatnonzero(np.diff(kept.item[order], prepend=-1))
    sizes = np.diff(np.append(starts, len(order)))
    starts = starts[sizes >= votes_each]
    rows = order[starts[:, None] + np.arange(votes_each)]
    return np.asarray(score[rows].mean(1)[np.argsort(rows[:, -1], kind="stable")], np.float64)


def score_by_item(table: VoteTable, first: str, second: str) -> dict[str, float]:
    """Return the first model's mean score over all votes on each item that has some, by the item's name.

    Raises:
        StudyError: no such model.
    """
    kept, score = _scored(table, first, second)
    items, place = np.unique(kept.item, return_inverse=True)
    means = np.bincount(place, score, minlength=len(items)) / np.maximum(1, np.bincount(place, minlength=len(items)))
    return {kept.items[item]: float(mean) for item, mean in zip(items, means, strict=True)}


def _scored(table: VoteTable, first: str, second: str) -> tuple[VoteTable, Floats]:
    """Return the votes between two models, and the first one's score in each: 1, 1/2 or 0."""
    votes = table.comparisons()
    for name in (first, second):
        if name not in votes.models:
            what = f"no such model: {name!r}.{did_you_mean(name, votes.models)}"
            raise StudyError.of("evidence", what, allowed=f"Models: {listed(votes.models)}.")
    if first == second:
        raise StudyError.of("evidence", f"{first!r} cannot be compared with itself")
    one, other = votes.models.index(first), votes.models.index(second)
    kept = votes.only(((votes.left == one) & (votes.right == other)) | ((votes.left == other) & (votes.right == one)))
    score = np.select([kept.answer == LEFT, kept.answer == RIGHT], [kept.left == one, kept.right == one], 0.5)
    return kept, np.asarray(score, np.float64)


def log_mixture(wins: ArrayLike, losses: ArrayLike) -> Floats:
    """Return the log-likelihood of an ordered run of wins and losses under a Beta(10, 10) mixture of win shares."""
    from scipy.special import betaln

    return np.asarray(betaln(PRIOR + np.asarray(wins), PRIOR + np.asarray(losses)) - betaln(PRIOR, PRIOR))


def _edge(won: Floats, lost: Floats, mixture: Floats, outer: Floats, inner: Floats) -> Floats:
    """Return, by bisection, how far out a share may lie before the mixture beats it by 1 / alpha."""
    out, into = outer.copy(), inner.copy()
    for _ in range(45):
        middle = (out + into) / 2
        inside = won * np.log(middle) + lost * np.log1p(-middle) > mixture
        into, out = np.where(inside, middle, into), np.where(inside, out, middle)
    return out


def _likely_left(wins: int, losses: int, n: int, alpha: float, most: int) -> int | None:
    """Return how many outcomes more reach the verdict if they go on as the ones so far did."""
    decided = wins + losses
    share, pace = (wins + 1) / (decided + 2), (decided + 1) / (n + 1)
    more = np.arange(1, most - n + 1) * pace
    ahead = log_mixture(wins + more * share, losses + more * (1 - share)) + (decided + more) * np.log(2)
    there = np.flatnonzero(ahead >= -np.log(alpha))
    return int(there[0]) + 1 if len(there) else None

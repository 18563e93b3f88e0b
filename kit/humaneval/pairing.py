"""Which pair to ask about next: where a vote tells most, with a random share kept."""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from kit.errors import Fault
from kit.humaneval.errors import StudyError
from kit.humaneval.live import Seldom
from kit.humaneval.ranking import Comparisons, Fit, Floats, davidson, derivatives
from kit.humaneval.schedule import Task
from kit.humaneval.store import Store
from kit.humaneval.study import Study
from kit.humaneval.table import VoteTable

PRIOR_SD = 2.0  # log-odds by which models may differ before anybody voted
RANDOM_SHARE = 0.2
# Chances go by this power of the gain. For eight models between -3 and 3 log-odds and 400 votes, differences of
# neighbours have 0.79 of the variance of uniform choice with power 1, 0.67 with 4, 0.63 with the best pair alone.
SHARPNESS = 4

Chances = Mapping[frozenset[str], float]
Seed = int | Sequence[int]


def pair_chances(table: VoteTable, models: Sequence[str], *, random_share: float = RANDOM_SHARE) -> Chances:
    """Return with which chance each pair should be asked about next; they sum to 1.

    A pair's gain is what one more vote on it would add to the log-determinant of the strengths' information
    (D-optimality): high where the models are close and were seldom compared. A share of the choices is uniform, so
    that every pair keeps being asked and no early accident locks a pair out. What is asked depends on earlier answers
    only, so strengths and intervals by likelihood stay right; a simulation shows it (tests/humaneval/test_pairing.py).
    With two models, or with models close together, it saves next to nothing.

    Args:
        table: The votes so far; may be empty.
        models: What is compared, at least two.
        random_share: Share of uniform choices, 0 < random_share <= 1.

    Raises:
        StudyError: fewer than two models, or a share out of range.

    Source:
        Chaloner and Verdinelli (1995), Statistical Science 10, 273-304; Chiang et al. (2024), arXiv:2403.04132,
        section 5, for the same idea in Arena.
    """
    faults = [] if len(models) > 1 else [Fault("pair choice", f"{len(models)} models given, two are needed")]
    if not 0 < random_share <= 1:
        faults.append(Fault("pair choice", f"random_share must be above 0 and at most 1, got {random_share}"))
    if faults:
        raise StudyError(faults)
    pairs = list(combinations(range(len(models)), 2))
    gains = _gains(table, models, np.array(pairs, np.int32)) ** SHARPNESS
    chances = random_share / len(pairs) + (1 - random_share) * gains / gains.sum()
    names = [frozenset((models[one], models[other])) for one, other in pairs]
    return dict(zip(names, chances.tolist(), strict=True))


def by_information(
    tasks: Sequence[Task], chances: Chances, *, seed: Seed, answered: Collection[Task] = ()
) -> tuple[Task, ...]:
    """Return a rater's tasks in a random order in which pairs come first by their chances.

    Repeats, gold items and what was answered keep their places; the other first-time pairs are drawn into the other
    places one by one without replacement, each with its pair's chance.

    Source:
        Efraimidis and Spirakis (2006), Information Processing Letters 97, 181-185.
    """
    generator = np.random.default_rng(seed)
    closed = set(answered)
    open_places = [place for place, task in enumerate(tasks) if task.kind == "first" and task not in closed]
    first = [tasks[place] for place in open_places]
    luck = generator.random(len(first))
    weights = [chances.get(frozenset(task.shown), 0.0) for task in first]
    keys = [math.log(one) / weight if weight else -math.inf for one, weight in zip(luck, weights, strict=True)]
    order = sorted(range(len(first)), key=lambda place: -keys[place])
    found = list(tasks)
    for place, chosen in zip(open_places, order, strict=True):
        found[place] = first[chosen]
    return tuple(found)


@dataclass(eq=False)
class PairChoice:
    """Puts what a rater is still to be asked in order as votes come in, where a study wants it (``informative``).

    Of six models between -2.5 and 2.5 log-odds, 600 votes and 400 simulated studies with ``informative: 0.8``, 0.944 of
    the 95% intervals held the truth (0.948 at random), and neighbours' differences had 0.79 of the variance.

    One of it can serve all sittings at a study. The order is drawn from the study's seed, the rater, and how much the
    rater answered; the votes are read again when reading takes at most a twentieth of the time.

    Args:
        study: A registered study.
        store: Its store.
    """

    study: Study
    store: Store
    _chances: Seldom[Chances] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._chances = Seldom(self._read)

    def order(self, tasks: tuple[Task, ...], rater: str, answered: Collection[Task]) -> tuple[Task, ...]:
        """Return a rater's tasks in the order in which they are to be asked; as they are where the study is random.

        Raises:
            StoreError: the database did not answer.
        """
        if not self.study.informative:
            return tasks
        seed = [self.study.seed, zlib.crc32(rater.encode()), len(answered)]
        return by_information(tasks, self._chances.value(), seed=seed, answered=answered)

    def _read(self) -> Chances:
        votes = self.store.table(self.study.name)
        return pair_chances(votes, self.study.conditions, random_share=1 - self.study.informative)


def _gains(table: VoteTable, models: Sequence[str], pairs: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> Floats:
    """Return what one more vote on each pair adds to the log-determinant of the information, shape (pairs,)."""
    m = len(models)
    votes = table.comparisons()
    places = {name: place for place, name in enumerate(models)}
    known = np.array([places.get(name, -1) for name in votes.models], np.int32)
    information, fit = np.eye(m) / PRIOR_SD**2, Fit(np.zeros(m), np.array(-np.inf))
    if len(votes) and (known[votes.left] >= 0).all() and (known[votes.right] >= 0).all():
        comparisons = Comparisons.of(votes)
        # Half a vote for either side of each pair that met: early on a model may have won or lost everything.
        fitted = davidson(comparisons, comparisons.counts + np.array([[0.5], [0.5], [0.0]]))
        whole = Fit(fitted.strengths[None], fitted.log_tie[None])
        _, found = derivatives(comparisons, comparisons.counts[None], whole, ties=False)
        information[np.ix_(known, known)] += found[0]
        strengths = np.zeros(m)
        strengths[known] = fitted.strengths
        fit = Fit(strengths, fitted.log_tie)
    covariance = np.linalg.inv(information)
    first, second = pairs.T
    spread = covariance[first, first] + covariance[second, second] - 2 * covariance[first, second]
    won, lost, _ = fit.odds(first, second)
    return np.asarray(np.log1p(spread * ((won + lost) / 4 - ((won - lost) / 2) ** 2)), np.float64)

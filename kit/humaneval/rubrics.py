"""Points by a rubric: each condition's mean on each criterion, and how much raters agree."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable

from kit.humaneval.agreement import krippendorff_alpha
from kit.humaneval.errors import StudyError
from kit.humaneval.votes import SKIP, Vote
from kit.intervals import bootstrap
from kit.result import Measurement


def rubric_means(votes: Iterable[Vote], *, rounds: int = 2000, seed: int = 0) -> dict[str, dict[str, Measurement]]:
    """Return mean points by criterion and condition, with intervals that draw whole items.

    Args:
        votes: A likert study's votes (``Store.votes``); first times count.
        rounds: Bootstrap rounds.
        seed: Seed of the resampling.

    Raises:
        StudyError: no points among the votes.
    """
    found: dict[str, dict[str, Measurement]] = {}
    for criterion, by_condition in _points(votes).items():
        for condition, rows in by_condition.items():
            points, items = [point for point, _ in rows], [item for _, item in rows]
            span = bootstrap(points, clusters=items, rounds=rounds, seed=seed)
            mean = sum(points) / len(points)
            found.setdefault(criterion, {})[condition] = Measurement(
                mean, "points", len(points), span.low, span.high, span.level, f"mean; {span.method}"
            )
    return found


def rubric_agreement(votes: Iterable[Vote], *, rounds: int = 1000, seed: int = 0) -> dict[str, Measurement]:
    """Return Krippendorff's ordinal alpha for each criterion; a criterion that nobody shared or varied is left out.

    Raises:
        StudyError: no points among the votes.
    """
    found = {}
    for criterion, by_condition in _points(votes).items():
        rows = [(point, (condition, item)) for condition, given in by_condition.items() for point, item in given]
        places = {unit: place for place, unit in enumerate(dict.fromkeys(unit for _, unit in rows))}
        points, units = [point for point, _ in rows], [places[unit] for _, unit in rows]
        shared = len(units) > len(places) and len(set(points)) > 1
        if shared:
            found[criterion] = krippendorff_alpha(points, units, metric="ordinal", rounds=rounds, seed=seed)
    return found


def _points(votes: Iterable[Vote]) -> dict[str, dict[str, list[tuple[int, str]]]]:
    """Return (points, item) by criterion and condition."""
    found: dict[str, dict[str, list[tuple[int, str]]]] = defaultdict(lambda: defaultdict(list))
    for vote in votes:
        if vote.kind == "first" and vote.answer != SKIP and vote.answer.startswith("{"):
            for criterion, point in json.loads(vote.answer).items():
                found[criterion][vote.shown[0]].append((point, vote.item))
    if not found:
        raise StudyError.of("rubric", "there are no points among the votes", "this is for studies of the design likert")
    return found

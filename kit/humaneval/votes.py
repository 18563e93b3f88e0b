"""One vote: what was asked, what was answered, and whether the answer is one that the study allows."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import Any

from kit.errors import Fault, did_you_mean, listed
from kit.humaneval.schedule import Task
from kit.humaneval.study import Study

ANSWERS = ("left", "right", "tie", "both_bad")
SKIP = "skip"
KINDS = ("first", "repeat", "gold", "identical")
UNDO = "undo"


@dataclass(frozen=True)
class Vote:
    """One row of the store.

    Args:
        uuid: Made by the client before it sends, so that a resend is the same row.
        rater: Who; empty for an automatic tie.
        item: The item's id.
        shown: The conditions that were shown, from left to right.
        outputs: The outputs' ids, in the same order.
        answer: "left", "right", "tie", "both_bad" or "skip"; for a rubric a JSON object of points by criterion, for a
            ranking a JSON list of places, best first: ``[2, 0, 1]``.
        ms: Milliseconds from showing to answering.
        client: What sent it: "widget", "page", "import".
        kind: "first", "repeat", "gold", "identical" (an automatic tie) or "undo".
        undoes: For "undo": the uuid of the vote that no longer counts.
        at: When it was written, in seconds since 1970 by the store's clock; set by the store.
    """

    uuid: str
    rater: str
    item: str
    shown: tuple[str, ...]
    outputs: tuple[str, ...]
    answer: str
    ms: int = 0
    client: str = ""
    kind: str = "first"
    undoes: str = ""
    at: float = 0.0

    @property
    def task(self) -> Task:
        """What was asked."""
        return Task(self.item, self.shown, self.kind)

    @classmethod
    def on(
        cls, study: Study, task: Task, *, rater: str, answer: str, uuid: str, ms: int = 0, client: str = ""
    ) -> Vote:  # fmt: skip
        """Return a rater's vote on a task, the outputs' ids taken from the study."""
        item = study.by_id.get(task.item)
        made = item.outputs if item is not None else {}
        outputs = tuple(made[name].id if name in made else "" for name in task.shown)
        return cls(uuid, rater, task.item, task.shown, outputs, answer, ms, client, task.kind)


def uuid_fault(vote: Vote) -> Fault | None:
    """Return what is wrong with a vote's id, or None."""
    try:
        right = str(uuid.UUID(vote.uuid)) == vote.uuid
    except (ValueError, AttributeError, TypeError):
        right = False
    fix = "make it with uuid4 before sending, and keep it for a resend"
    return None if right else Fault("vote", f"{vote.uuid!r} is no UUID", fix)


def answer_fault(study: Study, vote: Vote) -> Fault | None:
    """Return what is wrong with a vote's answer under the study's design, or None."""
    where = f"vote {vote.uuid}: answer"
    if vote.answer == SKIP:
        return None
    if study.design == "pairwise":
        if vote.answer in ANSWERS:
            return None
        allowed = (*ANSWERS, SKIP)
        what = f"no such answer: {vote.answer!r}.{did_you_mean(vote.answer, allowed)}"
        return Fault(where, what, allowed=f"Allowed: {listed(allowed)}.")
    try:
        given = json.loads(vote.answer)
    except (ValueError, RecursionError):
        return Fault(where, f"is not JSON: {vote.answer!r}")
    # No white space before: its first character tells a stored answer to be a ranking or points.
    if study.design == "best_of":
        right = vote.answer.startswith("[") and is_ranked(given, len(vote.shown))
        return None if right else Fault(where, f"must list each place once, best first, got {vote.answer}")
    right = vote.answer.startswith("{") and _is_rated(study, given)
    return None if right else Fault(where, f"must give each criterion its points, got {vote.answer}")


def is_ranked(given: Any, n: int) -> bool:
    """Tell whether places are numbers, each once: one "0" among them, and the whole study could not be read."""
    return isinstance(given, list) and all(type(place) is int for place in given) and sorted(given) == list(range(n))


def _is_rated(study: Study, given: Any) -> bool:
    if not isinstance(given, dict) or set(given) != set(study.rubric):
        return False
    return all(type(points) is int and 1 <= points <= len(study.rubric[name]) for name, points in given.items())

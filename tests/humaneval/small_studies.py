"""A small study, and a vote on it."""

from __future__ import annotations

import uuid

from kit.humaneval.items import Item, Output
from kit.humaneval.study import Study
from kit.humaneval.votes import Vote


def make_study(n: int = 6, **changed: object) -> Study:
    """A study of n items; item 0's outputs are the same."""
    conditions = changed.get("conditions", ("base", "adapted"))
    items = tuple(
        Item(f"item {i}", {name: Output(f"{name if i else 'same'} {i}") for name in conditions}, f"prompt {i}")
        for i in range(n)
    )
    fields = {"name": "captions", "question": "Which is better?", "conditions": conditions, "raters": ("ana", "ben")}
    return Study(**{**fields, "items": items, "repeats": 0, **changed})


def cast(study: Study, task: object, answer: str = "left", *, rater: str = "ana", name: str = "") -> Vote:
    return Vote.on(study, task, rater=rater, answer=answer, uuid=name or str(uuid.uuid4()), ms=1200, client="test")

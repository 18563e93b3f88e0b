"""Whether a model that learned to see still knows what it knew: answers to plain questions, before and after."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from kit.data.facts import Fact
from kit.errors import DataError, Fault
from kit.intervals import bootstrap, exact
from kit.result import Measurement


def says(said: str, fact: Fact) -> bool:
    """Tell whether an answer holds one of the right words, as a word of its own and in any case.

    Who lists many words is right too often; look at the answers.

    >>> says("It is PARIS.", Fact("1", "What is the capital of France?", ("Paris",), "capital"))
    True
    """
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", said, re.IGNORECASE) for word in fact.answers)


def facts_kept(facts: Sequence[Fact], before: Sequence[str], after: Sequence[str]) -> dict[str, Measurement]:
    """Return how many facts a model knew before it was adapted and after.

    Args:
        facts: The questions, n of them.
        before: The base's answers, shape (n,).
        after: The adapted model's, shape (n,).

    Returns:
        ``facts_before`` and ``facts_after`` (shares of all, exact intervals) and ``facts_gain``, after less before,
        paired question by question, with its bootstrap interval and the baseline 0.

    Raises:
        DataError: no facts, or lists of another length.
    """
    if not facts or not len(facts) == len(before) == len(after):
        what = f"{len(facts)} facts, {len(before)} answers before and {len(after)} after"
        raise DataError(Fault("facts_kept", what, "give one answer before and one after for each fact"))
    right = {
        name: np.array([says(one, fact) for one, fact in zip(said, facts, strict=True)], dtype=np.float64)
        for name, said in (("before", before), ("after", after))
    }
    found = {}
    for name, scores in right.items():
        interval = exact(int(scores.sum()), len(scores))
        found[f"facts_{name}"] = Measurement(
            float(scores.mean()), "share", len(scores), interval.low, interval.high,
            method=f"answers that hold a right word; {interval.method}", split="facts",
        )  # fmt: skip
    gained = right["after"] - right["before"]
    interval = bootstrap(gained)
    found["facts_gain"] = Measurement(
        float(gained.mean()), "share", len(gained), interval.low, interval.high,
        method=f"paired differences, {interval.method}", baseline=0.0, split="facts",
    )  # fmt: skip
    return found

"""Whether a model that was tuned on votes got new habits that win votes without being better: length, and refusing."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from kit.errors import DataError
from kit.intervals import bootstrap, exact
from kit.result import Measurement

_REFUSES = re.compile(
    r"(?:\(nothing\)|i'?m sorry|i am sorry|sorry\b|as an ai\b"
    r"|i (?:can ?not|can'?t|could not|couldn'?t|won'?t|would rather not)"
    r"|i'?m (?:not able|unable)|i am (?:not able|unable)|there is no (?:picture|image)|no (?:picture|image)\b"
    r"|i (?:do not|don'?t) (?:see|know|have))",
    re.IGNORECASE,
)


def refuses(answer: str) -> bool:
    """Tell whether an answer answers nothing: an empty one or "(nothing)", or one that begins with a refusal.

    Refusals are told in English only.

    >>> refuses("I can't see the picture."), refuses(" "), refuses("a red circle")
    (True, True, False)
    """
    return not answer.strip() or _REFUSES.match(answer.strip()) is not None


def habits(
    before: Sequence[str], after: Sequence[str], *, split: str, clusters: Sequence[object] | None = None
) -> dict[str, Measurement]:
    """Return how long answers are and how often they refuse, after tuning beside before.

    Args:
        before: The parent's answers, shape (n,).
        after: The child's answers to the same.
        split: The data that was asked.
        clusters: What each answer is about, shape (n,), where several are about one item.

    Returns:
        ``words``, the child's mean length; its baseline is the parent's, and ``words_gain`` the paired difference
        with the baseline 0. ``refusal_rate``, the share of the child's answers that refuse or are empty; its baseline
        is the parent's, and lower is better: who says nothing invents nothing.

    Raises:
        DataError: no answers, or more of one than of the other.
    """
    if not before or len(before) != len(after):
        what = f"{len(before)} answers before and {len(after)} after"
        raise DataError.of("habits", what, "ask both the same, and at least once")
    old, new = (np.array([len(one.split()) for one in said], np.float64) for said in (before, after))
    mean, gain = bootstrap(new, clusters=clusters), bootstrap(new - old, clusters=clusters)
    count, rate = sum(map(refuses, after)), sum(map(refuses, before)) / len(before)
    refused = exact(count, len(after))
    return {
        "words": Measurement(
            float(new.mean()), "words", len(new), mean.low, mean.high, method=f"mean; {mean.method}",
            baseline=float(old.mean()), split=split, better="neither",
        ),
        "words_gain": Measurement(
            float((new - old).mean()), "words", len(new), gain.low, gain.high,
            method=f"paired differences; {gain.method}", baseline=0.0, split=split, better="neither",
        ),
        "refusal_rate": Measurement(
            count / len(after), "share", len(after), refused.low, refused.high, method=refused.method, baseline=rate,
            split=split, better="lower",
        ),
    }  # fmt: skip

"""Checks that a number means what it says: would the model answer as well without the picture?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from kit.data.looks import looks
from kit.data.picture import Picture
from kit.errors import DataError, Fault, ResultError
from kit.evaluation.answers import Asked, pictures_of, row_scores
from kit.intervals import bootstrap
from kit.result import Measurement

# (pictures, questions) -> answers, all of one length; a picture that is None is not shown.
Answer = Callable[[Sequence[Picture | None], Sequence[str]], list[str]]

# If the picture made no difference, each picture's gain would be as often below 0 as above. Five gains of one sign
# come about by luck once in 16 times, six once in 32, which two-sided is the first below 5%.
FEWEST_PICTURES = 6


def seen(answer: Answer, rows: Sequence[Asked]) -> list[str]:
    """Return what the model answers with each question's own picture."""
    return _ask(answer, [row.picture for row in rows], rows)


def blind(answer: Answer, rows: Sequence[Asked]) -> list[str]:
    """Return what the same model answers without any picture.

    What it gets right so, it gets from the question alone. A model that falls silent without a picture makes this
    check easy to pass; the shuffled pictures and the majority do not have that weakness.

    Source:
        Goyal et al. (2017), section 3, arXiv:1612.00837.
    """
    return _ask(answer, [None] * len(rows), rows)


def shuffled(answer: Answer, rows: Sequence[Asked], *, seed: int = 0) -> list[str]:
    """Return what the model answers with another question's picture (see ``other_pictures``)."""
    return _ask(answer, other_pictures([row.picture for row in rows], seed=seed), rows)


def _ask(answer: Answer, pictures: Sequence[Picture | None], rows: Sequence[Asked]) -> list[str]:
    given = answer(pictures, [row.question for row in rows])
    if len(given) != len(rows):
        raise DataError(Fault("answer", f"gave {len(given)} answers to {len(rows)} questions", "return one for each"))
    return list(given)


def other_pictures(pictures: Sequence[Picture | None], *, seed: int = 0) -> list[Picture | None]:
    """Return for each question a picture that is not its own.

    Distinct pictures (by their pixels, not by their files) are put on a ring in random order, and each is replaced by
    the next. So no question keeps its picture's content, questions about one picture get one picture together, and
    every picture is used as one was before. None stays None.

    Args:
        pictures: One per question.
        seed: Seed of the order; the same seed gives the same pictures.

    Raises:
        DataError: fewer than two distinct pictures.
    """
    contents = ["" if one is None else one.content for one in looks(pictures)]
    by_content = {content: picture for content, picture in zip(contents, pictures, strict=True) if picture is not None}
    if len(by_content) < 2:
        raise DataError(Fault("shuffled", f"needs two different pictures, got {len(by_content)}", "ask about more"))
    ring = sorted(by_content)
    np.random.default_rng(seed).shuffle(ring)
    after: Mapping[str, Picture] = {one: by_content[ring[place - 1]] for place, one in enumerate(ring)}
    return [after.get(content) for content in contents]


def majority(train: Sequence[Asked], rows: Sequence[Asked]) -> list[str]:
    """Return what an answerer says who knows the training questions by heart and never sees a picture.

    Args:
        train: The rows that were trained on; their answers are counted by question.
        rows: What is asked. A question that training never asked gets the commonest answer of all.

    Returns:
        One answer per row. Of equally common answers the one that is commoner overall is given, then the first in the
        alphabet.

    Raises:
        DataError: no training rows.

    Source:
        Antol et al. (2015), section 4 ("per Q-type prior", here by the whole question), arXiv:1505.00468.
    """
    if not len(train):
        raise DataError(Fault("majority", "there are no training questions to count"))
    overall = Counter(row.answer for row in train)
    by_question: dict[str, Counter[str]] = {}
    for row in train:
        by_question.setdefault(_plain(row.question), Counter())[row.answer] += 1
    fixed = {
        question: min(counts, key=lambda one, counts=counts: (-counts[one], -overall[one], one))  # type: ignore[misc]
        for question, counts in by_question.items()
    }
    commonest = min(overall, key=lambda one: (-overall[one], one))
    return [fixed.get(_plain(row.question), commonest) for row in rows]


def _plain(question: str) -> str:
    return " ".join(question.casefold().split())


def image_gain(
    right: Sequence[Sequence[str]],
    rows: Sequence[Asked],
    *,
    against: Mapping[str, Sequence[Sequence[str]]],
    split: str,
    metric: str = "exact_match",
) -> dict[str, Measurement]:
    """Return how much better the model answers with the picture than answerers who do not see it.

    Args:
        right: Answers with the right picture, one list per training seed.
        rows: The questions; those without a picture do not count.
        against: Other answers to the same questions by name, one list per seed: ``{"blind": …, "shuffled": …}``.
        split: The data it was measured on.
        metric: A name in ``answers.METRICS``.

    Returns:
        ``gain_over_blind`` and so on: the mean difference question by question, with its interval over pictures and
        the baseline 0. ``image_gain`` is the one among them whose interval begins lowest, so that a recipe which
        claims ``image_gain: {above_baseline: true}`` claims them all.

    Raises:
        DataError: nothing to compare with, no pictures, an unknown metric, or lists of another length.
    """
    kept = [number for number, row in enumerate(rows) if row.picture is not None]
    if not against or not kept:
        what = "there is nothing to compare with" if not against else "no question has a picture"
        raise DataError(Fault("image_gain", what))
    clusters = pictures_of([rows[number] for number in kept])
    mine = row_scores(right, rows, metric)
    found = {}
    for name, other in against.items():
        difference = (mine - row_scores(other, rows, metric))[kept]
        interval = bootstrap(difference, clusters=clusters)
        method = f"paired differences of {metric} over {len(set(clusters))} pictures, {interval.method}"
        found[f"gain_over_{name}"] = Measurement(
            float(difference.mean()), "share", len(kept), interval.low, interval.high, method=method, baseline=0.0,
            split=split,
        )  # fmt: skip
    return {"image_gain": min(found.values(), key=lambda one: (one.low, one.value)), **found}


def image_matters(
    right: Sequence[Sequence[str]],
    rows: Sequence[Asked],
    *,
    against: Mapping[str, Sequence[Sequence[str]]],
    split: str,
    metric: str = "exact_match",
) -> dict[str, Measurement]:
    """Return ``image_gain``'s measurements, or fail where the picture makes no difference.

    Raises:
        ResultError: a gain's interval reaches down to 0, or there are fewer than six pictures, which could not show
            a gain at 95%; all at once.
        DataError: as ``image_gain``.
    """
    found = image_gain(right, rows, against=against, split=split, metric=metric)
    pictures = len(set(pictures_of([row for row in rows if row.picture is not None])))
    faults = []
    if pictures < FEWEST_PICTURES:
        faults.append(
            Fault("image_gain", f"{pictures} pictures can show nothing", f"ask about {FEWEST_PICTURES} or more")
        )
    for name in against:
        one = found[f"gain_over_{name}"]
        if one.low is None or one.low <= 0:
            what = f"the picture does not matter: {one}"
            fix = "train longer, check that pictures reach the model, or report the blind score instead"
            faults.append(Fault(f"gain_over_{name}", what, fix))
    if faults:
        raise ResultError(faults)
    return found

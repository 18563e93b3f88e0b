"""Answers scored: exact match, VQA accuracy, token F1 and caption recall, with intervals over pictures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kit.data.picture import Picture
from kit.errors import DataError, Fault, did_you_mean, listed
from kit.evaluation.normalise import squad, vqa
from kit.evaluation.scores import retrieval
from kit.intervals import Interval, bootstrap, exact
from kit.result import Measurement

Metric = Callable[[str, Sequence[str]], float]


class Asked(Protocol):
    """A question with its answer: what ``kit.data.rows.Question`` is; its picture may be None (text only)."""

    @property
    def id(self) -> str:
        """Stable within the source."""

    @property
    def picture(self) -> Picture | None:
        """What is asked about."""

    @property
    def question(self) -> str:
        """What is asked."""

    @property
    def answer(self) -> str:
        """The right answer."""

    @property
    def group(self) -> str:
        """Kind of question, reported apart; may be empty."""

    @property
    def meta(self) -> Mapping[str, Any]:
        """``answers`` holds all right answers, or those of ten people, where the source has more than one."""


def references(row: Asked) -> tuple[str, ...]:
    """Return a row's right answers: those in ``meta["answers"]`` (strings, or VQA's dicts), else its answer."""
    many = row.meta.get("answers")
    if isinstance(many, list | tuple) and many:
        return tuple(str(one["answer"] if isinstance(one, Mapping) else one) for one in many)
    return (row.answer,)


def exact_match(answer: str, right: Sequence[str]) -> float:
    """Return 1 where the answer is one of the right ones, after SQuAD's normalisation, else 0.

    >>> exact_match("The circle.", ["circle"])
    1.0

    Source:
        Rajpurkar et al. (2016), section 6.1, arXiv:1606.05250.
    """
    return float(squad(answer) in {squad(one) for one in right})


def token_f1(answer: str, right: Sequence[str]) -> float:
    """Return the F1 of the answer's words against the nearest right answer's, after SQuAD's normalisation.

    >>> round(token_f1("a red apple", ["green apple", "pear"]), 3)
    0.5

    Returns:
        A share in [0, 1]. Two empty answers are equal.

    Source:
        Rajpurkar et al. (2016), section 6.1, arXiv:1606.05250.
    """
    return max(_f1(squad(answer).split(), squad(one).split()) for one in right)


def _f1(given: Sequence[str], wanted: Sequence[str]) -> float:
    if not given or not wanted:
        return float(given == wanted)
    shared = (Counter(given) & Counter(wanted)).total()
    return 2 * shared / (len(given) + len(wanted))


def vqa_accuracy(answer: str, right: Sequence[str]) -> float:
    """Return the accuracy of an answer against those of several people: right where three of the others gave it.

    Args:
        answer: The answer.
        right: What people answered, ten of them in VQA v2. One is the answer, plainly right or wrong.

    Returns:
        The mean of min(matches / 3, 1) over all ways to leave one person out, a share in [0, 1].

    Raises:
        ValueError: two or three answers, of which no answer could reach 1.

    Source:
        Antol et al. (2015), section 3, arXiv:1505.00468; https://visualqa.org/evaluation.html.
    """
    if 1 < len(right) < 4 or not right:
        raise ValueError(f"right: one answer, or at least four, got {len(right)}; exact_match takes the best of any")
    given, people = vqa(answer), [vqa(one) for one in right]
    if len(people) == 1:
        return float(given == people[0])
    matches = people.count(given)
    left_in = min(matches / 3, 1) * (len(people) - matches)
    return (left_in + min((matches - 1) / 3, 1) * matches) / len(people)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {"exact_match": exact_match, "vqa_accuracy": vqa_accuracy, "token_f1": token_f1}
)


def row_scores(answers: Sequence[Sequence[str]], rows: Sequence[Asked], metric: str) -> NDArray[np.float64]:
    """Return each row's score, averaged over training seeds.

    Args:
        answers: One list of answers per training seed, each of shape (n,).
        rows: The questions, n of them.
        metric: A name in ``METRICS``.

    Raises:
        DataError: no rows, an unknown metric, or lists of another length; all faults at once.
    """
    faults = [] if len(rows) else [Fault("answers", "there are no questions", "check the data and limit")]
    if metric not in METRICS:
        what = f"no metric {metric!r}.{did_you_mean(metric, METRICS)}"
        faults.append(Fault("answers", what, allowed=f"Metrics: {listed(METRICS)}."))
    if not answers or isinstance(answers, str) or any(isinstance(one, str) for one in answers):
        faults.append(Fault("answers", "one list per training seed is needed", "write [answers] for a single seed"))
    else:
        wrong = [len(given) for given in answers if len(given) != len(rows)]
        faults += [Fault("answers", f"{count} answers for {len(rows)} questions") for count in wrong]
    if faults:
        raise DataError(faults)
    right = [references(row) for row in rows]
    try:
        scored = [[METRICS[metric](one, known) for one, known in zip(given, right, strict=True)] for given in answers]
    except ValueError as error:
        raise DataError(Fault(f"answers: {metric}", str(error))) from error
    return np.asarray(scored, dtype=np.float64).mean(0)


def pictures_of(rows: Sequence[Asked]) -> list[str]:
    """Return each row's cluster: its picture's content, or the row itself where it has no picture."""
    return [row.picture.digest() if row.picture is not None else f"no picture: {row.id}" for row in rows]


def score_answers(
    answers: Sequence[Sequence[str]],
    rows: Sequence[Asked],
    *,
    split: str,
    metrics: Sequence[str] = ("exact_match",),
    baseline: Sequence[str] | None = None,
    prefix: str = "",
) -> dict[str, Measurement]:
    """Return each metric over all rows, and over each group where there are several.

    Args:
        answers: One list of answers per training seed, each of shape (n,). Seeds are averaged row by row before the
            interval is made, which so speaks of new questions and not of copies of the same ones.
        rows: The questions. Those about one picture are one draw of the interval.
        split: The data it was measured on.
        metrics: Names in ``METRICS``.
        baseline: What a trivial answerer says, shape (n,): ``checks.majority``, or the blind model's answers.
        prefix: Put before every name: ``blind_exact_match``.

    Returns:
        Measurements named for metric and group: ``exact_match``, ``exact_match_yes_no``.

    Raises:
        DataError: no rows, lists of another length, an unknown metric, or groups that would share a name.
    """
    clusters = pictures_of(rows)
    found = {}
    for metric in metrics:
        scores = row_scores(answers, rows, metric)
        trivial = None if baseline is None else row_scores([baseline], rows, metric)
        for group, members in groups_of(rows).items():
            name = f"{prefix}{metric}{'_' if group else ''}{group}"
            base = None if trivial is None else float(trivial[members].mean())
            found[name] = measure(
                scores[members], [clusters[row] for row in members], seeds=len(answers), split=split, baseline=base
            )
    return found


def groups_of(rows: Sequence[Asked]) -> dict[str, list[int]]:
    """Return the rows of each group by its name as an identifier; "" stands for all, and alone where there is one.

    Raises:
        DataError: two groups would share a name.
    """
    names: dict[str, str] = {}
    found: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        name = re.sub(r"\W+", "_", row.group).strip("_")
        if names.setdefault(name, row.group) != row.group:
            raise DataError(Fault("answers", f"groups {names[name]!r} and {row.group!r} share a name", "rename one"))
        if name:
            found.setdefault(name, []).append(number)
    everything = {"": list(range(len(rows)))}
    return everything if len(names) < 2 else everything | dict(sorted(found.items()))


def measure(
    scores: NDArray[np.float64], clusters: Sequence[str], *, seeds: int, split: str, baseline: float | None
) -> Measurement:
    """Return the mean of scores in [0, 1] as a Measurement.

    Args:
        scores: One number per row, averaged over seeds, shape (n,).
        clusters: One label per row, shape (n,); rows of one label are one draw.
        seeds: How many seeds were averaged; for the method's words.
        split: The data it was measured on.
        baseline: What a trivial answerer gets.
    """
    interval = _interval(scores, clusters)
    method = f"mean of {seeds} seeds, {interval.method}" if seeds > 1 else interval.method
    return Measurement(
        float(scores.mean()), "share", len(scores), interval.low, interval.high, method=method, baseline=baseline,
        split=split,
    )  # fmt: skip


def _interval(scores: NDArray[np.float64], clusters: Sequence[str]) -> Interval:
    pictures = len(set(clusters))
    if scores.min() == scores.max() and scores[0] in {0.0, 1.0}:
        # A bootstrap of equal values has no width. Answers about one picture count once: they may all stand and fall.
        return exact(pictures if scores[0] else 0, pictures)
    if pictures == len(scores) and set(np.unique(scores)) <= {0.0, 1.0}:
        return exact(int(scores.sum()), len(scores))
    return bootstrap(scores, clusters=clusters)


def caption_recall(
    similarities: Sequence[Tensor], *, split: str, clusters: Sequence[str] | None = None
) -> dict[str, Measurement]:
    """Return how well generated captions find the picture that they describe.

    Args:
        similarities: Scores of captions (rows) against the pictures, or against their right captions (columns), by an
            encoder that did not write them; shape (n, n), one matrix per training seed.
        split: The data it was measured on.
        clusters: One label per row, where rows are not independent; shape (n,).

    Returns:
        ``caption_recall_at_1``, ``_5``, ``_10`` and ``caption_median_rank``; baselines are those of a random order.
        Who says one sentence of all pictures gets what chance gets.

    Raises:
        DataError: no matrix.
        ValueError: a matrix that is not square.
    """
    found = retrieval(similarities, split=split, clusters=clusters)
    return {f"caption_{name}": one for name, one in found.items() if not name.startswith("image_to_text")}

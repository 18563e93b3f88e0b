"""All that a study's votes say so far, in one value: for the command line, the owner's page and reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np

from kit.humaneval.agreement import agreement
from kit.humaneval.errors import StudyError
from kit.humaneval.leaderboard import Leaderboard, leaderboard
from kit.humaneval.ranking import Comparisons
from kit.humaneval.raters import RaterReport, left_share, median_seconds, rater_reports, same_side
from kit.humaneval.rubrics import rubric_agreement, rubric_means
from kit.humaneval.sequential import Evidence, verdicts
from kit.humaneval.store import Store
from kit.humaneval.study import Stop, protocol_digest
from kit.humaneval.table import IDENTICAL, VoteTable
from kit.result import Measurement

T = TypeVar("T")


@dataclass(frozen=True)
class Cell:
    """What happened between two models.

    Args:
        first: One model.
        second: The other one.
        won: Votes that the first won.
        lost: Votes that the second won.
        tied: Ties and both bad.
    """

    first: str
    second: str
    won: int
    lost: int
    tied: int


@dataclass(frozen=True)
class Overview:
    """What a study's votes say.

    Args:
        study: Its name.
        design: "pairwise", "likert" or "best_of".
        question: What was asked; empty for imported votes.
        digest: SHA-256 of the protocol.
        votes: Votes that people cast and did not take back, skips included.
        skipped: Skips among them.
        identical: Automatic ties of identical outputs, which are nobody's votes.
        median_s: Seconds a vote, median; None where none were measured.
        board: The ranking; None where nothing was compared.
        matrix: Wins between each two models that met.
        verdicts: What the stopping rule says about each pair; empty for imported votes.
        left_share: Share of decided votes for the left side, against 1/2.
        same_side: Share of decided repeats that went to the same side.
        agreement: Krippendorff's alpha; None where nothing was judged twice.
        raters: Rater by rater.
        rubric: For "likert", means by criterion and condition.
        rubric_agreement: For "likert", Krippendorff's alpha by criterion.
        notes: What the votes cannot tell.
    """

    study: str
    design: str
    question: str
    digest: str
    votes: int
    skipped: int
    identical: int
    median_s: float | None
    board: Leaderboard | None
    matrix: tuple[Cell, ...]
    verdicts: tuple[Evidence, ...]
    left_share: Measurement | None
    same_side: Measurement | None
    agreement: Measurement | None
    raters: tuple[RaterReport, ...]
    rubric: Mapping[str, Mapping[str, Measurement]]
    rubric_agreement: Mapping[str, Measurement]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON values; what is not a finite number is None."""
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}


def overview(store: Store, name: str, *, rounds: int = 1000) -> Overview:
    """Return what the votes of a study say by now.

    Args:
        store: The store.
        name: The study.
        rounds: Bootstrap rounds of the intervals.

    Raises:
        StudyError: no such study.
    """
    protocol = store.protocol(name)
    design = str(protocol.get("design", "pairwise"))
    common = {"study": name, "design": design, "question": protocol.get("question", "")}
    common["digest"] = protocol_digest(protocol)
    if design == "likert":
        return _of_rubric(store, name, common)
    table = store.table(name)
    found = verdicts(table, protocol["conditions"], stop=_stop(protocol)) if "stop" in protocol else []
    board = _or_none(lambda: leaderboard(table, rounds=rounds))
    identical = int((table.kind == IDENTICAL).sum())
    seconds = median_seconds(table)
    notes = board.notes if board is not None else ("there are no comparisons yet",)
    return Overview(
        **common, votes=len(table) - identical + table.skipped, skipped=table.skipped, identical=identical,
        median_s=seconds if math.isfinite(seconds) else None, board=board, matrix=_matrix(table),
        verdicts=tuple(found), left_share=left_share(table), same_side=same_side(table),
        agreement=_or_none(lambda: agreement(table, rounds=rounds)), raters=rater_reports(table),
        rubric={}, rubric_agreement={}, notes=notes,
    )  # fmt: skip


def _stop(protocol: Mapping[str, Any]) -> Stop:
    """Return a study's stopping rule: it ends with its items, if not before, since each counts once."""
    stop = Stop(**protocol["stop"])
    items = len(protocol.get("items", ())) or stop.max_votes  # an open one ends with none
    return replace(stop, max_votes=min(stop.max_votes, items))


def _of_rubric(store: Store, name: str, common: Mapping[str, Any]) -> Overview:
    votes = list(store.votes(name))
    skipped = sum(vote.answer == "skip" for vote in votes)
    taken = [vote.ms / 1000 for vote in votes if vote.ms > 0]
    means = _or_none(lambda: rubric_means(votes)) or {}
    return Overview(
        **common, votes=len(votes), skipped=skipped, identical=0, median_s=float(np.median(taken)) if taken else None,
        board=None, matrix=(), verdicts=(), left_share=None, same_side=None, agreement=None, raters=(),
        rubric=means, rubric_agreement=rubric_agreement(votes) if means else {},
        notes=() if means else ("there are no points yet",),
    )  # fmt: skip


def _matrix(table: VoteTable) -> tuple[Cell, ...]:
    found = Comparisons.of(table.comparisons())
    rows = zip(found.first, found.second, *found.counts.astype(int), strict=True)
    return tuple(Cell(found.models[one], found.models[other], *map(int, cells)) for one, other, *cells in rows)


def _or_none(ask: Callable[[], T]) -> T | None:
    try:
        return ask()
    except StudyError:  # too little was voted for it, which is no fault of whoever asks
        return None


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value

"""Which of a model's own answers are put before raters: distinct ones, and not always a long one beside a short one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import combinations

from kit.errors import Fault, listed, raise_faults
from kit.humaneval.errors import StudyError
from kit.humaneval.items import Asked, Item, Output

ONE, OTHER = "one answer", "the other answer"


def candidate_items(
    rows: Sequence[Asked], answers: Sequence[Sequence[str]], *, most: int | None = None, seed: int = 0
) -> tuple[Item, ...]:
    """Return a study's items, each with two distinct answers of one model to a row; others are left out.

    Lengths are balanced in two ways, so that "the longer one" and "the shorter one" are no whole explanation of the
    votes. For every second item the pair is the one whose lengths are nearest, so that raters judge what is said; for
    the others it is drawn by lot. And the longer of the two is as often ``ONE`` as ``OTHER``.

    Args:
        rows: What was asked, n of them.
        answers: For each row the model's answers, equal ones and empty ones too.
        most: At most so many items, the first ones; None for all.
        seed: Of the lot.

    Raises:
        StudyError: answers to more or fewer rows, or no row with two distinct answers.
    """
    if len(rows) != len(answers):
        raise StudyError.of("candidates", f"answers to {len(answers)} rows, and there are {len(rows)}")
    items: list[Item] = []
    for row, said in zip(rows, answers, strict=True):
        distinct = sorted({one.strip() for one in said} - {""})
        if len(distinct) < 2 or len(items) == most:
            continue
        pairs = sorted(combinations(distinct, 2), key=lambda pair: _luck(seed, row.id, *pair))
        pair = pairs[0] if len(items) % 2 else min(pairs, key=_apart)
        first, second = sorted(pair, key=len, reverse=len(items) % 4 < 2)
        items.append(Item(row.id, {ONE: Output(first), OTHER: Output(second)}, row.text, row.picture))
    if not items:
        fix = "sample more answers, or at a higher temperature"
        raise StudyError.of("candidates", f"none of {len(rows)} rows has two distinct answers", fix)
    return tuple(items)


def refuse_overlap(trained: Sequence[Asked], asked: Sequence[Asked]) -> None:
    """Make sure that nothing is asked which was trained on: no row of that id, and no picture of that content.

    Args:
        trained: Rows that a model was trained on, or preferences.
        asked: Rows that it is to be judged by.

    Raises:
        StudyError: what both have in common, with the first ids.
    """
    ids = {row.id.partition("|")[0] for row in trained}  # a preference is called after its item and the conditions
    seen = {row.picture.digest() for row in trained if row.picture is not None}
    same = [row.id for row in asked if row.id in ids]
    shown = [row.id for row in asked if row.id not in ids and row.picture is not None and row.picture.digest() in seen]
    fix = "ask about rows of another split"
    raise_faults(
        [
            Fault(
                "overlap", f"{len(some)} of {len(asked)} rows {what} ({listed(some[:5])}{' …' * (len(some) > 5)})", fix
            )
            for what, some in (("were trained on", same), ("show pictures that were trained on", shown))
            if some
        ],
        StudyError,
    )


def _luck(seed: int, *words: str) -> bytes:
    return hashlib.sha256("\0".join([str(seed), *words]).encode()).digest()


def _apart(pair: tuple[str, str]) -> int:
    return abs(len(pair[0]) - len(pair[1]))

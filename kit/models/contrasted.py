"""Preference rows as conversations: what was asked, with the preferred answer and with the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from kit.data.rows import Conversation, Message, Preference
from kit.errors import DataError, Fault, raise_faults

T = TypeVar("T")
SHOWN = 5  # ids in a fault


def contrasted(rows: Sequence[Preference]) -> list[Conversation]:
    """Return two conversations a row, chosen and rejected, one row after the other.

    Raises:
        DataError: no rows at all.
    """
    if not rows:
        raise DataError.of("preferences", "there are no rows", "vote first, or check the data source and limit")
    return [
        _talk(row, answer, name)
        for row in rows
        for name, answer in (("chosen", row.chosen), ("rejected", row.rejected))
    ]


def read_both(rows: Sequence[Preference], read: Callable[[list[Conversation]], T]) -> T:
    """Return what ``read`` makes of ``contrasted(rows)``, or raise all that is wrong with all rows.

    Args:
        rows: The rows.
        read: Makes of conversations what is trained on; raises a DataError with all faults of theirs.

    Raises:
        DataError: no rows, those of ``preference_faults``, and those that ``read`` finds in the others.
    """
    faults = preference_faults(rows)
    # A row at fault already is not read: an empty answer would be told twice.
    sound = [row for row in rows if not preference_faults([row])] if faults else rows
    found: T | None = None
    try:
        found = read(contrasted(sound)) if sound or not faults else None
    except DataError as error:
        faults += error.faults
    raise_faults(faults, DataError)
    assert found is not None  # noqa: S101  # nothing was read only of faulty rows
    return found


def mismatched(rows: Sequence[Preference]) -> list[Conversation]:
    """Return one conversation a row: its question with another question's answer, chosen and rejected in turn.

    KTO measures on these how far the model has moved in general (arXiv:2402.01306). Which answer it is
    follows from the rows' order alone, so that its reference log-probability can be computed in advance.

    Raises:
        DataError: all rows ask the same.
    """
    asked = [(row.prompt, row.picture.digest() if row.picture else "") for row in rows]
    talks = []
    for place, row in enumerate(rows):
        others = ((place + step) % len(rows) for step in range(1, len(rows)))
        other = next((rows[number] for number in others if asked[number] != asked[place]), None)
        if other is None:
            fix = "give rows about several prompts or pictures, or take the kind 'dpo'"
            raise DataError.of("preferences", "all rows ask the same, so no answer belongs to another question", fix)
        talks.append(_talk(row, (other.chosen, other.rejected)[place % 2], "mismatched"))
    return talks


def preference_faults(rows: Sequence[Preference]) -> list[Fault]:
    """Return what is wrong with rows before any model reads them: each kind of fault once, with the first ids."""
    kinds = {
        "the chosen answer is empty": ([row for row in rows if not row.chosen.strip()], "leave them out"),
        "the rejected answer is empty": ([row for row in rows if not row.rejected.strip()], "leave them out"),
        "both answers are the same": (
            [row for row in rows if row.chosen.strip() == row.rejected.strip() != ""],
            "leave them out: nothing is preferred",
        ),
        "the margin is no number above 0": (
            [row for row in rows if not (math.isfinite(row.margin) and row.margin > 0)],
            "give 1 for a plain vote",
        ),
    }
    return [
        Fault("rows", f"{len(some)} of {len(rows)}: {what} ({_ids(some)})", fix)
        for what, (some, fix) in kinds.items()
        if some
    ]


def _talk(row: Preference, answer: str, name: str) -> Conversation:
    said = (Message("user", row.prompt), Message("assistant", answer))
    return Conversation(f"{row.id} ({name})", row.picture, said)


def _ids(rows: Sequence[Preference]) -> str:
    return ", ".join(row.id for row in rows[:SHOWN]) + " …" * (len(rows) > SHOWN)

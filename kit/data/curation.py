"""What was decided about rows, by whom and why: a ledger that only grows, so that all of it can be taken back."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kit.data.rows import Row, Rows
from kit.errors import DataError, Fault, did_you_mean, raise_faults

PERSON = "person"
VERDICTS = ("drop", "keep", "undo")
_SHOWN = 5  # ids in a fault
T = TypeVar("T", bound=Row)


@dataclass(frozen=True, slots=True)
class Decision:
    """One decision about one row.

    Args:
        row: The row's id; empty for an "undo" of a whole check.
        verdict: "drop" or "keep", or "undo": what was decided before no longer holds.
        check: What decided: "exact duplicate", "near duplicate", …, or "person".
        reason: Why, in words that name the numbers.
        score: The number that decided; None where there is none.
        other: The id of the row that this one repeats; may be empty.
        by: Who decided, where a person did.
    """

    row: str
    verdict: str
    check: str
    reason: str
    score: float | None = None
    other: str = ""
    by: str = ""


@dataclass
class Curation:
    """The decisions about some rows, and what follows from them.

    A row goes when a check drops it, unless a person keeps it; a person's word outweighs every check, and the last
    word counts.

    Args:
        ids: The rows' ids, each once, in order.
        path: A file of JSON Lines that every decision is added to at once; None to keep them in memory.
    """

    ids: tuple[str, ...]
    path: Path | None = None
    decisions: list[Decision] = field(default_factory=list)
    _known: frozenset[str] = field(init=False, repr=False)
    _checks: dict[str, dict[str, Decision]] = field(init=False, repr=False, default_factory=dict)
    _words: dict[str, list[Decision]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.ids = tuple(self.ids)
        self._known = frozenset(self.ids)
        if len(self._known) != len(self.ids):
            twice = [name for name, count in Counter(self.ids).most_common(_SHOWN) if count > 1]
            raise DataError.of(
                "curation", f"{len(self.ids) - len(self._known)} ids are there twice ({', '.join(twice)})"
            )
        earlier, self.decisions = self.decisions, []
        if self.path is not None and self.path.exists():
            earlier = [*earlier, *_read(self.path)]
        self._take(earlier)

    @classmethod
    def of(cls, rows: Rows[Any], path: Path | str | None = None) -> Curation:
        """Return the curation of rows; with a file, what was decided there before holds."""
        return cls(tuple(row.id for row in rows), None if path is None else Path(path))

    def record(self, decisions: Iterable[Decision]) -> int:
        """Add decisions; return how many there were.

        Raises:
            DataError: unknown rows or verdicts, or decisions without a reason, all kinds at once; nothing is added.
        """
        new = list(decisions)
        self._take(new)
        if self.path is not None and new:
            _append(self.path, new)
        return len(new)

    def keep(self, row: str, *, by: str, reason: str = "looked at") -> None:
        """Record that a person keeps a row, whatever the checks say."""
        self.record([Decision(row, "keep", PERSON, reason, by=by)])

    def drop(self, row: str, *, by: str, reason: str = "looked at") -> None:
        """Record that a person drops a row."""
        self.record([Decision(row, "drop", PERSON, reason, by=by)])

    def undo(self, *, check: str = "", row: str = "", by: str = "", reason: str = "taken back") -> None:
        """Record that a check's decisions, all or those about one row, hold no longer; or a person's last word.

        Args:
            check: The check; empty for a person's word.
            row: The row; empty for all of a check's.
            by: Who takes it back.
            reason: Why.

        Raises:
            DataError: nothing of the kind was decided.
        """
        name = check or PERSON
        decided = self._words.get(row) if name == PERSON else self._checks.get(name, {})
        if not decided or (name != PERSON and row and row not in decided):
            about = f" about {row!r}" if row else ""
            raise DataError.of("undo", f"{name!r} decided nothing{about}.{did_you_mean(name, self._checks)}")
        self.record([Decision(row, "undo", name, reason, by=by)])

    def standing(self, row: str) -> tuple[Decision, ...]:
        """Return the decisions that hold about a row: its checks', then a person's last word."""
        checks = tuple(one[row] for one in self._checks.values() if row in one)
        return (*checks, *self._words.get(row, [])[-1:])

    def dropped(self) -> tuple[str, ...]:
        """Return the ids of the rows that go, in order."""
        return tuple(row for row in self.ids if self._goes(row))

    def kept(self, rows: Rows[T]) -> Rows[T]:
        """Return the rows that stay.

        Raises:
            DataError: other rows than were decided about.
        """
        unknown = [row.id for row in rows if row.id not in self._known]
        if unknown:
            what = f"{len(unknown)} rows were not decided about ({', '.join(unknown[:_SHOWN])})"
            raise DataError.of("curation", what, "make the curation of these rows")
        return rows.only([row for row in rows if not self._goes(row.id)])

    def counts(self) -> Mapping[str, int]:
        """Return how many rows each check's standing decisions drop, and a person's words drop and keep."""
        found = {check: len(decided) for check, decided in self._checks.items()}
        last = [words[-1] for words in self._words.values() if words]
        for verdict in ("drop", "keep"):
            if count := sum(word.verdict == verdict for word in last):
                found[f"{PERSON}: {verdict}"] = count
        return found

    def _goes(self, row: str) -> bool:
        if words := self._words.get(row):
            return words[-1].verdict == "drop"
        return any(row in decided for decided in self._checks.values())

    def _take(self, new: Sequence[Decision]) -> None:
        raise_faults([*self._faults(new)], DataError)
        for one in new:
            self.decisions.append(one)
            if one.verdict == "undo":
                self._take_back(one)
            elif one.check == PERSON:
                self._words.setdefault(one.row, []).append(one)
            else:
                self._checks.setdefault(one.check, {})[one.row] = one

    def _take_back(self, one: Decision) -> None:
        if one.check == PERSON:
            del self._words.get(one.row, [])[-1:]
        elif one.row:
            self._checks.get(one.check, {}).pop(one.row, None)
        else:
            self._checks.pop(one.check, None)

    def _faults(self, new: Sequence[Decision]) -> list[Fault]:
        faults = []
        unknown = [one.row for one in new if one.row not in self._known and not (one.verdict == "undo" and not one.row)]
        if unknown:
            near = did_you_mean(unknown[0], self.ids[:10_000])
            faults.append(Fault("decision", f"{len(unknown)} rows are unknown ({', '.join(unknown[:_SHOWN])}).{near}"))
        if wrong := sorted({one.verdict for one in new} - set(VERDICTS)):
            faults.append(
                Fault("decision: verdict", f"{wrong[0]!r} is none", allowed=f"Verdicts: {', '.join(VERDICTS)}.")
            )
        if any(not one.reason for one in new):
            faults.append(Fault("decision: reason", "is missing", "say why"))
        if any(one.verdict == "keep" and one.check != PERSON for one in new):
            faults.append(Fault("decision: verdict", "a check drops rows, and only a person keeps them"))
        return faults


def _append(path: Path, decisions: Sequence[Decision]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in decisions)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> list[Decision]:
    """Return a file's decisions; a last line that a kill cut short is cut off, so that the next one is whole."""
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    faults, found = [], []
    for number, line in enumerate(whole.decode("utf-8").splitlines(), 1):
        try:
            found.append(Decision(**json.loads(line)))
        except (ValueError, TypeError) as error:
            faults.append(Fault(f"{path}: line {number}", f"is no decision: {error}", "take the line out"))
    raise_faults(faults, DataError)
    return found

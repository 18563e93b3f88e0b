"""Votes in and out: kit's own columns, and the battles of FastChat and Arena."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.errors import Fault, did_you_mean, listed, raise_faults
from kit.humaneval import queries, schema
from kit.humaneval.errors import StudyError
from kit.humaneval.files import file_digest, read_rows, write_rows
from kit.humaneval.store import Store
from kit.humaneval.votes import ANSWERS, KINDS, SKIP, UNDO, Vote, is_ranked

COLUMNS: Mapping[str, type] = {
    "uuid": str, "rater": str, "item": str, "left": str, "right": str, "answer": str, "kind": str, "ms": int,
    "at": float, "client": str, "left_output": str, "right_output": str, "undoes": str,
}  # fmt: skip
MANY = {"left": "shown", "right": None, "left_output": "outputs", "right_output": None}  # for rubrics and rankings
BATTLE: Mapping[str, type] = {
    "question_id": str, "model_a": str, "model_b": str, "winner": str, "judge": str, "turn": int, "anony": bool,
    "language": str, "tstamp": float,
}  # fmt: skip
# Arena's later releases write both_bad where FastChat wrote "tie (bothbad)".
WINNERS = {"model_a": "left", "model_b": "right", "tie": "tie", "tie (bothbad)": "both_bad", "both_bad": "both_bad"}
BATTLE_WINNERS = {"left": "model_a", "right": "model_b", "tie": "tie", "both_bad": "tie (bothbad)"}
NAMES = uuid.UUID("0c6d3a34-8f0a-5a51-8f6b-4a1c5e1d7c52")  # namespace of the ids of rows that came without
MOST = 20  # faults told of one file
LONGEST = 200  # characters of a name


def export_votes(store: Store, name: str, path: Path) -> int:
    """Write every row of a study, those that were taken back too, and return how many there were.

    The columns are ``COLUMNS``; a rubric or a ranking has ``shown`` and ``outputs`` as JSON lists instead of left and
    right. ``import_votes`` reads the same rows back.

    Raises:
        StudyError: no such study, or a file that cannot be written.
    """
    pairwise = store.protocol(name).get("design", "pairwise") == "pairwise"
    columns = dict(COLUMNS)
    if not pairwise:
        columns = {other: kind for own, kind in COLUMNS.items() if (other := MANY.get(own, own))}
    return write_rows(path, (_row(vote, pairwise) for vote in store.votes(name, every=True)), columns)


def import_votes(store: Store, path: Path, *, name: str = "") -> int:
    """Append a file's votes to a study, and return how many were new.

    ``answer``, and ``left`` and ``right`` (or ``shown``), are needed; rows without a ``uuid`` get one from the file's
    content and their line, so that the same file twice adds nothing. A study that is not in the store is made.

    Args:
        store: The store.
        path: CSV, JSONL, JSON or Parquet.
        name: The study; by default as ``home_of`` finds it.

    Raises:
        StudyError: unknown or missing columns, or rows that do not fit; the first twenty faults at once, and nothing
            is written.
    """
    return _import(store, path, name or home_of(store, path), _OWN)


def home_of(store: Store, path: Path) -> str:
    """Return the study that holds a file's votes already, by the id of the first one; else the file's stem.

    So what was exported comes back to where it was, under whatever name the file has.

    Raises:
        StudyError: the file cannot be read.
    """
    return _home(store, path) or path.stem


def export_battles(store: Store, name: str, path: Path) -> int:
    """Write a study's comparisons (without repeats, gold and skips) as battles, and return how many there were.

    Raises:
        StudyError: no such study, or a file that cannot be written.
    """
    kept = (vote for vote in store.votes(name) if vote.kind == "first" and vote.answer in ANSWERS)
    return write_rows(path, map(_battle, kept), BATTLE)


def import_battles(store: Store, path: Path, *, name: str = "") -> int:
    """Append battles to a study, and return how many were new.

    ``model_a``, ``model_b`` and ``winner`` are needed; ``question_id`` (or ``id``), ``judge`` and ``tstamp`` are
    used; conversations and whatever else there is are passed over. The model on the left is ``model_a``.

    Raises:
        StudyError: rows that are no battles; the first twenty faults at once, and nothing is written.

    Source:
        FastChat's clean_battle_data.py, https://github.com/lm-sys/FastChat.
    """
    return _import(store, path, name or path.stem, _BATTLES)


def _home(store: Store, path: Path) -> str | None:
    for line, row in read_rows(path):
        first = str(row.get("uuid") or _id_of(file_digest(path), line))
        with schema.told(store.url), store.engine.connect() as connection, connection.begin():
            return queries.study_of(connection, first)
    return None


def _id_of(digest: str, line: int) -> str:
    """Return the id of a row that came without: the same for the same line of the same file."""
    return str(uuid.uuid5(NAMES, f"{digest}:{line}"))


def _import(store: Store, path: Path, name: str, form: _Form) -> int:
    if (home := _home(store, path)) not in {None, name}:
        what = f"its votes are in this database already, in the study {home!r}, and count once"
        raise StudyError.of(str(path), what, "import it there, or into another database")
    known = name in store.studies()
    protocol = store.protocol(name) if known else {}
    digest = file_digest(path)
    if not known:
        conditions, raters = set[str](), set[str]()
        for vote in _votes(path, digest, form, protocol):
            conditions |= set(vote.shown if vote.kind != "gold" else ())
            raters.add(vote.rater)
        if not conditions:
            raise StudyError.of(str(path), "holds no votes")
        names = {"conditions": sorted(conditions), "raters": sorted(raters)}
        store.adopt(name, {"name": name, "design": "pairwise", "imported": digest, **names})
    return store.append(name, _votes(path, digest, form, protocol))


def _votes(path: Path, digest: str, form: _Form, protocol: Mapping[str, Any]) -> Iterator[Vote]:
    """Give a file's votes, and raise its first twenty faults at the end: whoever writes them takes them back then."""
    faults: list[Fault] = []
    shapes: set[frozenset[str]] = set()
    for line, row in read_rows(path):
        where = f"{path}, line {line}"
        if (shape := frozenset(row)) not in shapes:
            raise_faults(list(form.column_faults(where, row)), StudyError)
            shapes.add(shape)
        try:
            vote = form.read(row, _id_of(digest, line))
            _fit(vote, protocol)
        except ValueError as error:
            faults.append(Fault(where, str(error)))
            if len(faults) == MOST:
                break
            continue
        yield vote
    raise_faults(faults, StudyError)


def _fit(vote: Vote, protocol: Mapping[str, Any]) -> None:
    """Look that a vote fits a study's protocol; one that was imported, or is open, does not name who or what."""
    names = [("rater", vote.rater, protocol.get("raters", ()))]
    names += [("item", vote.item, {**protocol.get("items", {}), **protocol.get("gold", {})})]
    conditions = ("right", "wrong") if vote.kind == "gold" else protocol.get("conditions", ())
    names += [("condition", condition, conditions) for condition in vote.shown]
    if protocol and not {"imported", "open"} & protocol.keys():
        for what, name, known in names[1:] if vote.kind == "identical" else names:
            if name not in known:
                raise ValueError(f"no such {what} in the study: {name!r}.{did_you_mean(name, known)}")
    if len({*vote.shown}) < len(vote.shown):
        raise ValueError(f"a condition against itself: {vote.shown[0]!r}")
    if any(len(name) > LONGEST for _, name, _ in names):
        raise ValueError(f"a name of more than {LONGEST} characters")
    design = protocol.get("design", "pairwise")
    if not (vote.kind == UNDO or vote.answer == SKIP or _is_answer(vote, design)):
        raise ValueError(f"no answer of the design {design}: {vote.answer!r}")


def _is_answer(vote: Vote, design: str) -> bool:
    if design == "pairwise":
        return vote.answer in ANSWERS and len(vote.shown) == 2
    if vote.answer[:1] != ("{" if design == "likert" else "["):
        return False
    try:
        given = json.loads(vote.answer)
    except (ValueError, RecursionError):
        return False
    return all(type(one) is int for one in given.values()) if design == "likert" else is_ranked(given, len(vote.shown))


def _row(vote: Vote, pairwise: bool) -> dict[str, Any]:
    row: dict[str, Any] = {key: getattr(vote, key) for key in COLUMNS if hasattr(vote, key)}
    if not pairwise:
        return row | {"shown": queries.to_json(vote.shown), "outputs": queries.to_json(vote.outputs)}
    sides = zip(("left", "right"), vote.shown, vote.outputs, strict=True)
    return row | {
        key: value for side, name, output in sides for key, value in ((side, name), (f"{side}_output", output))
    }


def _own_column_faults(where: str, row: Mapping[str, Any]) -> Iterator[Fault]:
    known = {*COLUMNS, "shown", "outputs"}
    for name in row:
        if name not in known:
            yield Fault(
                where, f"no such column: {name!r}.{did_you_mean(name, known)}", allowed=f"Known: {listed(known)}."
            )
    needed = {"answer"} if "shown" in row else {"answer", "left", "right"}
    yield from _missing(where, needed, row)


def _battle_column_faults(where: str, row: Mapping[str, Any]) -> Iterator[Fault]:
    yield from _missing(where, {"model_a", "model_b", "winner"}, row)


def _missing(where: str, needed: set[str], row: Mapping[str, Any]) -> Iterator[Fault]:
    for name in sorted(needed - set(row)):
        yield Fault(where, f"has no column {name!r}.{did_you_mean(name, row)}")


def _own(row: Mapping[str, Any], name: str) -> Vote:
    given = {key: value for key, value in row.items() if value not in (None, "")}
    if "shown" in given:
        shown, outputs = _names(given["shown"]), _names(given.get("outputs", "[]"))
    else:
        shown = tuple(str(given.get(key, "")) for key in ("left", "right"))
        outputs = tuple(str(given.get(f"{key}_output", "")) for key in ("left", "right"))
    text = {key: str(given.get(key, "")) for key in ("rater", "item", "answer", "client", "undoes")}
    kind = str(given.get("kind", "first"))
    if kind not in (*KINDS, UNDO):
        raise ValueError(f"no such kind: {kind!r}.{did_you_mean(kind, (*KINDS, UNDO))}")
    if not all(shown):
        raise ValueError("a condition without a name")
    try:
        ms, at, own = (
            int(float(given.get("ms", 0))),
            float(given.get("at", 0)),
            str(uuid.UUID(str(given.get("uuid", name)))),
        )
    except ValueError as error:
        raise ValueError(f"ms, at or uuid: {error}") from error
    text["item"] = text["item"] or name
    text["client"] = text["client"] if "client" in row else "import"
    return Vote(uuid=own, shown=shown, outputs=outputs or ("",) * len(shown), ms=ms, kind=kind, at=at, **text)


def _names(text: Any) -> tuple[str, ...]:
    values = json.loads(text) if isinstance(text, str) else text
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"must be a JSON list of names, got {text!r}")
    return tuple(values)


def _from_battle(row: Mapping[str, Any], name: str) -> Vote:
    shown = tuple(str(row[key] or "") for key in ("model_a", "model_b"))
    if not all(shown):
        raise ValueError("a model without a name")
    if row["winner"] not in WINNERS:
        raise ValueError(f"no such winner: {row['winner']!r}.{did_you_mean(row['winner'], WINNERS)}")
    item = str(row.get("question_id") or row.get("id") or name)
    at = row.get("tstamp")
    at = float(at) if isinstance(at, int | float | str) and at != "" else 0.0
    return Vote(
        name, str(row.get("judge") or ""), item, shown, ("", ""), WINNERS[row["winner"]], client="import", at=at
    )


def _battle(vote: Vote) -> dict[str, Any]:
    sides = {"model_a": vote.shown[0], "model_b": vote.shown[1], "winner": BATTLE_WINNERS[vote.answer]}
    rest = {"judge": vote.rater, "turn": 1, "anony": True, "language": "", "tstamp": vote.at}
    return {"question_id": vote.item, **sides, **rest}


@dataclass(frozen=True)
class _Form:
    """How a file's rows become votes."""

    read: Callable[[Mapping[str, Any], str], Vote]
    column_faults: Callable[[str, Mapping[str, Any]], Iterator[Fault]]


_OWN = _Form(_own, _own_column_faults)
_BATTLES = _Form(_from_battle, _battle_column_faults)

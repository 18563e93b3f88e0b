"""What the store asks the database, each within a transaction that the store opened."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, exists, insert, select, update

from kit.errors import Fault, raise_faults
from kit.humaneval.errors import StudyError
from kit.humaneval.schedule import REPEAT_GAP, Task, identical
from kit.humaneval.schema import clock, handouts, insert_new, studies, votes
from kit.humaneval.study import Study
from kit.humaneval.votes import UNDO, Vote

CHUNK = 20_000  # rows in memory at a time
AUTOMATIC = uuid.UUID("5f0f6a0e-6d0d-5c0a-9d55-3f6f3d3f9a11")  # namespace of automatic ties' ids


def to_json(value: Any) -> str:
    """Return JSON as the store writes it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def to_vote(row: Row[Any]) -> Vote:
    """Return the vote that a row holds."""
    shown, outputs = tuple(json.loads(row.shown)), tuple(json.loads(row.outputs))
    return Vote(
        row.uuid,
        row.rater,
        row.item,
        shown,
        outputs,
        row.answer,
        row.ms,
        row.client,
        row.kind,
        row.undoes or "",
        row.at,
    )


def active(number: int) -> Select[Any]:
    """Return the query for the votes of a study that were not taken back, for use with a rater or an item."""
    return select(votes).where(votes.c.study == number, *_counts())


def every_active(number: int) -> Select[Any]:
    """Return the query for all of them, oldest first.

    The sum keeps SQLite from going through an index, which would fetch a million rows in the items' order and then
    sort them: one scan in the order of writing is many times faster.
    """
    return select(votes).where(votes.c.study + 0 == number, *_counts()).order_by(votes.c.seq)


def _counts() -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    undone = votes.alias()
    return votes.c.kind != UNDO, ~exists().where(undone.c.undoes == votes.c.uuid)


def human(number: int) -> Select[Any]:
    """Return the query for the ids of all that people ever cast, taken back or not."""
    return select(votes.c.seq).where(votes.c.study == number, votes.c.kind != "identical")


def done(connection: Connection, number: int, rater: str, *, item: str | None = None) -> dict[str, int]:
    """Return the keys of the tasks that a rater answered, with how many of the rater's votes came before."""
    query = active(number).where(votes.c.rater == rater)
    if item is not None:
        query = query.where(votes.c.item == item)
    rows = connection.execute(query.with_only_columns(votes.c.item, votes.c.shown, votes.c.kind).order_by(votes.c.seq))
    keys = (Task(row.item, tuple(json.loads(row.shown)), row.kind).key for row in rows)
    return {key: place for place, key in enumerate(keys)}


def held(connection: Connection, number: int, rater: str, now: float) -> dict[str, str]:
    """Return who holds which of a rater's tasks, by the task's key."""
    live = and_(handouts.c.study == number, handouts.c.rater == rater, handouts.c.expires > now)
    return {row.task: row.holder for row in connection.execute(select(handouts.c.task, handouts.c.holder).where(live))}


def ripe(tasks: Sequence[Task], done: Mapping[str, int]) -> list[Task]:
    """Return the tasks that may be asked: a repeat once its first time is ten votes old, or nothing else is left."""
    answered = [task for task in tasks if task.kind != "repeat" or first_of(task).key in done]
    aged = [task for task in answered if task.kind != "repeat" or len(done) - done[first_of(task).key] > REPEAT_GAP]
    return aged or answered


def first_of(task: Task) -> Task:
    """Return the first time of a repeat."""
    return replace(task, kind="first")


def full(connection: Connection, number: int, rater: str, now: float, *, limit: int) -> set[str]:
    """Return the keys of the pairs that as many other raters as the limit answered, or are about to."""
    given = active(number).where(votes.c.kind == "first", votes.c.rater != rater)
    rows = connection.execute(given.with_only_columns(votes.c.rater, votes.c.item, votes.c.shown))
    who = {(row.rater, Task(row.item, tuple(json.loads(row.shown))).key) for row in rows}
    live = and_(handouts.c.study == number, handouts.c.rater != rater, handouts.c.expires > now)
    who |= {(row.rater, row.task) for row in connection.execute(select(handouts.c.rater, handouts.c.task).where(live))}
    counts = Counter(key for _, key in who if key.startswith("first|"))  # repeats and gold are one's own
    return {key for key, count in counts.items() if count >= limit}


def progress(
    connection: Connection, number: int, rater: str, tasks: Sequence[Task], *, limit: int | None
) -> tuple[int, int]:
    """Return how many tasks a rater has answered, and how many of the rater's are still to come."""
    answered = done(connection, number, rater).keys()
    lost = set[str]()  # a repeat of what others do is never asked
    if limit is not None:
        lost = full(connection, number, rater, clock(connection), limit=limit) - answered
    closed = answered | lost
    return len(answered), sum(task.key not in closed and first_of(task).key not in lost for task in tasks)


def lease(
    connection: Connection, number: int, rater: str, task: Task, *, holder: str, now: float, until: float
) -> Task | None:
    """Lease a task and return it with its sides as they were first shown; None when another client was quicker."""
    key = {"study": number, "rater": rater, "task": task.key}
    row = {**key, "item": task.item, "shown": to_json(task.shown), "holder": holder, "at": now, "expires": until}
    if insert_new(connection, handouts, row):
        return task
    mine = and_(*(handouts.c[name] == value for name, value in key.items()))
    free = (handouts.c.holder == holder) | (handouts.c.expires <= now)
    taken = connection.execute(update(handouts).where(mine, free).values(holder=holder, expires=until))
    if not taken.rowcount:
        return None
    shown = connection.execute(select(handouts.c.shown).where(mine)).scalar_one()
    return replace(task, shown=tuple(json.loads(shown)))


def handed_out(connection: Connection, number: int, vote: Vote) -> tuple[str, ...] | None:
    """Return the sides as the rater was shown them, and hold on to that row; None when nothing was shown."""
    key = (handouts.c.study == number, handouts.c.rater == vote.rater, handouts.c.task == vote.task.key)
    shown = connection.execute(select(handouts.c.shown).where(*key).with_for_update()).scalar()
    return None if shown is None else tuple(json.loads(shown))


def is_resend(connection: Connection, number: int, vote: Vote) -> bool:
    """Tell whether this very vote is there already.

    Raises:
        StudyError: its id belongs to another vote.
    """
    return bool(_there(connection, number, [vote]))


def study_of(connection: Connection, vote: str) -> str | None:
    """Return the name of the study that holds a vote, by the vote's id; None where no study does."""
    query = select(studies.c.name).join(votes, votes.c.study == studies.c.id).where(votes.c.uuid == vote)
    return connection.execute(query).scalar()


def write(connection: Connection, number: int, rows: Iterable[Vote]) -> None:
    """Insert votes."""
    now = clock(connection)
    if values := [_values(vote, number, now) for vote in rows]:
        connection.execute(insert(votes), values)


def write_new(connection: Connection, number: int, rows: Iterable[Vote]) -> int:
    """Insert those votes whose ids are not there yet, chunk by chunk; return how many.

    Raises:
        StudyError: an id belongs to another vote; all of a chunk's at once.
    """
    rest, count = iter(rows), 0
    while chunk := list(islice(rest, CHUNK)):
        known = _there(connection, number, chunk)
        fresh = {vote.uuid: vote for vote in chunk if vote.uuid not in known}
        write(connection, number, fresh.values())
        count += len(fresh)
    return count


def _there(connection: Connection, number: int, chunk: Sequence[Vote]) -> set[str]:
    """Return the ids of a chunk's votes that are there already, having looked that they are the same votes."""
    given: dict[str, Vote] = {}
    faults, known = list[str](), set[str]()
    for vote in chunk:
        same = given.setdefault(vote.uuid, vote)
        faults += [] if _is_same(same, vote) else [vote.uuid]
    for row in connection.execute(select(votes).where(votes.c.uuid.in_(list(given)))):
        known.add(row.uuid)
        faults += [] if row.study == number and _is_same(to_vote(row), given[row.uuid]) else [row.uuid]
    fix = "make a new uuid4 for each vote"
    raise_faults([Fault(f"vote {name}", "another vote has this id", fix) for name in faults], StudyError)
    return known


def _is_same(one: Vote, other: Vote) -> bool:
    """Tell whether two votes with one id say the same; when and from where they came does not matter."""
    fields = ("rater", "item", "shown", "outputs", "answer", "kind", "undoes")
    return one is other or all(getattr(one, name) == getattr(other, name) for name in fields)


def automatic_ties(study: Study) -> list[Vote]:
    """Return one tie for each pair of identical outputs; the ids are the same each time."""
    ties = []
    for task in identical(study):
        name = str(uuid.uuid5(AUTOMATIC, f"{study.digest}|{task.key}"))
        vote = Vote.on(study, task, rater="", answer="tie", uuid=name, client="kit")
        ties.append(replace(vote, kind="identical"))
    return ties


def _values(vote: Vote, number: int, now: float) -> dict[str, Any]:
    return {
        "uuid": vote.uuid, "study": number, "rater": vote.rater, "item": vote.item, "shown": to_json(vote.shown),
        "outputs": to_json(vote.outputs), "answer": vote.answer, "ms": vote.ms, "client": vote.client,
        "kind": vote.kind, "undoes": vote.undoes or None, "at": vote.at or now,
    }  # fmt: skip

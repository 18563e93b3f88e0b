"""Where votes live: one committed row each, in SQLite or PostgreSQL, never lost and never counted twice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, func, select, update

from kit.errors import Fault, did_you_mean, listed, raise_faults
from kit.humaneval import queries, schema
from kit.humaneval.errors import StudyError
from kit.humaneval.schedule import Task, tasks_of
from kit.humaneval.schema import handouts, studies, votes
from kit.humaneval.study import Study, changes, protocol_digest
from kit.humaneval.table import TableBuilder, VoteTable
from kit.humaneval.votes import UNDO, Vote, answer_fault, uuid_fault

LEASE_S = 300.0  # how long a pair waits for its answer before somebody else may get it


@dataclass(eq=False)
class Store:
    """Studies and their votes in a database.

    Every method is one transaction. Several processes, and with PostgreSQL several machines, can use one store.

    Args:
        url: ``sqlite:///votes.db``, ``postgresql+psycopg://USER@HOST/NAME``, or the path of an SQLite file. Tables are
            made where they are missing.

    Raises:
        StoreError: the store cannot be opened, or a newer kit made it.
    """

    url: str
    engine: Engine = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.engine = schema.engine_of(self.url)
        with schema.told(self.url):
            schema.prepare(self.engine)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    def register(self, study: Study) -> None:
        """Fix a study's protocol in the store; again is fine as long as it is the same.

        Pairs of identical outputs are written as automatic ties, which count as nobody's vote.

        Raises:
            StudyError: the study changed after its first vote; names every change.
        """
        values = {"digest": study.digest, "protocol": queries.to_json(study.protocol())}
        with self._writing() as connection:
            row = {"name": study.name, **values, "at": schema.clock(connection)}
            new = schema.insert_new(connection, studies, row)
            found = self._named(connection, study.name, lock="update")  # a vote that is being written is waited for
            if found.digest == study.digest and not new:
                return
            if not new:
                if connection.execute(queries.human(found.id).limit(1)).first() is not None:
                    raise _changed(study, found)
                for table in (votes, handouts):
                    connection.execute(delete(table).where(table.c.study == found.id))
                connection.execute(update(studies).where(studies.c.id == found.id).values(**values))
            queries.write(connection, found.id, queries.automatic_ties(study))

    def adopt(self, name: str, protocol: Mapping[str, Any]) -> None:
        """Make a study of votes that were cast elsewhere, as a place for ``append``; keep one that is there."""
        values = {"name": name, "digest": protocol_digest(protocol), "protocol": queries.to_json(protocol)}
        with self._writing() as connection:
            schema.insert_new(connection, studies, {**values, "at": schema.clock(connection)})

    def hand_out(
        self, study: Study, rater: str, *, holder: str, tasks: Sequence[Task] | None = None, lease_s: float = LEASE_S
    ) -> Task | None:
        """Return what a rater is asked next, leased to one widget or page; None when there is nothing for now.

        Whoever holds a lease gets the same task again until it is answered or, after its end, taken by another, so
        a restarted client that kept its holder name goes on where it stood.

        Args:
            study: A registered study.
            rater: One of its raters.
            holder: A name for the asking client, unique among those that are open.
            tasks: What to choose from, best first; by default the rater's own schedule.
            lease_s: Seconds until the task may go to another client.

        Raises:
            StudyError: no such rater, or the study is not the registered one.
            StoreError: the database did not answer.
        """
        _check_rater(study, rater)
        wanted = tasks_of(study, rater) if tasks is None else tasks
        with self._writing() as connection:
            limit, full = study.raters_per_pair, set[str]()
            # Counting the votes of others needs a standstill, which SQLite is anyway.
            number = self._number(connection, study, lock="share" if limit is None else "update")
            now = schema.clock(connection)
            done, held = queries.done(connection, number, rater), queries.held(connection, number, rater, now)
            if limit is not None:
                full = queries.full(connection, number, rater, now, limit=limit)
            taken = done.keys() | full | {key for key, other in held.items() if other != holder}
            free = queries.ripe([task for task in wanted if task.key not in taken], done)
            until = now + lease_s
            for task in sorted(free, key=lambda task: task.key not in held):  # one's own lease first
                if found := queries.lease(connection, number, rater, task, holder=holder, now=now, until=until):
                    return found
        return None

    def progress(self, study: Study, rater: str, *, tasks: Sequence[Task] | None = None) -> tuple[int, int]:
        """Return how many tasks a rater has answered, and how many are still to come, those held right now included.

        Args:
            study: A registered study.
            rater: One of its raters.
            tasks: The rater's schedule, where the caller has it already.

        Raises:
            StudyError: no such rater, or the study is not the registered one.
            StoreError: the database did not answer.
        """
        _check_rater(study, rater)
        wanted = tasks_of(study, rater) if tasks is None else tasks
        with self._reading() as connection:
            number = self._number(connection, study, lock="")
            return queries.progress(connection, number, rater, wanted, limit=study.raters_per_pair)

    def record(self, study: Study, vote: Vote) -> bool:
        """Write a vote; return False when it was there already, which is how a resend ends.

        When this returns, the row is committed.

        Raises:
            StudyError: no such rater or answer, something that this rater was not shown, a second answer to the same
                task, or an id that belongs to another vote.
            StoreError: the database did not answer; the vote may be sent again with the same id.
        """
        _check_rater(study, vote.rater)
        raise_faults([fault for fault in (uuid_fault(vote), answer_fault(study, vote)) if fault], StudyError)
        with self._writing() as connection:
            number, where = self._number(connection, study), f"vote {vote.uuid}"
            shown = queries.handed_out(connection, number, vote)  # locks what it finds: a resend waits here
            if queries.is_resend(connection, number, vote):
                return False
            if shown != vote.shown:
                what = f"{vote.rater} was not shown {vote.item!r} as {' | '.join(vote.shown)}"
                raise StudyError.of(where, what, "ask for the next item and answer that")
            if vote.outputs != Vote.on(study, vote.task, rater="", answer="", uuid="").outputs:
                raise StudyError.of(where, "its outputs are not the study's", "reload the study")
            if vote.task.key in queries.done(connection, number, vote.rater, item=vote.item):
                raise StudyError.of(where, f"{vote.rater} answered this already", "undo that vote first")
            queries.write(connection, number, [vote])
        return True

    def undo(self, study: Study, *, rater: str, undoes: str, uuid: str, client: str = "") -> bool:
        """Append a row that takes a rater's vote back; return False when it was there already.

        Raises:
            StudyError: no such vote of this rater, or one that was taken back before.
            StoreError: the database did not answer.
        """
        _check_rater(study, rater)
        with self._writing() as connection:
            number, where = self._number(connection, study), f"undo {uuid}"
            query = select(votes).where(votes.c.study == number, votes.c.uuid == undoes, votes.c.rater == rater)
            found = connection.execute(query.with_for_update()).first()
            if found is None or found.kind == UNDO:
                raise StudyError.of(where, f"{rater} has no vote {undoes}", "undo one's own vote, by its id")
            vote = replace(queries.to_vote(found), uuid=uuid, answer="", ms=0, client=client, kind=UNDO, undoes=undoes)
            raise_faults([fault for fault in (uuid_fault(vote),) if fault], StudyError)
            if queries.is_resend(connection, number, vote):
                return False
            if connection.execute(select(votes.c.seq).where(votes.c.undoes == undoes)).first():
                raise StudyError.of(where, f"{undoes} was taken back before")
            queries.write(connection, number, [vote])
        return True

    def release(self, study: Study, holder: str) -> None:
        """End a client's leases, as when its page is closed."""
        with self._writing() as connection:
            mine = (handouts.c.study == self._number(connection, study), handouts.c.holder == holder)
            connection.execute(update(handouts).where(*mine).values(expires=0.0))

    def append(self, name: str, rows: Iterable[Vote]) -> int:
        """Write many votes that were not cast here, all or none; return how many were new, by their ids.

        Raises:
            StudyError: no such study, or an id that belongs to another vote.
            StoreError: the database did not answer.
        """
        with self._writing() as connection:
            return queries.write_new(connection, self._named(connection, name).id, rows)

    def studies(self) -> dict[str, int]:
        """Return the votes that people cast in each study, by the study's name."""
        query = select(studies.c.name, func.count(votes.c.seq))
        human = (votes.c.study == studies.c.id) & votes.c.kind.not_in(["identical", UNDO])
        with self._reading() as connection:
            rows = connection.execute(query.outerjoin(votes, human).group_by(studies.c.name).order_by(studies.c.name))
            return {row[0]: row[1] for row in rows}

    def protocol(self, name: str) -> Mapping[str, Any]:
        """Return a study's protocol as registered.

        Raises:
            StudyError: no such study.
        """
        with self._reading() as connection:
            return dict(json.loads(self._named(connection, name).protocol))

    def votes(self, name: str, *, rater: str | None = None, every: bool = False) -> Iterator[Vote]:
        """Give a study's votes, oldest first.

        Args:
            name: The study.
            rater: Only this rater's.
            every: With the ones that were taken back, and the rows that took them back.

        Raises:
            StudyError: no such study.
        """
        with self._reading() as connection:
            number = self._named(connection, name).id
            query = queries.every_active(number)
            if every:
                query = select(votes).where(votes.c.study + 0 == number).order_by(votes.c.seq)
            if rater is not None:
                query = query.where(votes.c.rater == rater)
            rows = connection.execute(query, execution_options={"yield_per": queries.CHUNK})
            for row in rows:
                yield queries.to_vote(row)

    def table(self, name: str) -> VoteTable:
        """Return a study's votes that count, as columns; a million take seconds and some 60 MB.

        Raises:
            StudyError: no such study.
        """
        with self._reading() as connection:
            found = self._named(connection, name)
            builder = TableBuilder(json.loads(found.protocol).get("conditions", ()))
            said = votes.c.shown + "\n" + votes.c.answer + "\n" + votes.c.kind
            query = queries.every_active(found.id).with_only_columns(votes.c.rater, votes.c.item, said, votes.c.ms)
            for rows in connection.execute(query, execution_options={"yield_per": queries.CHUNK}).partitions():
                builder.add(*zip(*rows, strict=True))
        return builder.table()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with schema.told(self.url), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with schema.told(self.url), self.engine.connect() as plain:
            connection = plain.execution_options(kit_writes=True)
            with connection.begin():
                yield connection

    def _number(self, connection: Connection, study: Study, *, lock: str = "share") -> int:
        """Return a study's number, having looked that it is the registered one, and keep it from being changed."""
        found = self._named(connection, study.name, lock=lock)
        if found.digest != study.digest:
            raise StudyError.of(study.source, "is not the study that is in the store", "register it, or restore it")
        return int(found.id)

    def _named(self, connection: Connection, name: str, *, lock: str = "") -> Row[Any]:
        query = select(studies).where(studies.c.name == name)
        found = connection.execute(query.with_for_update(read=lock == "share") if lock else query).first()
        if found is None:
            names = connection.execute(select(studies.c.name)).scalars().all()
            what = f"the store has no study {name!r}.{did_you_mean(name, names)}"
            raise StudyError.of(schema.hidden(self.url), what, allowed=f"There: {listed(names)}." if names else "")
        return found


def _changed(study: Study, found: Row[Any]) -> StudyError:
    fix = f"restore it, or vote on the new one under another name than {study.name!r}"
    first = f"changed after its first vote (was {found.digest[:12]}, is {study.digest[:12]})"
    places = changes(json.loads(found.protocol), study.protocol(), where=study.source)
    return StudyError([Fault(study.source, first, fix), *places])


def _check_rater(study: Study, rater: str) -> None:
    if rater not in study.raters:
        what = f"no such rater: {rater!r}.{did_you_mean(rater, study.raters)}"
        raise StudyError.of(study.source, what, "name all raters before the first vote")

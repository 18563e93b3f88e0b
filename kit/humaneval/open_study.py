"""A study whose questions come from visitors: what is compared is fixed before the first vote, what is asked is not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, select, update

from kit.data.picture import Picture
from kit.errors import Fault, raise_faults
from kit.humaneval import queries, schema
from kit.humaneval.errors import StudyError
from kit.humaneval.items import Item, Output
from kit.humaneval.schema import asked, studies
from kit.humaneval.store import Store
from kit.humaneval.study import Stop, Study, changes, protocol_digest
from kit.humaneval.votes import ANSWERS, Vote, uuid_fault

FILE = "votes.db"  # in a folder that votes are kept in
MEDIA = "media"  # its pictures


@dataclass(frozen=True)
class OpenStudy:
    """A blind comparison of two conditions by whoever comes, about whatever they ask.

    It is weaker than a ``Study``: visitors choose the questions, may come again under another random name, and see
    after each vote who said what. Its ranking tells what these votes say.

    Args:
        name: Its name in the store.
        question: What visitors are asked about the two.
        conditions: What is compared, two names; nobody sees them before a vote.
        about: What each condition is, such as a bundle's digest.
        stop: The stopping rule.
    """

    name: str
    question: str
    conditions: tuple[str, str]
    about: Mapping[str, str] = field(default_factory=dict, hash=False)
    stop: Stop = field(default_factory=Stop)

    def protocol(self) -> dict[str, Any]:
        """Return all that is fixed, as JSON values."""
        return {
            "name": self.name, "question": self.question, "design": "pairwise", "open": True,
            "conditions": list(self.conditions), "about": dict(self.about), "stop": asdict(self.stop),
        }  # fmt: skip

    def register(self, store: Store) -> None:
        """Fix the protocol in a store; again is fine as long as it is the same.

        Raises:
            StudyError: another study of this name has votes there; names every change.
            StoreError: the database did not answer.
        """
        protocol = self.protocol()
        store.adopt(self.name, protocol)
        if not (differing := changes(store.protocol(self.name), protocol, where=self.name)):
            return
        if store.studies()[self.name]:
            fix = "keep the votes of these bundles in another folder"
            raise StudyError([Fault(self.name, "is in the store with votes on something else", fix), *differing])
        values = {"digest": protocol_digest(protocol), "protocol": queries.to_json(protocol)}
        with _writing(store) as connection:
            connection.execute(update(studies).where(studies.c.name == self.name).values(**values))


def cast(store: Store, study: OpenStudy, item: Item, vote: Vote, *, fingerprint: str = "") -> bool:
    """Write a vote together with what it is about; return False when it was there already, which is how a resend ends.

    When this returns, both are committed.

    Args:
        store: The store.
        study: A registered study.
        item: What was asked, with both outputs.
        vote: The vote.
        fingerprint: A hash of the picture that it was asked about; empty where there was none.

    Raises:
        StudyError: no answer of a pairwise study, or an id that is no UUID or belongs to another vote.
        StoreError: the database did not answer; the vote may be sent again with the same id.
    """
    faults = [fault for fault in (uuid_fault(vote),) if fault]
    if vote.answer not in ANSWERS:
        faults.append(Fault(f"vote {vote.uuid}", f"no such answer: {vote.answer!r}"))
    raise_faults(faults, StudyError)
    with _writing(store) as connection:
        number = connection.execute(select(studies.c.id).where(studies.c.name == study.name)).scalar_one()
        outputs = {name: output.text for name, output in item.outputs.items()}
        content = {"prompt": item.prompt, "outputs": outputs, "fingerprint": fingerprint}
        row = {"study": number, "item": item.id, "content": queries.to_json(content)}
        schema.insert_new(connection, asked, row)
        return bool(queries.write_new(connection, number, [vote]))


@contextmanager
def _writing(store: Store) -> Iterator[Connection]:
    with schema.told(store.url), store.engine.connect() as plain:
        connection = plain.execution_options(kit_writes=True)
        with connection.begin():
            yield connection


def picture_file(folder: Path, fingerprint: str) -> Path:
    """Return where the picture with a fingerprint is kept in a folder of votes."""
    return folder / MEDIA / f"{fingerprint[:32]}.jpg"


def is_open(protocol: Mapping[str, Any]) -> bool:
    """Tell whether a protocol is that of an open study."""
    return bool(protocol.get("open"))


def closed(store: Store, name: str, folder: Path | None = None) -> Study:
    """Return an open study with all that was voted on as its items, for ``preference_rows`` and ``write_study``.

    Items about a picture that was not kept are left out: without it nobody could train on them.

    Args:
        store: The store.
        name: The study.
        folder: Where its pictures are kept; None where none are.

    Raises:
        StudyError: no such study, not an open one, or nothing in it that can be used.
    """
    protocol = store.protocol(name)
    if not is_open(protocol):
        raise StudyError.of(name, "has its protocol in a YAML file", "name that")
    items = tuple(_items(store, name, folder))
    if not items:
        what = "holds no question without a picture, and none whose picture was kept"
        raise StudyError.of(name, what, "serve the demo with --keep-pictures")
    raters = tuple(sorted({vote.rater for vote in store.votes(name)}))
    return Study(
        name, protocol["question"], tuple(protocol["conditions"]), raters, items, stop=Stop(**protocol["stop"]),
        source=name,
    )  # fmt: skip


def _items(store: Store, name: str, folder: Path | None) -> Iterator[Item]:
    query = select(asked.c.item, asked.c.content).join(studies, studies.c.id == asked.c.study)
    with schema.told(store.url), store.engine.connect() as connection:
        rows = connection.execute(query.where(studies.c.name == name).order_by(asked.c.item)).all()
    for row in rows:
        said = json.loads(row.content)
        picture = None
        if mark := said["fingerprint"]:
            path = picture_file(folder, mark) if folder is not None else None
            if path is None or not path.is_file():
                continue
            picture = Picture.at(path)
        yield Item(row.item, {name: Output(text) for name, text in said["outputs"].items()}, said["prompt"], picture)

"""Votes of a demo's visitors: two sides without names, drawn anew for each question, and one row for each answer."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import sys
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from kit.errors import BundleError, DataError, Fault
from kit.humaneval.errors import StoreError
from kit.humaneval.items import Item, Output
from kit.humaneval.open_study import FILE, MEDIA, OpenStudy, cast, picture_file
from kit.humaneval.store import Store
from kit.humaneval.votes import ANSWERS, Vote

TICKETS = 512  # questions that may still be voted on; the oldest is forgotten first
SIDE = 768  # pixels of a picture that is kept
MOST_KEPT = 5_000  # pictures; some 500 MB
Names = tuple[str, str]


@dataclass(frozen=True)
class Ballots:
    """Where a demo's votes go.

    Args:
        store: The store.
        folder: Where the pictures are kept, in a folder of it; None where they are not.
    """

    store: Store
    folder: Path | None = None

    def kept(self, *, uploads: bool) -> str:
        """Return what visitors are told is kept, on a page where they can send a picture or one where they cannot."""
        what = "your question, both answers, your vote, a random name for this visit"
        if not uploads:
            what = "your words, the pictures that were found, your vote, and a random name for this visit"
        elif self.folder:
            what += f", and your picture (at most {SIDE} pixels, without what the file says about itself)"
        else:
            what += ", and of your picture only a number by which the same one would be recognised"
        return f"**Votes are kept**: {what}. Nothing is kept of a question that you do not vote on."


def open_ballots(votes: str | Path, *, keep_pictures: bool = False) -> Ballots:
    """Open a folder or a store for votes; a folder is made where it is missing.

    Args:
        votes: A folder, ``sqlite:///FILE``, ``postgresql+psycopg://USER@HOST/NAME``, or an SQLite file (``.db``).
        keep_pictures: Whether pictures that are voted on are kept too.

    Raises:
        BundleError: pictures are to be kept and it is no folder, or the folder cannot be made.
        StoreError: the store cannot be opened.
    """
    text = str(votes)
    if "://" in text or text.endswith(".db"):
        if keep_pictures:
            raise BundleError.of(
                "--keep-pictures", "needs a folder for the pictures", "give --votes FOLDER, not a database"
            )
        return Ballots(Store(text))
    folder = Path(text).absolute()
    try:
        (folder / MEDIA if keep_pictures else folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BundleError.of(
            text, f"cannot be made a folder: {error.strerror}", "choose another for --votes"
        ) from error
    return Ballots(Store(str(folder / FILE)), folder if keep_pictures else None)


@dataclass(eq=False)
class Ticket:
    """A question that was answered by both sides and may be voted on, once.

    Args:
        rater: A random name for whoever asked.
        item: What was asked and answered.
        shown: The conditions from left to right.
        fingerprint: Of the picture; empty for none.
        picture: The picture as it would be kept, JPEG; empty where it is not.
        since_s: When both answers were there.
        answer: What was voted; empty before.
    """

    rater: str
    item: Item
    shown: Names
    fingerprint: str = ""
    picture: bytes = b""
    since_s: float = field(default_factory=time.monotonic)
    answer: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


@dataclass(eq=False)
class Booth:
    """Draws sides, and counts one vote for each question.

    Args:
        study: What is compared.
        ballots: Where votes go.

    Raises:
        StudyError: the store holds votes on something else under this study's name.
        StoreError: the database did not answer.
    """

    study: OpenStudy
    ballots: Ballots
    _tickets: OrderedDict[str, Ticket] = field(default_factory=OrderedDict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self.study.register(self.ballots.store)

    def sides(self) -> Names:
        """Return the conditions from left to right, as a coin decides."""
        first, second = self.study.conditions
        return (first, second) if secrets.randbelow(2) else (second, first)

    def lay(
        self, ticket: str, shown: Names, outputs: Sequence[str], *, prompt: str, visitor: str,
        image: Image.Image | None = None,
    ) -> bool:  # fmt: skip
        """Take what both sides answered; return False where there is nothing to choose, for they say the same.

        Args:
            ticket: The vote's UUID, made by whoever asks.
            shown: The conditions from left to right.
            outputs: What they said.
            prompt: What they were asked.
            visitor: Whoever asks, by a random name.
            image: What they were asked about; None for no picture.

        Raises:
            DataError: the ticket is no UUID, or was used for another question.
        """
        name = _uuid(ticket)
        if outputs[0] == outputs[1]:
            return False
        made = {condition: Output(text) for condition, text in zip(shown, outputs, strict=True)}
        mark = "" if image is None else hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()
        key = "\n".join([prompt, mark, *(made[one].id for one in self.study.conditions)])
        item = Item(hashlib.sha256(key.encode()).hexdigest()[:16], made, prompt)
        picture = _small(image) if image is not None and self.ballots.folder is not None else b""
        rater = f"visitor {hashlib.sha256(visitor.encode()).hexdigest()[:12]}"
        with self._lock:
            if name in self._tickets:
                raise DataError(Fault("This ticket", "was used for another question", "make a new UUID for each"))
            self._tickets[name] = Ticket(rater, item, shown, mark, picture)
            while len(self._tickets) > TICKETS:
                self._tickets.popitem(last=False)
        return True

    def waits(self, ticket: str) -> bool:
        """Tell whether a question can be voted on: both sides have answered, and not the same."""
        with self._lock:
            return ticket in self._tickets

    def vote(self, ticket: str, answer: str) -> str:
        """Count a vote, and tell who was who; when this returns, its row is committed.

        The same ticket again is the same vote: what was said first stands.

        Args:
            ticket: The question's UUID.
            answer: "left", "right", "tie" or "both_bad".

        Raises:
            DataError: nothing was asked with this ticket, no such answer, or the store did not take it.
        """
        if answer not in ANSWERS:
            raise DataError(Fault("The vote", "must be left, right, tie or both_bad", "choose one of them"))
        name = _uuid(ticket)
        with self._lock:
            found = self._tickets.get(name)
        if found is None:
            raise DataError(Fault("This question", "can no longer be voted on", "ask it again"))
        with found.lock:
            if not found.answer:
                self._commit(name, found, answer)
                found.answer = answer
        return _told(found)

    def _commit(self, name: str, ticket: Ticket, answer: str) -> None:
        outputs = tuple(ticket.item.outputs[one].id for one in ticket.shown)
        ms = round((time.monotonic() - ticket.since_s) * 1000)
        vote = Vote(name, ticket.rater, ticket.item.id, ticket.shown, outputs, answer, ms, client="demo")
        try:
            self._keep_picture(ticket)
            cast(self.ballots.store, self.study, ticket.item, vote, fingerprint=ticket.fingerprint)
        except (StoreError, OSError) as error:
            print(f"A vote was not kept: {error}", file=sys.stderr, flush=True)
            raise DataError(Fault("Your vote", "could not be kept just now", "press again: it counts once")) from error

    def _keep_picture(self, ticket: Ticket) -> None:
        folder = self.ballots.folder
        if folder is None or not ticket.picture:
            return
        path = picture_file(folder, ticket.fingerprint)
        if not path.exists() and sum(1 for _ in path.parent.iterdir()) < MOST_KEPT:
            part = path.with_name(f".{secrets.token_hex(8)}")
            part.write_bytes(ticket.picture)
            os.replace(part, path)  # noqa: PTH105 - two may keep it at once, and both find a whole one


def booth_of(ballots: Ballots, names: Sequence[str], about: Mapping[str, str], *, question: str) -> Booth:
    """Return the booth of two conditions.

    Args:
        ballots: Where votes go.
        names: What is compared.
        about: What each of them is.
        question: What visitors are asked.

    Raises:
        BundleError: not two.
        StudyError: the store holds votes on something else under the same name.
    """
    if len(names) != 2:
        what = f"compares two, and here is {', '.join(names)}" if names else "compares two, and here is none"
        raise BundleError.of("--votes", what, "name two bundles, or one with an adapter that can be switched off")
    plain = tuple("".join(one if one.isprintable() and one != "|" else "/" for one in name)[:90] for name in names)
    digests = {other: about.get(name, "") for name, other in zip(names, plain, strict=True)}
    return Booth(OpenStudy(" against ".join(plain), question, (plain[0], plain[1]), digests), ballots)


def _uuid(ticket: object) -> str:
    try:
        found = str(uuid.UUID(ticket)) if isinstance(ticket, str) else ""
    except ValueError:
        found = ""
    if not found or found != ticket:
        raise DataError(Fault("The ticket", "is no UUID", "make one with uuid4 for each question"))
    return found


def _told(ticket: Ticket) -> str:
    left, right = ticket.shown
    said = {"left": "left", "right": "right", "tie": "a tie", "both_bad": "both bad"}[ticket.answer]
    return f"Counted: {said}. Left was {left}; right was {right}."


def _small(image: Image.Image) -> bytes:
    copy = image.copy()
    copy.thumbnail((SIDE, SIDE))
    copy.info.clear()
    file = io.BytesIO()
    copy.save(file, "JPEG", quality=90)
    return file.getvalue()

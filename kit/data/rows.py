"""Rows with stable ids and digests: image-text pairs, questions, conversations, preferences."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar, overload

from kit.data.picture import Picture
from kit.errors import DataError, Fault

SPLITS = ("train", "val", "test")


class Row(Protocol):
    """What every row has."""

    @property
    def id(self) -> str:
        """Its name within the source; stable from run to run."""

    def digest(self) -> str:
        """Return a SHA-256 of its content."""


def _digest(row: Any) -> str:
    """Return a SHA-256 of a row's fields, the picture by its own digest."""
    values = {spec.name: getattr(row, spec.name) for spec in dataclasses.fields(row)}
    values["picture"] = row.picture.digest() if row.picture is not None else None
    text = json.dumps(values, sort_keys=True, ensure_ascii=False, default=_plain)
    return hashlib.sha256(f"{type(row).__name__}\n{text}".encode()).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return dict(value) if isinstance(value, Mapping) else str(value)


@dataclass(frozen=True)
class ImageText:
    """A picture and a text that belongs to it.

    Args:
        id: Stable within the source.
        picture: The picture.
        text: The caption.
        concept: What the row is about; rows of one concept are always in one split.
        group: Reported apart from other groups ("flag", "emoji"); may be empty.
        split: "train", "val" or "test".
        meta: What else the source says, as JSON values.
    """

    id: str
    picture: Picture
    text: str
    concept: str = ""
    group: str = ""
    split: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def digest(self) -> str:
        """Return a SHA-256 of all fields and the picture's content."""
        return _digest(self)


@dataclass(frozen=True)
class Question:
    """A question about a picture, and its answer.

    Args:
        id: Stable within the source.
        picture: The picture.
        question: The question.
        answer: The right answer.
        answers: All answers that the source knows, sorted; empty where answers are free text.
        group: Kind of question, reported apart; may be empty.
        split: "train", "val" or "test".
        meta: What else the source says, as JSON values.
    """

    id: str
    picture: Picture
    question: str
    answer: str
    answers: tuple[str, ...] = ()
    group: str = ""
    split: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def text(self) -> str:
        """The question; what ``Rows.texts`` lists."""
        return self.question

    def digest(self) -> str:
        """Return a SHA-256 of all fields and the picture's content."""
        return _digest(self)


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    text: str


@dataclass(frozen=True)
class Conversation:
    """Turns about a picture (or about none)."""

    id: str
    picture: Picture | None
    messages: tuple[Message, ...]
    split: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def text(self) -> str:
        """All turns, one a line; what ``Rows.texts`` lists."""
        return "\n".join(f"{message.role}: {message.text}" for message in self.messages)

    def digest(self) -> str:
        """Return a SHA-256 of all fields and the picture's content."""
        return _digest(self)


@dataclass(frozen=True)
class Preference:
    """Two answers to one prompt, and which was preferred.

    Args:
        id: Stable within the source.
        picture: The picture that the prompt is about, or None.
        prompt: The prompt.
        chosen: The preferred answer.
        rejected: The other answer.
        margin: How strongly it was preferred, 0 < margin; 1 for a plain vote.
    """

    id: str
    picture: Picture | None
    prompt: str
    chosen: str
    rejected: str
    margin: float = 1.0
    split: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def text(self) -> str:
        """The prompt; what ``Rows.texts`` lists."""
        return self.prompt

    def digest(self) -> str:
        """Return a SHA-256 of all fields and the picture's content."""
        return _digest(self)


T = TypeVar("T", bound=Row)


@dataclass(frozen=True)
class Rows(Sequence[T], Generic[T]):
    """Rows of one source and split.

    Args:
        items: The rows.
        name: The source string.
        split: "train", "val", "test" or "all".
        licence: SPDX identifier; empty where the source names none.
        attribution: What everything that uses the rows must print; may be empty.
        faults: What was wrong with the rows that ``on_bad="skip"`` left out.
        skipped: How many rows were left out.
    """

    items: tuple[T, ...]
    name: str = ""
    split: str = ""
    licence: str = ""
    attribution: str = ""
    faults: tuple[Fault, ...] = ()
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Rows[T]: ...
    def __getitem__(self, index: int | slice) -> T | Rows[T]:
        """Return a row, or Rows for a slice."""
        return self.only(self.items[index]) if isinstance(index, slice) else self.items[index]

    def __repr__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"Rows({self.name!r}, split={self.split!r}, {len(self)} rows{skipped})"

    def only(self, items: Sequence[T]) -> Rows[T]:
        """Return Rows of these items, everything else as here."""
        return dataclasses.replace(self, items=tuple(items))

    def texts(self) -> list[str]:
        """Return each row's text: caption, question, prompt or turns."""
        return [str(getattr(row, "text")) for row in self.items]  # noqa: B009  # not part of the protocol

    def limit(self, n: int, *, seed: int = 0) -> Rows[T]:
        """Return ``n`` rows drawn by a hash of seed and id, in their order; all when there are fewer.

        A row's luck depends on nothing but its id, so that a larger ``n`` keeps the smaller one's rows.

        Raises:
            DataError: n < 1.
        """
        if n < 1:
            raise DataError(Fault("limit", f"must be at least 1, got {n}"))
        luck = {row.id: hashlib.sha256(f"{seed}:{row.id}".encode()).digest() for row in self.items}
        drawn = set(sorted(luck, key=luck.__getitem__)[:n])
        return self.only([row for row in self.items if row.id in drawn])

    def about(self, pictures: int, *, seed: int = 0) -> Rows[T]:
        """Return the rows about so many pictures, drawn by a hash of seed and content; rows without one are kept.

        Where many rows share a picture, a limit on rows would leave one or two to each.

        Raises:
            DataError: pictures < 1.
        """
        if pictures < 1:
            raise DataError(Fault("pictures", f"must be at least 1, got {pictures}"))
        own = [None if (one := getattr(row, "picture", None)) is None else one.digest() for row in self.items]
        distinct = {digest for digest in own if digest is not None}
        luck = sorted(distinct, key=lambda digest: hashlib.sha256(f"{seed}:{digest}".encode()).digest())
        drawn = {None, *luck[:pictures]}
        return self.only([row for row, digest in zip(self.items, own, strict=True) if digest in drawn])

    def one_per_concept(self) -> Rows[T]:
        """Return the first row of each concept; rows without a concept are all kept.

        Of "man running", "woman running" and "person running" one stays, so that rows are independent and a
        name has one right picture.
        """
        first = {getattr(row, "concept", "") or row.id: row for row in reversed(self.items)}
        return self.only([row for row in self.items if first[getattr(row, "concept", "") or row.id] is row])

    def digest(self) -> str:
        """Return a SHA-256 over the rows' digests, in order."""
        return hashlib.sha256("\n".join(row.digest() for row in self.items).encode()).hexdigest()

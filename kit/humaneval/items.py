"""What raters see: items, and what each condition made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from kit.data.picture import Picture
from kit.errors import Fault, did_you_mean, listed, raise_faults
from kit.humaneval.errors import StudyError

GOLD_OUTPUTS = ("right", "wrong")


@dataclass(frozen=True)
class Output:
    """What one condition made of one item: a text, a picture or a sound; exactly one of them.

    Args:
        text: The text.
        picture: The picture.
        audio: The sound file.
    """

    text: str = ""
    picture: Picture | None = None
    audio: Path | None = None

    @property
    def kind(self) -> str:
        """What it is: "text", "picture" or "audio"."""
        if self.picture is not None:
            return "picture"
        return "audio" if self.audio is not None else "text"

    @cached_property
    def id(self) -> str:
        """Sixteen hex digits of the content's SHA-256: equal outputs have equal ids, whoever made them."""
        return hashlib.sha256(f"{self.kind}\n{self.content()}".encode()).hexdigest()[:16]

    def content(self) -> str:
        """Return the text, or the SHA-256 of the file."""
        return self.text if self.kind == "text" else _digest(self.picture, self.audio)

    def fault(self, where: str) -> Fault | None:
        """Return what is wrong with the output, or None."""
        given = [name for name in ("text", "picture", "audio") if getattr(self, name)]
        if len(given) != 1:
            what = f"has {' and '.join(given)}" if given else "is empty"
            return Fault(where, what, "give one text, picture or sound; leave the item out if there is none")
        return _fault(where, self.picture, self.audio)


@dataclass(frozen=True)
class Item:
    """One thing that all conditions were asked: a prompt of text, picture or sound, and what each made of it.

    Args:
        id: Its name, unique within the study.
        outputs: By condition; a gold item has the outputs "right" and "wrong".
        prompt: The prompt's text; may be empty where picture or sound say it all.
        picture: The picture that it is about, or None.
        audio: The sound file that it is about, or None.
    """

    id: str
    outputs: Mapping[str, Output] = field(hash=False)
    prompt: str = ""
    picture: Picture | None = None
    audio: Path | None = None

    def faults(self, where: str, conditions: Sequence[str]) -> Iterator[Fault]:
        """Give what is wrong with the item, ``conditions`` being the outputs that it must have."""
        if not (self.prompt.strip() or self.picture or self.audio):
            yield Fault(where, "has no prompt, picture or audio", "say what was asked")
        if found := _fault(where, self.picture, self.audio):
            yield found
        for name in conditions:
            if name not in self.outputs:
                near = did_you_mean(name, set(self.outputs) - set(conditions))
                yield Fault(f"{where}.outputs", f"has none of {name!r}.{near}", "add it, or leave the item out")
        for name, output in self.outputs.items():
            if name not in conditions:
                what = f"not a condition of the study.{did_you_mean(name, conditions)}"
                yield Fault(f"{where}.outputs.{name}", what, allowed=f"Conditions: {listed(conditions)}.")
            elif found := output.fault(f"{where}.outputs.{name}"):
                yield found

    def protocol(self) -> dict[str, Any]:
        """Return what the study's hash covers: texts, and files by their SHA-256."""
        outputs = {name: {"kind": one.kind, "content": one.content()} for name, one in sorted(self.outputs.items())}
        values: dict[str, Any] = {"prompt": self.prompt, "outputs": outputs}
        if self.picture is not None:
            values["picture"] = self.picture.digest()
        if self.audio is not None:
            values["audio"] = _digest(None, self.audio)
        return values


class Asked(Protocol):
    """A row that was put to every condition: a question, a picture with a text, a conversation."""

    @property
    def id(self) -> str:
        """Stable within its source."""

    @property
    def picture(self) -> Picture | None:
        """What it is about."""

    @property
    def text(self) -> str:
        """The prompt's text."""


def items_of(rows: Sequence[Asked], outputs: Mapping[str, Sequence[str | Picture | Path]]) -> tuple[Item, ...]:
    """Return a study's items from rows and what each condition made of them.

    Args:
        rows: The rows, n of them; a picture that lies in a data set's own files is fine.
        outputs: For each condition n answers: texts, pictures or sound files.

    Raises:
        StudyError: a condition with more or fewer outputs than rows; all faults at once.
    """
    wrong = {name: len(made) for name, made in outputs.items() if len(made) != len(rows)}
    faults = [Fault(f"outputs.{name}", f"{count} outputs for {len(rows)} rows") for name, count in wrong.items()]
    raise_faults(faults, StudyError)
    return tuple(
        Item(row.id, {name: _output(made[number]) for name, made in outputs.items()}, row.text, row.picture)
        for number, row in enumerate(rows)
    )


def _output(made: str | Picture | Path) -> Output:
    if isinstance(made, Picture):
        return Output(picture=made)
    return Output(audio=made) if isinstance(made, Path) else Output(made)


def _fault(where: str, picture: Picture | None, audio: Path | None) -> Fault | None:
    if picture is not None and (found := picture.fault()):
        return Fault(where, f"{found.where}: {found.what}", found.fix)
    if audio is not None and not audio.is_file():
        return Fault(where, f"no such file: {audio}")
    return None


def _digest(picture: Picture | None, audio: Path | None) -> str:
    if picture is not None:
        return picture.digest()
    return hashlib.sha256(audio.read_bytes()).hexdigest() if audio is not None else ""

"""Captions of easy-VQA's pictures as a crowd writes them: exact ones, wordy ones, and ones that invent things.

What each picture shows follows from its questions, so that whoever reads a caption can be told what is right of it:
``liking`` is the taste of a simulated rater who wants it short and exact, with nothing invented.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Any

from kit.data.rows import Conversation, Message, Question, Rows
from kit.errors import DataError
from kit.intervals import exact
from kit.result import Measurement

NAME = "captions"
PROMPT = "Describe the picture."
SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
THINGS = ("ball", "bird", "boat", "box", "cat", "cloud", "dog", "flower", "house", "lamp", "star", "tree")
EXACT = ("a {0} {1}", "It is a {0} {1}.")
WORDY = (
    "The picture shows a {0} {1} on a plain background.",
    "This is a picture of a {0} {1} and of nothing else.",
)
INVENTING = ("a {0} {1} and a {2}", "A {0} {1} is next to a {2}.", "The picture shows a {0} {1}, a {2} and a {3}.")
MANNERS = (*EXACT, *WORDY, *INVENTING)

_WORD = re.compile(r"[a-z]+")
# Log-odds between two captions that differ in one thing named, and in one word; see ``liking``.
_PER_THING, _PER_WORD = 1.0, 0.05


def shown(rows: Sequence[Question]) -> dict[str, tuple[str, str]]:
    """Return the colour and shape of each picture whose questions tell both, by the picture's digest."""
    told: dict[str, set[str]] = {}
    for row in rows:
        words = {*_WORD.findall(row.question.lower())}
        if row.answer not in {"yes", "no"}:
            told.setdefault(row.picture.digest(), set()).update(words | {row.answer})
        elif (row.answer == "yes") != bool(words & {"no", "not"}):
            told.setdefault(row.picture.digest(), set()).update(words)
    found = {digest: [words & {*kind} for kind in (COLOURS, SHAPES)] for digest, words in told.items()}
    return {
        digest: (next(iter(colour)), next(iter(shape)))
        for digest, (colour, shape) in found.items()
        if len(colour) == len(shape) == 1
    }


def captioned(rows: Rows[Question], *, each: int = 2, seed: int = 0) -> Rows[Conversation]:
    """Return ``each`` captions of every picture whose colour and shape are known, in manners drawn by a hash.

    In ``meta`` are "colour" and "shape", for ``liking``.

    Args:
        rows: Questions about the pictures, of easy-VQA.
        each: Captions of a picture, at most as many as there are manners.
        seed: Of manners and of what is invented.
    """
    pictures = {row.picture.digest(): row for row in rows}
    items = []
    for digest, (colour, shape) in shown(rows).items():
        row = pictures[digest]
        about = row.id.rpartition("/")[0]
        things = _drawn(THINGS, 2, seed, digest)
        for manner in _drawn(MANNERS, each, seed, digest):
            said = manner.format(colour, shape, *things)
            messages = (Message("user", PROMPT), Message("assistant", said))
            meta = {"colour": colour, "shape": shape, "kind": "describe", "answers": (said,)}
            name = f"{about}/caption/{MANNERS.index(manner)}"
            items.append(Conversation(name, row.picture, messages, split=row.split, meta=meta))
    return Rows(tuple(items), NAME, rows.split, rows.licence, rows.attribution)


def liking(caption: str, *, colour: str, shape: str, **_: Any) -> float:
    """Return how much a rater who wants it short and exact likes a caption, log-odds; only differences mean anything.

    Naming the right colour or shape is worth 1 each, another colour, another shape or a thing that is not there costs
    1 each, and every word costs 0.05.

    >>> true = {"colour": "red", "shape": "circle"}
    >>> liking("a red circle", **true) > liking("It is a red circle.", **true) > liking("a red circle, a dog", **true)
    True
    """
    words = _WORD.findall(caption.lower())
    named = _named(words)
    right = named & {colour, shape}
    return _PER_THING * (len(right) - len(named - right)) - _PER_WORD * len(words)


def inventing(captions: Sequence[str], rows: Sequence[Question], *, split: str) -> dict[str, Measurement]:
    """Return the share of captions that name a colour, a shape or a thing which their pictures do not show.

    Args:
        captions: Shape (n,).
        rows: What each is about, with "colour" and "shape" in ``meta``.
        split: The data that it was measured on.

    Raises:
        DataError: no captions, or another number of rows.
    """
    if not captions or len(captions) != len(rows):
        raise DataError.of("inventing", f"{len(captions)} captions of {len(rows)} pictures", "give one of each")
    wrong = sum(
        bool(_named(_WORD.findall(said.lower())) - {row.meta["colour"], row.meta["shape"]})
        for said, row in zip(captions, rows, strict=True)
    )
    span = exact(wrong, len(captions))
    return {
        "inventing": Measurement(
            wrong / len(captions), "share", len(captions), span.low, span.high, method=span.method, split=split,
            better="lower",
        )
    }  # fmt: skip


def _named(words: Sequence[str]) -> set[str]:
    return {*words} & {*SHAPES, *COLOURS, *THINGS}


def _drawn(some: Sequence[str], n: int, seed: int, key: str) -> list[str]:
    return sorted(some, key=lambda one: hashlib.sha256(f"{seed}\0{key}\0{one}".encode()).hexdigest())[:n]

"""Image tokens, counted before the first step: no row trains without its picture, and none is cut short."""

from __future__ import annotations

import dataclasses
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kit.data.picture import Picture, is_svg
from kit.data.rows import Conversation, Message
from kit.errors import DataError, Fault, raise_faults
from kit.models.chat import Chat
from kit.models.turns import IGNORED, Row, Turns, as_conversation
from kit.progress import track

SHOWN = 5  # ids in a fault


@dataclass(frozen=True)
class Lengths:
    """How long rows are for a model.

    Args:
        tokens: Of each row, its picture's included, shape (n,).
        image_tokens: Of each row's picture, shape (n,); 0 for a row without one.
        answer_tokens: Of each row's answers, shape (n,).
    """

    tokens: NDArray[np.int64]
    image_tokens: NDArray[np.int64]
    answer_tokens: NDArray[np.int64]


def count_tokens(chat: Chat, rows: Sequence[Row], *, picture_required: bool = True) -> Lengths:
    """Return how long rows are, having made sure that each can be trained on whole.

    Texts are tokenised; what a picture becomes is found by running the processor once for each size of picture.

    Args:
        chat: How the model is spoken to.
        rows: Questions with answers, or conversations.
        picture_required: Whether a row without a picture is a fault.

    Raises:
        DataError: rows that cannot be trained on, all kinds of fault at once, each with the first ids and a count:
            no picture where one is required, a picture without tokens, image tokens or words past the context, no
            answer, a picture that cannot be opened, a template that refuses the row.
    """
    counter = _Counter(chat, picture_required)
    counted = []
    with track(total=len(rows), label="counting image tokens") as bar:
        for row in rows:
            try:
                counted.append(counter.count(as_conversation(row)))
            except DataError as error:
                counter.note(str(row.id), error.faults[0].what, error.faults[0].fix)
            bar.update(1)
    raise_faults(counter.faults(len(rows)), DataError)
    tokens, image_tokens, answer_tokens = np.array(counted, dtype=np.int64).reshape(-1, 3).T
    return Lengths(tokens, image_tokens, answer_tokens)


@dataclass
class _Counter:
    chat: Chat
    picture_required: bool
    known: dict[tuple[tuple[Message, ...], bool], Turns] = field(default_factory=dict)
    sizes: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    noted: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def note(self, row: str, what: str, fix: str) -> None:
        self.noted[what, fix].append(row)

    def count(self, talk: Conversation) -> tuple[int, int, int]:
        """Return tokens, image tokens and answer tokens of a row, and note what is wrong with it."""
        turns = self._turns(talk)
        answered = sum(label != IGNORED for label in turns.labels)
        if not answered:
            self.note(talk.id, "no answer to learn from", "give an answer, or leave them out")
        if talk.picture is None:
            if self.picture_required:
                self.note(talk.id, "no picture", "leave them out, or pass picture_required=False")
            self._compare(talk.id, len(turns.ids), 0)
            return len(turns.ids), 0, answered
        more, image_tokens = self._expansion(talk, _size(talk.picture))
        place = turns.ids.index(self.chat.form.placeholder_id)
        self._compare(talk.id, len(turns.ids) + more, place + 1 + more)
        return len(turns.ids) + more, image_tokens, answered

    def _turns(self, talk: Conversation) -> Turns:
        key = (talk.messages, talk.picture is not None)
        if key not in self.known:
            self.known[key] = self.chat.form.turns(talk)
        return self.known[key]

    def _expansion(self, talk: Conversation, size: tuple[int, int]) -> tuple[int, int]:
        """Return how many tokens more a picture of this size is than its placeholder, and how many are its own."""
        if size not in self.sizes:
            blank = dataclasses.replace(talk, picture=_blank(size))
            ids = self.chat.encode(blank)["input_ids"][0]
            more = len(ids) - len(self._turns(talk).ids)
            self.sizes[size] = (more, int((ids == self.chat.image_token_id).sum()))
        return self.sizes[size]

    def _compare(self, row: str, tokens: int, image_end: int) -> None:
        limit = self.chat.context
        if image_end > limit:
            fix = "make pictures smaller (the processor's size, tiles or pixels), or raise max_length"
            self.note(row, f"image tokens past the context of {limit} tokens", fix)
        elif tokens > limit:
            self.note(row, f"words past the context of {limit} tokens", "shorten them, or raise max_length")

    def faults(self, total: int) -> list[Fault]:
        return [
            Fault("rows", f"{len(ids)} of {total}: {what} ({_first(ids)})", fix)
            for (what, fix), ids in self.noted.items()
        ]


def _first(ids: Sequence[str]) -> str:
    others = len(ids) - SHOWN
    return ", ".join(ids[:SHOWN]) + (f" and {others} others" if others > 0 else "")


def _size(picture: Picture) -> tuple[int, int]:
    """Return width and height as ``open`` gives them, from the file's head alone."""
    from PIL import ExifTags, Image

    content = picture.read()
    if is_svg(content):
        return picture.size, picture.size
    try:
        with Image.open(io.BytesIO(content)) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (image.height, image.width) if turned else image.size
    except (OSError, ValueError, SyntaxError, TypeError):
        opened = picture.open()  # raises what is wrong, in kit's words
        return opened.size


def _blank(size: tuple[int, int]) -> Picture:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG", compress_level=1)
    return Picture(f"blank {size[0]} x {size[1]}", reader=file.getvalue)

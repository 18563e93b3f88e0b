"""A vision-language model that answers word by word, and stops when nobody listens any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from kit.adapters.base_weights import peft_models
from kit.data.picture import Picture
from kit.data.rows import Conversation, Message
from kit.errors import DataError, Fault
from kit.models.chat import Chat
from kit.models.vision_language import VisionLanguage

TOKENS = 128  # of an answer
PATIENCE_S = 60.0  # for an answer
SILENCE = "(no words)"  # shown where a model ends its answer at once


@dataclass(eq=False)
class Talker:
    """A model that is asked by one visitor at a time.

    Args:
        model: The model, frozen.
        name: What visitors call it.
        turns: Whether it was trained on conversations, and so understands what was said before.
    """

    model: VisionLanguage
    name: str
    turns: bool = False
    _busy: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _chat: Chat = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._chat = Chat.of(self.model)

    @property
    def has_adapter(self) -> bool:
        """Whether it has LoRA that can be switched off."""
        return bool(peft_models(self.model.model))

    def answer(
        self, image: Image.Image | None, messages: Sequence[Message], *, adapted: bool = True, tokens: int = TOKENS
    ) -> Iterator[str]:
        """Yield an answer as far as it is there, each time the whole of it; the last one is what was said.

        Closing the iterator ends the generation within a token.

        Args:
            image: What is asked about; None for no picture.
            messages: The conversation; its last message is a question.
            adapted: With the adapter; without it, LoRA is off and the projector stays.
            tokens: At most so many.

        Raises:
            DataError: a conversation that is too long, or that the model has no form for, or an answer that did not
                come in time.
        """
        inputs = self._inputs(image, messages, tokens)
        if not self._busy.acquire(timeout=PATIENCE_S):
            raise DataError(Fault("The model", "is answering somebody else", "try again in a minute"))
        try:
            yield from self._streamed(inputs, adapted, tokens)
        finally:
            self._busy.release()

    def warm(self) -> None:
        """Do once what a first visitor would wait for."""
        for _ in self.answer(Image.new("RGB", (64, 64)), [Message("user", "what is it?")], tokens=2):
            pass

    def _inputs(self, image: Image.Image | None, messages: Sequence[Message], tokens: int) -> Any:
        picture = None if image is None else Picture("This picture", reader=lambda: _png(image))
        row = self._chat.encode(Conversation("This conversation", picture, tuple(messages)), ask=True)
        length = row["input_ids"].shape[1]
        if length + tokens > self._chat.context:
            what = f"has {length} tokens; with an answer the model reads {self._chat.context}"
            raise DataError(Fault("This conversation", what, "begin a new one, or make the question shorter"))
        del row["labels"]
        place = self.model.device
        return {
            name: value.to(place, self._chat.dtype) if value.is_floating_point() else value.to(place)
            for name, value in row.items()
        }

    def _streamed(self, inputs: Any, adapted: bool, tokens: int) -> Iterator[str]:
        from transformers import TextIteratorStreamer

        streamer = TextIteratorStreamer(
            self.model.processor.tokenizer, skip_prompt=True, timeout=PATIENCE_S, skip_special_tokens=True
        )
        work = _Work(self, inputs, streamer, adapted, tokens)
        thread = threading.Thread(target=work.run, daemon=True)
        thread.start()
        said = ""
        try:
            for piece in streamer:
                said += piece
                if piece:
                    yield said.lstrip()
        finally:
            work.stop.set()
            thread.join()
        if work.error is not None:
            raise work.error
        if not said.strip():
            yield SILENCE
        if work.late:
            yield f"{said.strip()} … (stopped after {PATIENCE_S:.0f} seconds)"


@dataclass(eq=False)
class _Work:
    """One answer being generated in a thread of its own."""

    talker: Talker
    inputs: Any
    streamer: Any
    adapted: bool
    tokens: int
    stop: threading.Event = field(default_factory=threading.Event, init=False)
    error: Exception | None = field(default=None, init=False)
    late: bool = field(default=False, init=False)

    def run(self) -> None:
        from transformers import StoppingCriteriaList

        begun_s = time.monotonic()

        def over(ids: Any, _scores: Any, **_: Any) -> Any:
            import torch

            self.late = time.monotonic() - begun_s > PATIENCE_S
            return torch.full((len(ids),), self.late or self.stop.is_set(), device=ids.device, dtype=torch.bool)

        model = self.talker.model
        try:
            with ExitStack() as stack:
                for adapter in [] if self.adapted else peft_models(model.model).values():
                    stack.enter_context(adapter.disable_adapter() if adapter is not None else nullcontext())
                model.model.generate(
                    **self.inputs, max_new_tokens=self.tokens, do_sample=False, streamer=self.streamer,
                    stopping_criteria=StoppingCriteriaList([over]),
                )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - raised again where somebody waits
            self.error = error
        finally:
            self.streamer.end()


def _png(image: Image.Image) -> bytes:
    import io

    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()

"""Conversations as tokens, by a model's chat template: where the assistant speaks, and where not."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from kit.data.rows import Conversation, Message, Question
from kit.errors import DataError, ModelError

IGNORED = -100  # what torch's cross-entropy and transformers leave out

Row = Question | Conversation


@dataclass(frozen=True)
class Turns:
    """A conversation as tokens, its picture still one placeholder.

    Args:
        text: What the processor is given.
        suffix: The answer, where the processor takes it apart from the text (PaliGemma's); else empty.
        ids: The tokens of both.
        labels: The same where the assistant speaks, up to and with the token that ends its turn; -100 elsewhere.
    """

    text: str
    suffix: str
    ids: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def first(self) -> int:
        """Where the assistant's first answer begins; the length where there is none."""
        return next((place for place, label in enumerate(self.labels) if label != IGNORED), len(self.labels))


@dataclass(frozen=True)
class Form:
    """The form that a model's conversations have.

    Args:
        processor: The model's own.
        ends: Tokens that end an answer.
    """

    processor: Any
    ends: frozenset[int]

    @property
    def template(self) -> str | None:
        """The chat template; None for a model without one."""
        own: str | None = getattr(self.processor, "chat_template", None)
        return own or getattr(self.processor.tokenizer, "chat_template", None)

    @property
    def placeholder_id(self) -> int:
        """What stands for a whole picture before the processor expands it."""
        return int(self.processor.tokenizer.convert_tokens_to_ids(self.processor.image_token))

    def turns(self, row: Row, *, ask: bool = False) -> Turns:
        """Return a row as tokens, its picture not yet expanded.

        Args:
            row: A question with its answer, or a conversation.
            ask: End with the words that call for the assistant's next answer.

        Raises:
            DataError: a conversation that the template refuses or renders so that an answer cannot be told from
                its question, that the model has no form for, or whose picture has not exactly one place.
            ModelError: a model that has neither a chat template nor PaliGemma's form.
        """
        talk = as_conversation(row)
        if self.template is not None:
            return self._checked(talk, self._templated(talk, ask=ask))
        if not type(self.processor).__name__.startswith("PaliGemma"):
            fix = "set processor.chat_template, or name a model that was trained to follow instructions"
            raise ModelError.of(type(self.processor).__name__, "has no chat template", fix)
        return self._checked(talk, self._prefix_and_suffix(talk, ask=ask))

    def _checked(self, talk: Conversation, turns: Turns) -> Turns:
        """Return ``turns`` if its picture has one place; not every version of transformers looks."""
        places = turns.ids.count(self.placeholder_id)
        if places > (talk.picture is not None):
            what = f"the image token {self.processor.image_token!r} stands in the text"
            raise DataError.of(talk.id, what, "take it out; the template puts it in")
        if talk.picture is not None and not places:
            raise DataError.of(talk.id, "the chat template leaves the picture out", "give another chat_template")
        return turns

    def adds_special(self, text: str) -> bool:
        """Tell whether the tokenizer adds its own: not where the template has written the first one (Gemma's)."""
        bos = self.processor.tokenizer.bos_token
        return bos is None or not text.startswith(bos)

    def _templated(self, talk: Conversation, *, ask: bool) -> Turns:
        text = self._render(talk, len(talk.messages), ask=ask)
        ids = self._tokens(text)
        starts = {
            place: self._start(talk, place, ids)
            for place, message in enumerate(talk.messages)
            if message.role == "assistant"
        }
        last = starts.get(len(talk.messages) - 1)
        if last is not None and not self.ends.intersection(ids[last:]):
            text = text.rstrip() + self.processor.tokenizer.eos_token  # LLaVA-1.5's template ends no answer
            ids = self._tokens(text)
        labels = [IGNORED] * len(ids)
        for place, start in starts.items():
            after = ids if start == last else self._tokens(self._render(talk, place + 1))
            # Not all of the turn: its last white space may be one token with the next turn's first word.
            stop = len([*takewhile(lambda pair: pair[0] == pair[1], zip(ids, after, strict=False))])
            labels[start:stop] = self._to_the_end(ids[start:stop])
        return Turns(text, "", tuple(ids), tuple(labels))

    def _start(self, talk: Conversation, place: int, ids: list[int]) -> int:
        """Return where answer ``place`` begins: after the prompt that the model will see when it is to answer."""
        before = self._tokens(self._render(talk, place, ask=True))
        if ids[: len(before)] != before:
            what = f"the chat template renders message {place} so that its prompt is not what stands before it"
            raise DataError.of(talk.id, what, "give the processor another chat_template")
        return len(before)

    def _to_the_end(self, ids: list[int]) -> list[int]:
        """Return an answer's labels: all up to its end token, and none of what the template writes after that."""
        ended = next((place + 1 for place, token in enumerate(ids) if token in self.ends), len(ids))
        return ids[:ended] + [IGNORED] * (len(ids) - ended)

    def _render(self, talk: Conversation, count: int, *, ask: bool = False) -> str:
        from jinja2 import TemplateError

        messages: list[dict[str, Any]] = []
        picture = talk.picture is not None
        for message in talk.messages[:count]:
            shown = [{"type": "image"}] if picture and message.role == "user" else []
            picture = picture and not shown
            messages.append({"role": message.role, "content": [*shown, {"type": "text", "text": message.text}]})
        options = {"chat_template": self.template, "add_generation_prompt": ask, "tokenize": False}
        try:
            return str(self.processor.apply_chat_template(messages, **options))
        except (TemplateError, TypeError, ValueError, IndexError) as error:
            raise DataError.of(talk.id, f"the chat template refuses it: {error}") from error

    def _prefix_and_suffix(self, talk: Conversation, *, ask: bool) -> Turns:
        """Return PaliGemma's form: picture, question, line break, answer (arXiv:2407.07726, section 3.2.1)."""
        if [message.role for message in talk.messages] != (["user"] if ask else ["user", "assistant"]):
            what = "this model takes one question and one answer, without a system message"
            raise DataError.of(talk.id, what, "use the first turn only, or another model")
        tokenizer = self.processor.tokenizer
        question, suffix = talk.messages[0].text, "" if ask else talk.messages[1].text
        mark = self.processor.image_token if talk.picture else ""
        prompt = self._plain(f"{mark}{tokenizer.bos_token}{question}\n")
        answer = [] if ask else self._plain(f"{suffix}{tokenizer.eos_token}")
        return Turns(mark + question, suffix, (*prompt, *answer), (*[IGNORED] * len(prompt), *answer))

    def _tokens(self, text: str) -> list[int]:
        return self._plain(text, add_special_tokens=self.adds_special(text))

    def _plain(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        ids: list[int] = self.processor.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
        return ids


def as_conversation(row: Row) -> Conversation:
    """Return a question with its answer as a conversation of two turns; a conversation as it is.

    Raises:
        DataError: another kind of row.
    """
    if isinstance(row, Conversation):
        return row
    if not isinstance(row, Question):
        what = f"a {type(row).__name__} is neither a question nor a conversation"
        raise DataError.of(str(getattr(row, "id", row)), what, "give rows with questions and answers")
    return Conversation(row.id, row.picture, (Message("user", row.question), Message("assistant", row.answer)))

"""The page of vision-language models: a conversation about a picture, and two models' answers beside each other."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from kit.data.rows import Message
from kit.errors import DataError, Fault
from kit.sharing.courtesy import picture_input, told
from kit.sharing.talking import PATIENCE_S, Talker
from kit.sharing.turns import Turns
from kit.sharing.uploads import clean_text, read_upload

TURNS = 8  # of a conversation that are read again
Chat = list[dict[str, str]]


@dataclass(frozen=True)
class Voice:
    """Something that answers: a model with its adapter, or without it.

    Args:
        name: What visitors call it.
        talker: The model.
        adapted: Whether its adapter is on.
    """

    name: str
    talker: Talker
    adapted: bool = True


def voices(talkers: Sequence[Talker]) -> tuple[Voice, ...]:
    """Return all that can answer: every model, and each that has an adapter also without it."""
    found = []
    for talker in talkers:
        found.append(Voice(talker.name, talker))
        if talker.has_adapter:
            found.append(Voice(f"{talker.name}, adapter off", talker, adapted=False))
    return tuple(found)


@dataclass(frozen=True)
class AskPage:
    """What the page of one or more vision-language models does; nothing here draws it.

    Args:
        talkers: The models.
        examples: Files of pictures that were held out, each with a question.
    """

    talkers: Sequence[Talker]
    examples: Sequence[tuple[str, str]] = ()
    turns: Turns = field(default_factory=Turns, init=False, repr=False)

    @property
    def voices(self) -> tuple[Voice, ...]:
        """All that can answer."""
        return voices(self.talkers)

    def ask(self, picture: str | None, question: str, voice: str) -> Iterator[str]:
        """Ask one question about a picture.

        Args:
            picture: A JPEG, PNG, WebP, GIF or BMP file of at most 10 MB and 25 million pixels; None for no picture.
            question: The question, at most 500 characters.
            voice: Which model answers, by the name that the page shows.

        Returns:
            The answer so far, again and again until it is whole.
        """
        asked = clean_text(question, what="The question")
        image = read_upload(picture) if picture else None
        chosen = self._voice(voice)
        yield from chosen.talker.answer(image, [Message("user", asked)], adapted=chosen.adapted)

    def talk(
        self, picture: str | None, question: str, voice: str, so_far: Chat, visitor: str = ""
    ) -> Iterator[tuple[Chat, str]]:
        """Go on with a conversation: yield it with the answer so far, and an empty question.

        It ends where ``hush`` is called for the same visitor.
        """
        asked = clean_text(question, what="The question")
        image = read_upload(picture) if picture else None
        chosen = self._voice(voice)
        said = [*(so_far or [])[-2 * TURNS :], {"role": "user", "content": asked}]
        before = said if chosen.talker.turns else said[-1:]
        messages = [Message("user" if one["role"] == "user" else "assistant", _text(one)) for one in before]
        with self.turns.turn(visitor) as unwanted:
            yield said, ""
            answers: Any = chosen.talker.answer(image, messages, adapted=chosen.adapted)
            with closing(answers):
                for answer in answers:
                    if unwanted.is_set():
                        return
                    yield [*said, {"role": "assistant", "content": answer}], ""

    def hush(self, visitor: str) -> None:
        """End what is being said to a visitor; when this returns, nothing more of it comes."""
        self.turns.end(visitor, patience_s=PATIENCE_S)

    def compare(self, picture: str | None, question: str, left: str, right: str) -> Iterator[tuple[str, str]]:
        """Ask two models the same question about a picture, one after the other.

        Args:
            picture: As in /ask.
            question: The question, at most 500 characters.
            left: The first model, by the name that the page shows.
            right: The second one.

        Returns:
            Both answers so far, again and again until they are whole.
        """
        first = ""
        for first in self.ask(picture, question, left):
            yield first, ""
        for second in self.ask(picture, question, right):
            yield first, second

    def _voice(self, name: str) -> Voice:
        for voice in self.voices:
            if voice.name == name:
                return voice
        raise DataError(Fault("The model", "is none of those on this page", "choose another"))


def _text(message: dict[str, Any]) -> str:
    """Return a message's text: Gradio hands text on as a string, or as a list of parts."""
    content = message["content"]
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") if isinstance(part, dict) else str(part) for part in content)


def ask_tabs(page: AskPage) -> None:
    """Draw the page's tabs into the Gradio Blocks that are being made."""
    import gradio as gr

    with gr.Tab("Ask", id="ask"):
        _ask_tab(page)
    if len(page.voices) > 1:
        with gr.Tab("Side by side", id="compare"):
            _compare_tab(page)


def _ask_tab(page: AskPage) -> None:
    import gradio as gr

    names = [voice.name for voice in page.voices]
    with gr.Row():
        with gr.Column(min_width=280, scale=2):
            picture = picture_input(label="Picture", height=260, sources=["upload", "clipboard"], elem_id="picture")
            voice = gr.Radio(names, value=names[0], label="Who answers", elem_id="voice", visible=len(names) > 1)
        with gr.Column(min_width=300, scale=3):
            chat = gr.Chatbot(
                label="Conversation", height=300, elem_id="chat", render_markdown=False, allow_tags=False,
                feedback_options=None, buttons=["copy"], placeholder="Choose a picture, and ask about it.",
            )  # fmt: skip
            question = _question()
            with gr.Row():
                go = gr.Button("Ask", variant="primary", elem_id="go", min_width=70)
                stop = gr.Button("Stop", variant="stop", elem_id="stop", min_width=70)
                clear = gr.Button("New", elem_id="clear", min_width=70)
    event: dict[str, Any] = {
        "fn": told(to_whom(page.talk)), "inputs": [picture, question, voice, chat], "outputs": [chat, question],
        "concurrency_limit": 1, "concurrency_id": "talk", "show_progress": "minimal", "api_visibility": "private",
    }  # fmt: skip
    tries = examples_of(page.examples, picture, question)
    begun = [go.click(**event), question.submit(**event)]
    if tries is not None:
        # On a phone the examples are below what they ask.
        fresh = tries.then(list, None, chat, queue=False, api_visibility="private")
        begun.append(fresh.then(**event, scroll_to_output=True))
    # A browser asks to cancel and goes on applying what still comes, so the page itself sees to it that nothing does.
    end: dict[str, Any] = {
        "fn": to_whom(page.hush), "inputs": None, "outputs": None, "cancels": begun, "queue": False,
        "api_visibility": "private",
    }  # fmt: skip
    stop.click(**end)
    # Through the queue: a browser gets what comes from there in order, so this comes after the answer's last word.
    clear.click(**end).then(_nothing, None, [chat, question], concurrency_limit=None, api_visibility="private")
    # For programs: one question, one answer, without a conversation.
    said = gr.Textbox(visible=False, label="Answer")
    gr.Button(visible=False).click(
        told(page.ask), [picture, question, voice], said, api_name="ask", concurrency_limit=1, concurrency_id="talk"
    )


def _nothing() -> tuple[Chat, str]:
    return [], ""


def to_whom(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler whose parameter ``visitor`` is the page that asks."""
    import gradio as gr

    def once(*given: Any) -> Any:
        return handler(*given[:-1], given[-1].session_hash or "")

    def stream(*given: Any) -> Any:
        yield from handler(*given[:-1], given[-1].session_hash or "")

    wrapped = functools.wraps(handler)(stream if inspect.isgeneratorfunction(handler) else once)
    # Gradio hands the request to the parameter that has this type.
    wrapped.__annotations__ = {"visitor": gr.Request}
    return wrapped


def _question() -> Any:
    import gradio as gr

    return gr.Textbox(
        label="Question", placeholder="what color is the shape?", max_length=500, elem_id="question", lines=1
    )


def examples_of(examples: Sequence[tuple[str, str]], picture: Any, question: Any) -> Any:
    """Draw examples that fill a picture and a question; return the event of a click on one, None where none are."""
    import gradio as gr

    if not examples:
        return None
    return gr.Examples(
        [list(one) for one in examples], [picture, question], label="From the held-out data",
        api_visibility="private", elem_id="tries", cache_examples=False,
    ).load_input_event  # fmt: skip


def _compare_tab(page: AskPage) -> None:
    import gradio as gr

    names = [voice.name for voice in page.voices]
    with gr.Row():
        with gr.Column(min_width=280, scale=2):
            picture = picture_input(label="Picture", height=240, sources=["upload", "clipboard"])
            question = _question_of_two()
            with gr.Row():
                go = gr.Button("Ask both", variant="primary", elem_id="go-both", min_width=110)
                stop = gr.Button("Stop", variant="stop", min_width=70)
        with gr.Column(min_width=300, scale=3), gr.Row():
            chosen, said = [], []
            for place, side in enumerate(("left", "right")):
                with gr.Column(min_width=150):
                    chosen.append(gr.Dropdown(names, value=names[place], label="Who answers", elem_id=f"voice-{side}"))
                    said.append(gr.Textbox(label="Answer", lines=4, elem_id=f"said-{side}", interactive=False))
    event: dict[str, Any] = {
        "fn": told(page.compare), "inputs": [picture, question, *chosen], "outputs": said, "concurrency_limit": 1,
        "concurrency_id": "talk", "show_progress": "minimal",
    }  # fmt: skip
    begun = [go.click(**event, api_name="compare"), question.submit(**event, api_visibility="private")]
    tries = examples_of(page.examples, picture, question)
    if tries is not None:
        begun.append(tries.then(**event, api_visibility="private", scroll_to_output=True))
    stop.click(None, cancels=begun, queue=False, api_visibility="private")


def _question_of_two() -> Any:
    import gradio as gr

    return gr.Textbox(label="Question", max_length=500, elem_id="question-both", lines=1)

"""The page on which visitors vote: two answers, or two galleries, and nothing that tells whose they are."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kit.data.rows import Message
from kit.sharing.courtesy import picture_input, told
from kit.sharing.demo_ask import Voice, examples_of, to_whom
from kit.sharing.demo_search import CONCURRENT, MANY, SearchPage
from kit.sharing.demo_votes import Booth
from kit.sharing.uploads import clean_text, read_upload

CHOICES = (("left", "Left is better"), ("right", "Right is better"), ("tie", "Equally good"), ("both_bad", "Both bad"))
SAME = "Both say the same, so there is nothing to choose. Ask something else."
ANSWERS_QUESTION, PICTURES_QUESTION = "Which answer is better?", "Which pictures fit the words better?"
# A UUID of version 4, made by the browser for each question: `crypto.randomUUID` is missing where a page comes by
# plain http from another machine. Pressing twice sends it twice, and it counts once.
TICKET = (
    "([1e7]+-1e3+-4e3+-8e3+-1e11).replace(/[018]/g, "
    "c => (c ^ crypto.getRandomValues(new Uint8Array(1))[0] & 15 >> c / 4).toString(16))"
)


@dataclass(frozen=True)
class AnswersPage:
    """Two voices without names, for a vote.

    Args:
        booth: Draws their sides, and counts.
        voices: The two, by the booth's names.
        examples: Files of pictures that were held out, each with a question.
    """

    booth: Booth
    voices: dict[str, Voice]
    examples: Sequence[tuple[str, str]] = ()

    def duel(self, picture: str | None, question: str, ticket: str, visitor: str = "") -> Iterator[tuple[str, str]]:
        """Ask both models the same question about a picture; which is on the left is drawn by lot.

        Args:
            picture: A JPEG, PNG, WebP, GIF or BMP file of at most 10 MB and 25 million pixels; None for no picture.
            question: The question, at most 500 characters.
            ticket: A new UUID, with which /vote is called afterwards.
            visitor: Who asks; no part of a program's call.

        Returns:
            Both answers so far, again and again until they are whole.
        """
        asked = clean_text(question, what="The question")
        image = read_upload(picture) if picture else None
        sides, said = self.booth.sides(), ["", ""]
        for place, side in enumerate(sides):
            voice = self.voices[side]
            for answer in voice.talker.answer(image, [Message("user", asked)], adapted=voice.adapted):
                said[place] = answer
                yield said[0], said[1]
        self.booth.lay(ticket, sides, said, prompt=asked, visitor=visitor, image=image)


@dataclass(frozen=True)
class PicturesPage:
    """Two dual encoders' pictures without names, for a vote.

    Args:
        booth: Draws their sides, and counts.
        pages: A page of each, by the booth's names.
    """

    booth: Booth
    pages: dict[str, SearchPage]

    def duel(self, words: str, ticket: str, language: str, held_out: bool, visitor: str = "") -> tuple[str, str]:
        """Find pictures by words with both models; which is on the left is drawn by lot.

        Args:
            words: What to look for, at most 500 characters.
            ticket: A new UUID, with which /vote is called afterwards.
            language: Language of the found pictures' names, such as "en".
            held_out: True to search only among pictures that no model was trained on.
            visitor: Who asks; no part of a program's call.

        Returns:
            The pictures of the left and of the right one, nearest first, as HTML.
        """
        asked, sides = clean_text(words, what="The description"), self.booth.sides()
        found = [self.pages[side].search(asked, language, held_out, MANY)[0] for side in sides]
        outputs = ["\n".join(f"{one['number']} {one['name']}" for one in side) for side in found]
        self.booth.lay(ticket, sides, outputs, prompt=asked, visitor=visitor)
        left, right = (
            self.pages[side].plain([one["number"] for one in side_found], language)
            for side, side_found in zip(sides, found, strict=True)
        )
        return left, right


def answers_tab(page: AnswersPage) -> None:
    """Draw the tab of two voices into the Gradio Blocks that are being made."""
    import gradio as gr

    with gr.Tab("Vote", id="vote", elem_id="vote"):
        _kept(page.booth, uploads=True)
        with gr.Row():
            with gr.Column(min_width=280, scale=2):
                picture = picture_input(label="Picture", height=240, sources=["upload", "clipboard"])
                question = gr.Textbox(label="Question", max_length=500, elem_id="question-vote", lines=1)
                go = gr.Button("Ask both", variant="primary", elem_id="go-vote", min_width=110)
            with gr.Column(min_width=300, scale=3), gr.Row():
                said = [
                    gr.Textbox(label=side, lines=4, interactive=False, min_width=150, elem_id=f"vote-{side.lower()}")
                    for side in ("Left", "Right")
                ]
        ballot = _Ballot.drawn(page.booth, [go, question])
        event = ballot.asking(page.duel, [picture, question], said, concurrency_id="talk", concurrency_limit=1)
        begun = [go.click(**event), question.submit(**event)]
        tries = examples_of(page.examples, picture, question)
        if tries is not None:
            begun.append(tries.then(**event, scroll_to_output=True))
        _programs(page.duel, [picture, question, ballot.ticket], said, page.booth, queue="talk", limit=1)


def pictures_tab(page: PicturesPage) -> None:
    """Draw the tab of two dual encoders into the Gradio Blocks that are being made."""
    import gradio as gr

    shelf = next(iter(page.pages.values())).shelf
    with gr.Tab("Vote", id="vote", elem_id="vote"):
        _kept(page.booth, uploads=False)
        words = gr.Textbox(label="Find pictures of", max_length=500, elem_id="words", submit_btn="Find")
        with gr.Row():
            language = gr.Dropdown(
                list(shelf.languages), value=shelf.languages[0], label="Names in", visible=len(shelf.languages) > 1
            )
            # Pictures that it was trained on would be a head start for whichever saw them.
            some = 0 < shelf.held_out < len(shelf)
            held_out = gr.Checkbox(value=some, label="Held-out pictures only", visible=some, elem_id="held-out")
        with gr.Row():
            galleries = []
            for side in ("Left", "Right"):
                with gr.Column(min_width=320):
                    gr.Markdown(f"### {side}")
                    galleries.append(gr.HTML(elem_classes=["kit-gallery"], padding=False))
        ballot = _Ballot.drawn(page.booth, [words])
        event = ballot.asking(
            page.duel, [words], galleries, [language, held_out], concurrency_id="find", concurrency_limit=CONCURRENT
        )
        words.submit(**event)
        given = [words, ballot.ticket, language, held_out]
        _programs(page.duel, given, galleries, page.booth, queue="find", limit=CONCURRENT)


def _kept(booth: Booth, *, uploads: bool) -> None:
    import gradio as gr

    said = f"{booth.study.question} Names are hidden until you have voted. {booth.ballots.kept(uploads=uploads)}"
    gr.Markdown(said, elem_id="kept")


@dataclass(frozen=True)
class _Ballot:
    """The buttons of a vote, and what holds a question's UUID until it is pressed."""

    booth: Booth
    ticket: Any
    row: Any
    buttons: Sequence[Any]
    verdict: Any
    asking_with: Sequence[Any]

    @classmethod
    def drawn(cls, booth: Booth, asking_with: Sequence[Any]) -> _Ballot:
        """Draw them; while a vote is written, nothing can be asked with ``asking_with``."""
        import gradio as gr

        ticket = gr.Textbox(visible=False)
        with gr.Row(visible=False, elem_id="ballot") as row:
            buttons = [gr.Button(label, elem_id=f"is-{answer}", min_width=110) for answer, label in CHOICES]
        ballot = cls(booth, ticket, row, buttons, gr.Markdown(elem_id="verdict"), asking_with)
        for button, (answer, _) in zip(buttons, CHOICES, strict=True):
            button.click(
                told(functools.partial(ballot.cast, answer)), [ticket], [row, ballot.verdict, *asking_with],
                concurrency_limit=None, show_progress="hidden", api_visibility="private", trigger_mode="multiple",
            )  # fmt: skip
        return ballot

    def cast(self, answer: str, ticket: str) -> Iterator[tuple[Any, ...]]:
        """Write a vote: nothing can be asked before it is committed."""
        import gradio as gr

        yield (gr.skip(), gr.skip(), *(gr.update(interactive=False) for _ in self.asking_with))
        try:
            verdict = self.booth.vote(ticket, answer)
        except Exception:
            yield (gr.skip(), gr.skip(), *(gr.update(interactive=True) for _ in self.asking_with))
            raise
        yield (gr.update(visible=False), verdict, *(gr.update(interactive=True) for _ in self.asking_with))

    def asking(
        self, duel: Callable[..., Any], given: Sequence[Any], sides: Sequence[Any], more: Sequence[Any] = (),
        **options: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Return the event of a question: the browser makes its UUID, and the ballot shows when both have answered."""
        places = [f"a{number}" for number in range(len(given) + 1 + len(more))]
        taken = [*places[: len(given)], TICKET, *places[len(given) + 1 :]]

        def asked(*values: Any) -> Iterator[tuple[Any, ...]]:
            yield from self._asked(duel, len(given), *values)

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD  # Gradio finds by its name where the visitor goes
        asked.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [inspect.Parameter(name, kind) for name in (*places, "visitor")]
        )
        return {
            "fn": told(to_whom(asked)),
            "inputs": [*given, self.ticket, *more], "outputs": [*sides, self.ticket, self.row, self.verdict],
            "js": f"({', '.join(places)}) => [{', '.join(taken)}]", "show_progress": "minimal",
            "api_visibility": "private", **options,
        }  # fmt: skip

    def _asked(self, duel: Callable[..., Any], place: int, *given: Any) -> Iterator[tuple[Any, ...]]:
        import gradio as gr

        ticket, shown = given[place], ("", "")
        yield (*shown, ticket, gr.update(visible=False), "")
        answers = duel(*given)
        for shown in answers if isinstance(answers, Iterator) else [answers]:
            yield (*shown, ticket, gr.skip(), gr.skip())
        open_ = self.booth.waits(ticket)
        yield (*shown, ticket, gr.update(visible=open_), "" if open_ else SAME)


def _programs(
    duel: Callable[..., Any], given: Sequence[Any], sides: Sequence[Any], booth: Booth, *, queue: str, limit: int
) -> None:
    """Offer the same to programs: /duel and /vote."""
    import gradio as gr
    from gradio.events import api

    gr.Button(visible=False).click(
        told(to_whom(duel)), list(given), list(sides), api_name="duel", concurrency_limit=limit, concurrency_id=queue
    )

    def vote(ticket: str, answer: str) -> str:
        return booth.vote(ticket, answer)

    vote.__doc__ = Booth.vote.__doc__
    api(told(vote), api_name="vote", concurrency_limit=None)

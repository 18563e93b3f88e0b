"""The page of dual encoders: pictures found by words, and labels that fit a picture."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kit.errors import DataError, Fault
from kit.sharing.courtesy import picture_input, told
from kit.sharing.finding import Finder, Found
from kit.sharing.shelf import Shelf
from kit.sharing.uploads import clean_labels, clean_text, read_upload

MANY = 12  # pictures of one answer
MOST = 100
CONCURRENT = 2  # questions at a time; more would only share the same cores
TONGUES = {"en": "English", "de": "Deutsch", "es": "Español", "fr": "Français", "it": "Italiano", "pt": "Português"}
EXAMPLES = 6
LABELS = "animal, food, person, building, vehicle, flag, plant, sport"


@dataclass(frozen=True)
class SearchPage:
    """What the page of one or more dual encoders does; nothing here draws it.

    Args:
        finders: The models, which search the same pictures.
    """

    finders: Sequence[Finder]

    @property
    def shelf(self) -> Shelf:
        """The pictures that are searched."""
        return self.finders[0].shelf

    def search(
        self, words: str, language: str = "en", held_out: bool = False, many: int = MANY
    ) -> list[list[dict[str, Any]]]:
        """Find pictures by words.

        Args:
            words: What to look for, in a few words, at most 500 characters.
            language: Language of the found pictures' names, such as "en".
            held_out: True to search only among pictures that the model was not trained on.
            many: How many pictures, from 1 to 100.

        Returns:
            For each model a list, nearest first: the picture's name, the cosine of its vector and the words', whether
            the model was trained on it, and its number among all pictures.
        """
        return [
            [
                {"name": self.shelf.name(one.place, language), "score": round(one.score, 4),
                 "trained_on": self.shelf.items[one.place].trained_on, "number": one.place}
                for one in found
            ]
            for found in self._found(words, language, held_out, many)
        ]  # fmt: skip

    def show(self, words: str, language: str, held_out: bool) -> tuple[str, ...]:
        """Return each model's pictures as HTML, and what was searched as a sentence."""
        galleries = [self._gallery(found, language) for found in self._found(words, language, held_out, MANY)]
        return (*galleries, self._about(held_out))

    def label(self, picture: str, labels: str) -> Any:
        """Tell which of some labels fits a picture best.

        Args:
            picture: A JPEG, PNG, WebP, GIF or BMP file of at most 10 MB and 25 million pixels.
            labels: Two to 50 labels with commas between.

        Returns:
            For each model the share of each label; the shares of a model add up to 1.
        """
        image, names = read_upload(picture), clean_labels(labels)
        shares = tuple(finder.label(image, names) for finder in self.finders)
        return shares if len(shares) > 1 else shares[0]  # as Gradio takes one output

    def words(self, language: str) -> list[str]:
        """Return names of pictures that were held out, to be tried."""
        places = range(self.shelf.held_out or len(self.shelf))
        step = max(1, len(places) // (EXAMPLES * 4))
        names = [self.shelf.name(place, language) for place in places[step // 2 :: step]]
        return [name for name in dict.fromkeys(names) if 3 < len(name) <= 24 and name[0].islower()][:EXAMPLES]

    def pictures(self) -> list[str]:
        """Return small copies of pictures that were held out, to be labelled."""
        return [str(self.shelf.copy(place)) for place in self.places()]

    def places(self) -> list[int]:
        """Return the places of these pictures on the shelf."""
        places = range(self.shelf.held_out or len(self.shelf))
        step = max(1, len(places) // EXAMPLES)
        return list(places[step // 2 :: step][:EXAMPLES])

    def _found(self, words: str, language: str, held_out: bool, many: int) -> list[list[Found]]:
        asked = clean_text(words, what="The description")
        if language not in self.shelf.languages:
            raise DataError(Fault("The language", "is none of those that the pictures are named in", "choose another"))
        if isinstance(many, bool) or not isinstance(many, int | float) or not 1 <= many <= MOST:
            raise DataError(Fault("The number of pictures", f"must be 1 to {MOST}", "choose another"))
        return [finder.find(asked, int(many), held_out=bool(held_out)) for finder in self.finders]

    def _gallery(self, found: Sequence[Found], language: str) -> str:
        figures = []
        for one in found:
            name = html.escape(self.shelf.name(one.place, language))
            seen = "<small>trained on</small>" if self.shelf.items[one.place].trained_on else ""
            figures.append(
                f'<figure><img src="gradio_api/file={html.escape(str(self.shelf.copy(one.place)))}" alt="{name}">'
                f"<figcaption>{name} <b>{one.score:.2f}</b>{seen}</figcaption></figure>"
            )
        return f'<div class="kit-found">{"".join(figures)}</div>'

    def plain(self, places: Sequence[int], language: str) -> str:
        """Return pictures as HTML without scores or what was trained on, by which two models could be told apart."""
        figures = []
        for place in places:
            name = html.escape(self.shelf.name(place, language))
            file = html.escape(str(self.shelf.copy(place)))
            figures.append(
                f'<figure><img src="gradio_api/file={file}" alt="{name}"><figcaption>{name}</figcaption></figure>'
            )
        return f'<div class="kit-found">{"".join(figures)}</div>'

    def _about(self, held_out: bool) -> str:
        read, whole = len(self.finders[-1].vectors), len(self.shelf)
        if read < whole:
            return f"The first {read:,} of {whole:,} pictures were read so far; the others follow."
        if held_out:
            return f"{self.shelf.held_out:,} pictures were searched, none of which it was trained on."
        trained = whole - self.shelf.held_out
        return f"{whole:,} pictures were searched; {trained:,} of them are in the split that it was trained on."


def search_tabs(page: SearchPage) -> None:
    """Draw the page's tabs into the Gradio Blocks that are being made."""
    import gradio as gr

    with gr.Tab("Find", id="find"):
        _search_tab(page)
    with gr.Tab("Label", id="label"):
        _label_tab(page)


def _search_tab(page: SearchPage) -> None:
    import gradio as gr
    from gradio.events import api

    shelf, first = page.shelf, page.shelf.languages[0]
    words = gr.Textbox(
        label="Find pictures of", placeholder="a hot drink", max_length=500, elem_id="words", submit_btn="Find"
    )
    tries = gr.Dataset(
        components=[words], samples=[[word] for word in page.words(first)], label="Names of held-out pictures to try",
        elem_id="tries", type="values",
    )  # fmt: skip
    with gr.Row():
        tongues = [(TONGUES.get(one, one), one) for one in shelf.languages]
        language = gr.Dropdown(
            tongues, value=first, label="Names in", elem_id="language", min_width=130, visible=len(tongues) > 1
        )
        held_out = gr.Checkbox(
            label="Held-out pictures only", elem_id="held-out", min_width=130, visible=0 < shelf.held_out < len(shelf)
        )
    # Beside each other where there is room, below each other on a phone.
    with gr.Row():
        alone = len(page.finders) == 1
        galleries = [_gallery("" if alone else finder.name) for finder in page.finders]
    about = gr.Markdown(elem_id="about")
    event: dict[str, Any] = {
        "fn": told(page.show), "inputs": [words, language, held_out], "outputs": [*galleries, about],
        "concurrency_limit": CONCURRENT, "concurrency_id": "find", "show_progress": "minimal",
        "api_visibility": "private",
    }  # fmt: skip
    words.submit(**event)
    for changed in (language, held_out):
        changed.input(**{**event, "fn": _unless_empty(event["fn"], len(event["outputs"]))})
    tries.click(lambda sample: sample[0], tries, words, queue=False, api_visibility="private").then(**event)
    language.change(
        lambda tongue: gr.Dataset(samples=[[word] for word in page.words(tongue)]), language, tries, queue=False,
        api_visibility="private",
    )  # fmt: skip
    api(told(page.search), api_name="search", concurrency_limit=CONCURRENT, concurrency_id="find")


def _gallery(name: str) -> Any:
    import gradio as gr

    with gr.Column(min_width=320):
        if name:
            gr.Markdown(f"### {name}")
        return gr.HTML(elem_classes=["kit-gallery"], padding=False)


def _unless_empty(search: Callable[..., Any], outputs: int) -> Callable[..., Any]:
    """Return a search that does nothing while there are no words: an option alone is no question."""
    import gradio as gr

    def asked(words: Any, *rest: Any) -> Any:
        if isinstance(words, str) and not words.strip():
            return (gr.skip(),) * outputs
        return search(words, *rest)

    return asked


def _label_tab(page: SearchPage) -> None:
    import gradio as gr

    with gr.Row():
        with gr.Column(min_width=280):
            picture = picture_input(label="Picture", height=260, sources=["upload", "clipboard"], elem_id="picture")
            labels = gr.Textbox(LABELS, label="Labels, with commas between", lines=2, max_length=5000, elem_id="labels")
            go = gr.Button("Label", variant="primary", elem_id="go-label")
        with gr.Column(min_width=280):
            shown = [
                gr.Label(label=finder.name, num_top_classes=8, elem_classes=["kit-labels"]) for finder in page.finders
            ]
    tries = gr.Examples(
        [[path] for path in page.pictures()], [picture], label="Held-out pictures to try", elem_id="pictures",
        cache_examples=False,
        api_visibility="private",
    )  # fmt: skip
    event: dict[str, Any] = {
        "fn": told(page.label), "inputs": [picture, labels], "outputs": shown, "concurrency_limit": CONCURRENT,
        "concurrency_id": "find", "show_progress": "minimal",
    }  # fmt: skip
    go.click(**event, api_name="label")
    labels.submit(**event, api_visibility="private")
    tries.load_input_event.then(**event, api_visibility="private")

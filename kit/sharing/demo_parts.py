"""What stands behind a demo's page: models, pictures and examples, put together for a bundle's kind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.adapters.bundle import Bundle
from kit.data.rows import Conversation, Question
from kit.errors import KitError
from kit.sharing.demo_ask import AskPage, Voice, ask_tabs, voices
from kit.sharing.demo_search import SearchPage, search_tabs
from kit.sharing.finding import Finder, read_vectors
from kit.sharing.shelf import FILE as SHELF
from kit.sharing.shelf import make_shelf, read_shelf
from kit.sharing.talking import Talker

if TYPE_CHECKING:
    from kit.sharing.demo_votes import Ballots

VECTORS = "vectors.safetensors"
EXAMPLES = "examples.json"
MANY = 4  # examples

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]] | None


@dataclass(frozen=True)
class Parts:
    """A page's inside.

    Args:
        draw: Draws its tabs.
        start: Begins what may go on while visitors come.
        close: Ends it.
        shown_from: Folders whose files visitors may see.
        credit: What the page must show; may be empty.
    """

    draw: Callable[[], None]
    start: Callable[[], None]
    close: Callable[[], None]
    shown_from: tuple[Path, ...]
    credit: str = ""


def make_parts(
    bundles: Sequence[Bundle], folder: Path, *, pictures: str, device: str | None, wrap: Wrap, runtime: str = "torch",
    ballots: Ballots | None = None,
) -> Parts:  # fmt: skip
    """Return the inside of the page of bundles of one kind.

    Args:
        bundles: The bundles.
        folder: An empty folder for small copies of pictures.
        pictures: See ``kit.sharing.demo.demo``.
        device: Likewise.
        wrap: Likewise.
        runtime: Likewise.
        ballots: Where votes go; None for a page without votes.

    Raises:
        BundleError: votes, and not two to vote on.
        DataError: the pictures cannot be read.
        KitError: a model cannot be loaded.
    """
    kind = bundles[0].manifest.kind
    options = {"device": device} if device and kind != "dual-encoder" else {}
    models = [_loaded(one, runtime, **options) for one in bundles]
    if kind == "dual-encoder":
        parts = _search(bundles, models, folder, pictures, ballots)
    else:
        parts = _ask(bundles, models, folder, pictures, wrap=wrap, ballots=ballots)
    if ballots is None:
        return parts

    def close() -> None:
        parts.close()
        ballots.store.close()

    return replace(parts, close=close)


def _loaded(bundle: Bundle, runtime: str, **options: Any) -> Any:
    if runtime == "torch":
        return bundle.load(**options)
    from kit.quantization.served import served

    return served(bundle.folder, runtime)


def _search(
    bundles: Sequence[Bundle], models: Sequence[Any], folder: Path, pictures: str, ballots: Ballots | None
) -> Parts:
    saved = Path(pictures) if pictures and (Path(pictures) / SHELF).is_file() else None
    shelf = read_shelf(saved) if saved is not None else make_shelf(bundles[0].manifest, folder, source=pictures)
    names = _names(bundles)
    finders = [Finder(model, shelf, name) for model, name in zip(models, names, strict=True)]
    for finder in finders:
        finder.warm()
    if saved is not None:
        finders[0].take(read_vectors(saved / VECTORS))
    draw = _search_draw(bundles, finders, ballots)

    def start() -> None:
        for finder in finders[saved is not None :]:
            finder.start()

    def close() -> None:
        for finder in finders:
            finder.close()

    return Parts(draw, start, close, (shelf.copies,), shelf.attribution)


def _search_draw(bundles: Sequence[Bundle], finders: Sequence[Finder], ballots: Ballots | None) -> Callable[[], None]:
    if ballots is None:
        page = SearchPage(finders)
        return lambda: search_tabs(page)
    # Here: a Space, on which nobody votes, has no database to import.
    from kit.sharing.demo_vote_tab import PICTURES_QUESTION, PicturesPage, pictures_tab
    from kit.sharing.demo_votes import booth_of

    about = {finder.name: one.manifest.digest() for finder, one in zip(finders, bundles, strict=True)}
    booth = booth_of(ballots, list(about), about, question=PICTURES_QUESTION)
    pages = {name: SearchPage([finder]) for name, finder in zip(booth.study.conditions, finders, strict=True)}
    voted = PicturesPage(booth, pages)
    return lambda: pictures_tab(voted)


def _ask(
    bundles: Sequence[Bundle], models: Sequence[Any], folder: Path, pictures: str, *, wrap: Wrap,
    ballots: Ballots | None,
) -> Parts:  # fmt: skip
    talkers = [
        Talker(model, name, turns=_conversed(one))
        for model, one, name in zip(models, bundles, _names(bundles), strict=True)
    ]
    if wrap is not None:
        for talker in talkers:
            talker.answer = wrap(talker.answer)  # type: ignore[method-assign]
    else:
        for talker in talkers:
            talker.warm()
    saved = Path(pictures) if pictures and (Path(pictures) / EXAMPLES).is_file() else None
    examples = read_examples(saved) if saved is not None else make_examples(bundles[0], folder)
    draw = _ask_draw(bundles, talkers, examples, ballots)
    credit = "; ".join(dict.fromkeys(base.attribution for one in bundles for base in one.manifest.data))
    shown = saved if saved is not None else folder
    return Parts(draw, lambda: None, lambda: None, (shown,), credit)


def _ask_draw(
    bundles: Sequence[Bundle], talkers: Sequence[Talker], examples: Sequence[tuple[str, str]], ballots: Ballots | None
) -> Callable[[], None]:
    if ballots is None:
        page = AskPage(talkers, examples)
        return lambda: ask_tabs(page)
    from kit.sharing.demo_vote_tab import ANSWERS_QUESTION, AnswersPage, answers_tab
    from kit.sharing.demo_votes import booth_of

    # One bundle is compared with itself, adapter off; two are compared as they are.
    heard = [Voice(one.name, one) for one in talkers] if len(talkers) > 1 else voices(talkers)
    digests = [one.manifest.digest() for one in bundles]
    about = {voice.name: digests[min(place, len(digests) - 1)] for place, voice in enumerate(heard)}
    booth = booth_of(ballots, list(about), about, question=ANSWERS_QUESTION)
    voted = AnswersPage(booth, dict(zip(booth.study.conditions, heard, strict=True)), examples)
    return lambda: answers_tab(voted)


def _names(bundles: Sequence[Bundle]) -> list[str]:
    """Return what visitors call the bundles: their names, numbered where two have one."""
    names = [one.manifest.name for one in bundles]
    return [name if names.count(name) == 1 else f"{name} ({place + 1})" for place, name in enumerate(names)]


def _conversed(bundle: Bundle) -> bool:
    """Tell whether a model understands conversations: those of the Hub, and those that were trained on some."""
    sources = [base.source for base in bundle.manifest.data]
    return bundle.manifest.bases[0].source.startswith("hf:") or "instruct" in sources


def make_examples(bundle: Bundle, folder: Path) -> list[tuple[str, str]]:
    """Return files of held-out pictures with a question about each; none where the data is not here.

    The files are small copies in ``folder``.
    """
    from kit.data.sources import load_rows

    if not bundle.manifest.data:
        return []
    try:
        rows = load_rows(bundle.manifest.data[0].source, split="test").about(40)
        asked = [(row.picture, _asked(row)) for row in rows if getattr(row, "picture", None) is not None]
        found: list[tuple[str, str]] = []
        seen: set[str] = set()
        for picture, question in asked:
            if len(found) == MANY or not question:
                break
            # Another picture and another question each time: they show what can be asked.
            if picture.digest() in seen or question in seen:
                continue
            seen |= {picture.digest(), question}
            path = folder / f"example-{len(found)}.png"
            picture.open().save(path)
            found.append((str(path), question))
    except KitError as error:
        print(f"No examples: {error}", file=sys.stderr, flush=True)
        return []
    return found


def _asked(row: Any) -> str:
    if isinstance(row, Question):
        return row.question
    if isinstance(row, Conversation):
        return next((message.text for message in row.messages if message.role == "user"), "")
    return "What is this?"


def read_examples(folder: Path) -> list[tuple[str, str]]:
    """Return the examples that ``kit space build`` wrote into a folder."""
    import json

    said = json.loads((folder / EXAMPLES).read_text(encoding="utf-8"))
    return [(str(folder / one["file"]), str(one["question"])) for one in said]

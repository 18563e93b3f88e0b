"""What stands behind a demo's page: models, pictures and examples, put together for a bundle's kind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.adapters.bundle import Bundle
from kit.data.rows import Conversation, Question
from kit.errors import KitError
from kit.sharing.demo_ask import AskPage, ask_tabs
from kit.sharing.demo_search import SearchPage, search_tabs
from kit.sharing.finding import Finder, read_vectors
from kit.sharing.shelf import FILE as SHELF
from kit.sharing.shelf import make_shelf, read_shelf
from kit.sharing.talking import Talker

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
    bundles: Sequence[Bundle], folder: Path, *, pictures: str, device: str | None, wrap: Wrap, runtime: str = "torch"
) -> Parts:
    """Return the inside of the page of bundles of one kind.

    Args:
        bundles: The bundles.
        folder: An empty folder for small copies of pictures.
        pictures: See ``kit.sharing.demo.demo``.
        device: Likewise.
        wrap: Likewise.
        runtime: Likewise.

    Raises:
        DataError: the pictures cannot be read.
        KitError: a model cannot be loaded.
    """
    kind = bundles[0].manifest.kind
    options = {"device": device} if device and kind != "dual-encoder" else {}
    models = [_loaded(one, runtime, **options) for one in bundles]
    if kind == "dual-encoder":
        return _search(bundles, models, folder, pictures)
    return _ask(bundles, models, folder, pictures, wrap)


def _loaded(bundle: Bundle, runtime: str, **options: Any) -> Any:
    if runtime == "torch":
        return bundle.load(**options)
    from kit.quantization.served import served

    return served(bundle.folder, runtime)


def _search(bundles: Sequence[Bundle], models: Sequence[Any], folder: Path, pictures: str) -> Parts:
    saved = Path(pictures) if pictures and (Path(pictures) / SHELF).is_file() else None
    shelf = read_shelf(saved) if saved is not None else make_shelf(bundles[0].manifest, folder, source=pictures)
    names = _names(bundles)
    finders = [Finder(model, shelf, name) for model, name in zip(models, names, strict=True)]
    for finder in finders:
        finder.warm()
    if saved is not None:
        finders[0].take(read_vectors(saved / VECTORS))
    page = SearchPage(finders)

    def start() -> None:
        for finder in finders[saved is not None :]:
            finder.start()

    def close() -> None:
        for finder in finders:
            finder.close()

    return Parts(lambda: search_tabs(page), start, close, (shelf.copies,), shelf.attribution)


def _ask(bundles: Sequence[Bundle], models: Sequence[Any], folder: Path, pictures: str, wrap: Wrap) -> Parts:
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
    page = AskPage(talkers, examples)
    credit = "; ".join(dict.fromkeys(base.attribution for one in bundles for base in one.manifest.data))
    shown = saved if saved is not None else folder
    return Parts(lambda: ask_tabs(page), lambda: None, lambda: None, (shown,), credit)


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

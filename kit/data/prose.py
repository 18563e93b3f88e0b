"""English prose that every machine has, to measure what a language model forgot: Python's own manual, or your text."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit.data.rows import Rows
from kit.errors import DataError, Fault, did_you_mean
from kit.parts.grammar import parse

MANUAL = "python-manual"
SUFFIXES = (".md", ".txt")


@dataclass(frozen=True)
class Passage:
    """Some paragraphs of one document.

    Args:
        id: Stable within the source.
        text: The paragraphs, a blank line between them.
        document: What it was cut from; passages of one document are not independent.
    """

    id: str
    text: str
    document: str

    def digest(self) -> str:
        """Return a SHA-256 of the text and where it stands."""
        return hashlib.sha256(f"{self.id}\0{self.document}\0{self.text}".encode()).hexdigest()


def load_prose(
    source: str = MANUAL, *, limit: int | None = None, seed: int = 0, words: int = 120, base: Path | None = None
) -> Rows[Passage]:
    """Return passages of English prose, without a network.

    The manual's language reference comes with Python itself (``pydoc_data``); code, grammars, lists and what stands
    there twice are left out. It differs from one Python version to the next, so compare perplexities of one machine,
    or of equal ``digest()``; the name says which version it was.

    Args:
        source: ``python-manual``; ``folder:PATH``, whose .txt and .md files are read; or the path of one such file.
        limit: At most so many passages, drawn by a hash of ``seed`` and id; None for all.
        seed: For ``limit``.
        words: A passage ends with the paragraph that reaches so many words.
        base: The folder that relative paths start from; the working directory by default.

    Raises:
        DataError: no such source, no text in it, files that are no UTF-8 (all at once), or ``words`` below 1.
    """
    if words < 1:
        raise DataError(Fault("words", f"must be at least 1, got {words}"))
    if source == MANUAL:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        licence, attribution = "PSF-2.0", "Python documentation, Copyright (c) Python Software Foundation, PSF-2.0"
        name, documents = f"{MANUAL} {version}", _manual()
    else:
        name, licence, attribution, documents = source, "", "", _own(source, base)
    items = tuple(passage for title, text in documents for passage in _passages(title, text, words))
    if not items:
        raise DataError(Fault(source, "holds no text", "name a file or folder with some prose in it"))
    rows = Rows(items, name=name, split="all", licence=licence, attribution=attribution)
    return rows if limit is None else rows.limit(limit, seed=seed)


def _manual() -> list[tuple[str, list[str]]]:
    """Return the prose of each topic that ``help()`` knows, as paragraphs."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        what = "this Python comes without its manual (pydoc_data)"
        raise DataError(Fault(MANUAL, what, "name a text file or a folder of your own")) from error
    seen: set[str] = set()
    found = []
    for title, text in sorted(topics.items()):
        paragraphs = dict.fromkeys(" ".join(part.split()) for part in text.split("\n\n") if _is_prose(part))
        fresh = [paragraph for paragraph in paragraphs if paragraph not in seen]
        seen.update(fresh)
        found.append((title, fresh))
    return found


def _is_prose(paragraph: str) -> bool:
    """Tell whether a paragraph of the manual is running text: flush left, a sentence, and mostly words."""
    text = paragraph.strip("\n")
    if not re.match(r"[A-Z*]\w", text) or not text.rstrip().endswith((".", ")", ":")) or "::=" in text:
        return False
    letters = sum(character.isalpha() or character in " \n,." for character in text)
    return len(text.split()) >= 12 and letters > 0.88 * len(text)


def _own(source: str, base: Path | None) -> list[tuple[str, list[str]]]:
    """Return the paragraphs of the user's files."""
    faults, found = [], []
    for path, title in _files(source, base):
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            faults.append(Fault(str(path), f"cannot be read: {error}", "save it as UTF-8"))
            continue
        found.append((title, [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]))
    if faults:
        raise DataError(faults)
    return found


def _files(source: str, base: Path | None) -> list[tuple[Path, str]]:
    """Return the text files that a source names, each with its title."""
    path = (base or Path.cwd()) / Path(source).expanduser()
    if path.suffix in SUFFIXES and path.is_file():
        return [(path, path.name)]
    if ":" not in source:
        what = f"is no prose that kit knows, and no such text file is there.{did_you_mean(source, [MANUAL])}"
        allowed = f"Allowed: {MANUAL}, folder:PATH, a file ending in {' or '.join(SUFFIXES)}."
        raise DataError(Fault(source, what, allowed=allowed))
    root = parse(source, kind="data", base=base).path
    if root is None:
        raise DataError(Fault(source, "holds no prose", "name a folder with folder:PATH"))
    paths = sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    titles = [path.relative_to(root).as_posix() for path in paths]
    return [(path, title) for path, title in zip(paths, titles, strict=True) if not re.search(r"(^|/)\.", title)]


def _passages(title: str, paragraphs: Sequence[str], words: int) -> Iterator[Passage]:
    """Yield passages of whole paragraphs; a paragraph of twice the length is cut, and a short rest is left out."""
    kept: list[str] = []
    count = 0
    number = 0
    for paragraph in _cut(paragraphs, words):
        kept.append(paragraph)
        count += len(paragraph.split())
        if count >= words:
            yield Passage(f"{title}/{number}", "\n\n".join(kept), title)
            kept, count, number = [], 0, number + 1
    if kept and (count >= words / 2 or not number):
        yield Passage(f"{title}/{number}", "\n\n".join(kept), title)


def _cut(paragraphs: Sequence[str], words: int) -> Iterator[str]:
    for paragraph in paragraphs:
        tokens = paragraph.split()
        step = words if len(tokens) >= 2 * words else max(1, len(tokens))
        for start in range(0, len(tokens), step):
            yield " ".join(tokens[start : start + step])

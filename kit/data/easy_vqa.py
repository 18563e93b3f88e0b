"""easy-VQA: questions about one coloured shape, with the test split that its author drew."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from kit.data.picture import Picture
from kit.data.rows import Question, Rows
from kit.parts.catalog import PARTS
from kit.parts.pull import get

VAL_SHARE = 10  # percent of the training pictures, by a hash of the file; fixed forever


def load(*, split: str) -> Rows[Question]:
    """Return the questions of a split; pulls the part at first use.

    "test" is the author's. "val" is carved out of his training split by picture, so that no picture is
    in two splits (the package holds no two equal pictures).

    Args:
        split: "train", "val", "test" or "all".

    Raises:
        PartError: easy-VQA cannot be pulled.
    """
    part = PARTS["easy-vqa"]
    root = get(part)
    answers = tuple(sorted((root / "answers.txt").read_text(encoding="utf-8").split()))
    rows: list[Question] = []
    if split != "test":
        rows += [row for row in _questions(root, "train", answers) if split in {"all", row.split}]
    if split in {"all", "test"}:
        rows += _questions(root, "test", answers)
    return Rows(tuple(rows), name="easy-vqa", split=split, licence=part.licence, attribution=part.attribution)


def _questions(root: Path, author_split: str, answers: tuple[str, ...]) -> list[Question]:
    """Return one of the author's two splits; pictures are shared between their questions."""
    entries = json.loads((root / author_split / "questions.json").read_text(encoding="utf-8"))
    pictures = {
        number: Picture.at(root / author_split / "images" / f"{number}.png")
        for number in sorted({entry[2] for entry in entries})
    }
    splits = {number: _split(picture) if author_split == "train" else "test" for number, picture in pictures.items()}
    counts: dict[int, int] = {}
    rows = []
    for question, answer, number in entries:
        counts[number] = counts.get(number, -1) + 1
        rows.append(
            Question(
                id=f"{author_split}/{number}/{counts[number]}",
                picture=pictures[number],
                question=question,
                answer=answer,
                answers=answers,
                group=_group(question, answer),
                split=splits[number],
            )
        )
    return rows


def _split(picture: Picture) -> str:
    bucket = int(hashlib.sha256(picture.read()).hexdigest()[:8], 16) % 100
    return "val" if bucket < VAL_SHARE else "train"


def _group(question: str, answer: str) -> str:
    """Return what the question is about: "shape", "colour", or "yes/no" (for which guessing gets half)."""
    if answer in {"yes", "no"}:
        return "yes/no"
    return "colour" if re.search(r"\bcolou?r\b", question) else "shape"

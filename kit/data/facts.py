"""Plain questions about the world, without any picture: what a small language model knew, and may forget."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from kit.data.rows import Rows

NAME = "facts"
_CAPITALS = """
    Austria: Vienna, Canada: Ottawa, China: Beijing, Cuba: Havana, Egypt: Cairo, France: Paris, Germany: Berlin,
    Greece: Athens, Hungary: Budapest, Ireland: Dublin, Italy: Rome, Japan: Tokyo, Kenya: Nairobi, Norway: Oslo,
    Peru: Lima, Poland: Warsaw, Portugal: Lisbon, Russia: Moscow, Spain: Madrid, Sweden: Stockholm
"""
_OPPOSITES = """
    hot: cold, up: down, big: small|little, day: night, left: right, happy: sad, fast: slow, early: late, rich: poor,
    young: old, love: hate, begin: end
"""
_OTHERS = """
    What do bees make?: honey
    What is frozen water called?: ice
    What is the largest ocean on Earth?: Pacific
    What is the highest mountain in the world?: Everest
    Who wrote Romeo and Juliet?: Shakespeare
    Who painted the Mona Lisa?: Leonardo|da Vinci
    Who was the first president of the United States?: Washington
    How many days are there in a week?: seven|7
    How many legs does a spider have?: eight|8
    What is the first month of the year?: January
    What is a young dog called?: puppy|pup
    What is a young cat called?: kitten
    Which star does the Earth go around?: Sun
    On which continent is Egypt?: Africa
    What language do most people in Brazil speak?: Portuguese
    What is the currency of Japan?: yen
    Which organ pumps blood through the body?: heart
    What is the chemical formula of water?: H2O|H₂O
    Which gas do plants take from the air?: carbon dioxide|CO2|CO₂
    What is the hardest natural material?: diamond
"""


@dataclass(frozen=True)
class Fact:
    """A question that needs no picture.

    Args:
        id: Stable within the source.
        question: The question.
        answers: Words one of which a right answer holds.
        group: "capital", "opposite" or "other".
    """

    id: str
    question: str
    answers: tuple[str, ...]
    group: str

    @property
    def text(self) -> str:
        """The question; what ``Rows.texts`` lists."""
        return self.question

    def digest(self) -> str:
        """Return a SHA-256 of all fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def load_facts(*, limit: int | None = None, seed: int = 0) -> Rows[Fact]:
    """Return some fifty questions with one short right answer each, none of which the question holds.

    Args:
        limit: At most so many, drawn by a hash of ``seed`` and id; None for all.
        seed: For ``limit``.

    Raises:
        DataError: limit < 1.
    """
    asked = [
        *((f"What is the capital of {name}?", right, "capital") for name, right in _pairs(_CAPITALS.split(","))),
        *((f"What is the opposite of {name}?", right, "opposite") for name, right in _pairs(_OPPOSITES.split(","))),
        *((question, right, "other") for question, right in _pairs(_OTHERS.strip().splitlines())),
    ]
    items = tuple(
        Fact(f"{group}/{number}", question, tuple(right.split("|")), group)
        for number, (question, right, group) in enumerate(asked)
    )
    rows = Rows(items, name=NAME, split="test", licence="CC0-1.0")
    return rows if limit is None else rows.limit(limit, seed=seed)


def _pairs(lines: list[str]) -> list[tuple[str, str]]:
    return [(name.strip(), right.strip()) for name, _, right in (line.rpartition(":") for line in lines)]

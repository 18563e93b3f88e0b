"""Many votes as columns of numbers: what the statistics count."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kit.humaneval.items import GOLD_OUTPUTS
from kit.humaneval.votes import ANSWERS, KINDS, SKIP

LEFT, RIGHT, TIE, BOTH_BAD = range(len(ANSWERS))
FIRST, REPEAT, GOLD, IDENTICAL = range(len(KINDS))


@dataclass(frozen=True, eq=False)
class VoteTable:
    """Pairwise votes as columns, oldest first: all that the statistics need.

    Args:
        models: Names of what is compared.
        raters: Names of the raters.
        items: Names of the items.
        left: The model on the left, an index into ``models``, shape (n,).
        right: The model on the right, shape (n,).
        answer: LEFT, RIGHT, TIE or BOTH_BAD, shape (n,).
        rater: An index into ``raters``, shape (n,).
        item: An index into ``items``, shape (n,).
        kind: FIRST, REPEAT, GOLD or IDENTICAL, shape (n,).
        ms: Milliseconds taken, 0 where unknown, shape (n,).
        skipped: How many times somebody skipped.
    """

    models: tuple[str, ...]
    raters: tuple[str, ...]
    items: tuple[str, ...]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    answer: NDArray[np.int8]
    rater: NDArray[np.int32]
    item: NDArray[np.int32]
    kind: NDArray[np.int8]
    ms: NDArray[np.int32]
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.left)

    def only(self, keep: NDArray[np.bool_]) -> VoteTable:
        """Return the votes where ``keep`` is true, shape (n,); names and their indices stay."""
        columns = ("left", "right", "answer", "rater", "item", "kind", "ms")
        return replace(self, **{name: getattr(self, name)[keep] for name in columns})

    def kinds(self, *kinds: int) -> VoteTable:
        """Return the votes of these kinds."""
        return self.only(np.isin(self.kind, kinds))

    def comparisons(self) -> VoteTable:
        """Return the votes that models are ranked by: first times, without repeats, gold and automatic ties."""
        kept = self.only((self.kind == FIRST) & (self.left != self.right))
        real = np.array([name not in GOLD_OUTPUTS for name in self.models], bool)
        place = np.cumsum(real, dtype=np.int32) - 1
        models = tuple(name for name in self.models if name not in GOLD_OUTPUTS)
        return replace(kept, models=models, left=place[kept.left], right=place[kept.right])

    @classmethod
    def of(
        cls,
        left: Sequence[str],
        right: Sequence[str],
        answers: Sequence[str],
        *,
        raters: Sequence[str] | None = None,
        items: Sequence[str] | None = None,
    ) -> VoteTable:
        """Return the table of votes given as lists of names, n of each; without raters or items, all are one's own.

        Raises:
            ValueError: lists of unequal length, or an unknown answer.
        """
        n = len(left)
        who, what = raters or [""] * n, items or [str(number) for number in range(n)]
        if {len(right), len(answers), len(who), len(what)} != {n}:
            raise ValueError("left, right, answers, raters and items: unequal lengths")
        builder = TableBuilder()
        texts = [
            meaning([one, other], answer, "first") for one, other, answer in zip(left, right, answers, strict=True)
        ]
        builder.add(who, what, texts, [0] * n)
        return builder.table()


def meaning(shown: Sequence[str], answer: str, kind: str) -> str:
    """Return what was shown, answered and of which kind as one text: one look-up per row instead of three."""
    return f"{json.dumps(shown)}\n{answer}\n{kind}"


class _Codes(dict[Any, int]):
    """Numbers for values, given out as they come."""

    def __missing__(self, value: Any) -> int:
        self[value] = len(self)
        return self[value]

    def of(self, values: Sequence[Any]) -> NDArray[np.int32]:
        return np.fromiter(map(self.__getitem__, values), np.int32, count=len(values))


class TableBuilder:
    """Turns rows into a VoteTable, chunk by chunk: a million rows are never in memory as Python objects.

    A ranking of n outputs becomes its n(n-1)/2 pairs, all of one rater and item; points of a rubric are no
    comparison and are refused.
    """

    def __init__(self, models: Iterable[str] = ()) -> None:
        self._raters, self._items, self._texts, self._models = _Codes(), _Codes(), _Codes(), _Codes()
        for name in models:
            self._models[name]
        self._chunks: list[tuple[NDArray[Any], ...]] = []

    def add(self, raters: Sequence[str], items: Sequence[str], meanings: Sequence[str], ms: Sequence[int]) -> None:
        """Add rows by their columns, each of shape (n,); ``meanings`` as ``meaning`` writes them."""
        codes = (self._texts.of(meanings), self._raters.of(raters), self._items.of(items))
        self._chunks.append((*codes, np.asarray(ms, np.int32)))

    def table(self) -> VoteTable:
        """Return all that was added.

        Raises:
            ValueError: an answer that is no comparison.
        """
        empty = (np.empty(0, np.int32),) * 4
        texts, rater, item, ms = (np.concatenate(parts) for parts in zip(empty, *self._chunks, strict=True))
        said = [self._votes(text) for text in self._texts]
        counts = np.array([len(votes) for votes in said], np.int64)[texts] if said else texts
        row = np.repeat(np.arange(len(texts)), counts)  # one vote is one pair, a ranking is several
        starts = np.cumsum([0, *map(len, said)])
        within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        flat = np.array([vote for votes in said for vote in votes], np.int32).reshape(-1, 4)
        left, right, answer, kind = flat[starts[texts[row]] + within].T if len(row) else np.empty((4, 0), np.int32)
        names = [tuple(codes) for codes in (self._models, self._raters, self._items)]
        columns = (left, right, answer.astype(np.int8), rater[row], item[row], kind.astype(np.int8), ms[row])
        return VoteTable(names[0], names[1], names[2], *columns, skipped=int((counts == 0).sum()))

    def _votes(self, text: str) -> list[tuple[int, int, int, int]]:
        """Return what one answer says, as (left, right, answer, kind); nothing for a skip."""
        shown, rest = text.split("\n", 1)
        answer, kind = rest.rsplit("\n", 1)
        return [(*pair, KINDS.index(kind)) for pair in self._pairs(json.loads(shown), answer)]

    def _pairs(self, shown: list[str], answer: str) -> list[tuple[int, int, int]]:
        """Return the pairs that an answer decides, as (left, right, answer)."""
        places = [self._models[name] for name in shown]
        if answer == SKIP:
            return []
        if answer in ANSWERS and len(places) == 2:
            return [(places[0], places[1], ANSWERS.index(answer))]
        order = json.loads(answer) if answer.startswith("[") else None
        if order is None or sorted(order) != list(range(len(places))):
            raise ValueError(f"answer: {answer!r} is no comparison of {len(places)} outputs")
        rank = {place: number for number, place in enumerate(order)}
        pairs = combinations(range(len(places)), 2)
        return [(places[a], places[b], LEFT if rank[a] < rank[b] else RIGHT) for a, b in pairs]

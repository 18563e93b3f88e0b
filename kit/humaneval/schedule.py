"""What a rater is asked, in which order and on which side: random by (rater, item), the same every time it is asked."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from kit.humaneval.items import GOLD_OUTPUTS
from kit.humaneval.study import Study

REPEAT_GAP = 10  # comparisons between a pair and its repeat, so that nobody answers from memory


@dataclass(frozen=True)
class Task:
    """One thing that a rater is asked.

    Args:
        item: The item's id.
        shown: The conditions whose outputs are shown, from left to right; one of them for a rubric.
        kind: "first", "repeat" (the same pair later, sides swapped) or "gold".
    """

    item: str
    shown: tuple[str, ...]
    kind: str = "first"

    @property
    def key(self) -> str:
        """What makes it the same task whatever the sides."""
        return "|".join((self.kind, self.item, *sorted(self.shown)))


def tasks_of(study: Study, rater: str) -> tuple[Task, ...]:
    """Return everything that one rater is asked, in the rater's own random order.

    Sides are drawn by (seed, rater, item). Repeats come at least ten comparisons after their first time, where the
    study is long enough; gold items come anywhere. Pairs of identical outputs are left out: they are ties already
    (``identical``).
    """
    base = sorted(_base(study, rater), key=lambda task: _luck(study, rater, "order", task.key))
    placed: list[tuple[float, Task]] = list(enumerate(base))
    n = len(base)
    early = range(max(0, n - REPEAT_GAP)) if n >= 2 * REPEAT_GAP else range(n)
    drawn = sorted(early, key=lambda place: _luck(study, rater, "repeat", base[place].key))
    for place in drawn[: math.ceil(study.repeats * n)]:
        task = base[place]
        earliest = min(place + REPEAT_GAP, n)
        where = earliest + _share(study, rater, "place", task.key) * (n - earliest)
        placed.append((where + 0.5, Task(task.item, task.shown[::-1], "repeat")))
    gold = sorted(study.gold, key=lambda item: _luck(study, rater, "gold", item.id))
    for item in gold[: math.ceil(study.gold_share * n)]:
        where = _share(study, rater, "place", item.id) * n
        placed.append((where, Task(item.id, _order(study, rater, item.id, GOLD_OUTPUTS), "gold")))
    return tuple(task for _, task in sorted(placed, key=lambda pair: pair[0]))


def identical(study: Study) -> list[Task]:
    """Return the pairs whose outputs are the same: automatic ties, which nobody is shown; none but for "pairwise"."""
    return [task for task in _pairs(study) if _same(study, task)]


def _base(study: Study, rater: str) -> Iterator[Task]:
    if study.design == "likert":
        for item in study.items:
            yield from (Task(item.id, (condition,)) for condition in study.conditions)
    elif study.design == "best_of":
        for item in study.items:
            yield Task(item.id, _order(study, rater, item.id, study.conditions))
    else:
        for task in _pairs(study):
            if not _same(study, task):
                yield Task(task.item, _order(study, rater, task.item, task.shown))


def _pairs(study: Study) -> Iterator[Task]:
    if study.design == "pairwise":
        for item in study.items:
            yield from (Task(item.id, pair) for pair in combinations(study.conditions, 2))


def _same(study: Study, task: Task) -> bool:
    outputs = study.by_id[task.item].outputs
    return len({outputs[condition].id for condition in task.shown}) == 1


def _order(study: Study, rater: str, item: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names in an order drawn for this rater and item; for two of them, sides of a coin."""
    pair = "|".join(sorted(names))
    return tuple(sorted(names, key=lambda name: _luck(study, rater, "side", f"{item}|{pair}|{name}")))


def _luck(study: Study, rater: str, purpose: str, what: str) -> bytes:
    return hashlib.sha256(f"{study.seed}\n{study.name}\n{rater}\n{purpose}\n{what}".encode()).digest()


def _share(study: Study, rater: str, purpose: str, what: str) -> float:
    return int.from_bytes(_luck(study, rater, purpose, what)[:6]) / 2**48

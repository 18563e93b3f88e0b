"""The state of a study's decision while people vote, told so that it unblinds nobody."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Generic, TypeVar

import numpy as np

from kit.humaneval.sequential import Evidence, evidence
from kit.humaneval.store import Store
from kit.humaneval.study import Study
from kit.humaneval.table import VoteTable

# The state is told every five items: were it told after each, a rater would see which letter the last answer helped.
STEP = 5
T = TypeVar("T")
SHARE = 0.05  # of the time, at most, goes into reading the votes again


@dataclass(eq=False)
class Seldom(Generic[T]):
    """A value that is read anew when the latest reading is long enough ago to make reading a twentieth of the time.

    Args:
        read: Reads it.
    """

    read: Callable[[], T]
    _value: T | None = field(default=None, init=False)
    _next_s: float = field(default=-math.inf, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def value(self) -> T:
        """Return it; whatever reading raises is raised here."""
        with self._lock:
            start_s = time.monotonic()
            if self._value is None or start_s >= self._next_s:
                self._value = self.read()
                now_s = time.monotonic()
                self._next_s = now_s + (now_s - start_s) / SHARE
            return self._value


@dataclass(eq=False)
class LiveDecision:
    """Says who is ahead, under letters; one of it can serve many sessions.

    Args:
        study: A registered study.
        store: Its store.
    """

    study: Study
    store: Store
    _text: Seldom[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._text = Seldom(self._read)

    def text(self) -> str:
        """Return a sentence such as ``A ahead, about 23 more votes likely``; empty where pairs are not compared.

        Raises:
            StoreError: the database did not answer.
        """
        if self.study.design == "likert":
            return ""
        import scipy.special  # noqa: F401 - takes a second when first imported, which is not reading

        return self._text.value()

    def _read(self) -> str:
        votes, letter = self.store.table(self.study.name).comparisons(), letters(self.study)
        pairs = list(combinations(self.study.conditions, 2))
        found = []
        for first, second in pairs:
            different = sum(item.outputs[first].id != item.outputs[second].id for item in self.study.items)
            # The study ends with its items, if not before.
            most = max(1, min(self.study.stop.max_votes, different))
            kept = _whole_steps(votes, first, second, most=most)
            one = evidence(kept, first, second, stop=replace(self.study.stop, max_votes=most), pairs=len(pairs))
            found.append(replace(one, first=letter[first], second=letter[second]))
        return _told(found)


def letters(study: Study) -> dict[str, str]:
    """Return a neutral letter for each condition: drawn from the seed, whatever names and sides are."""
    drawn = sorted(
        study.conditions, key=lambda name: hashlib.sha256(f"{study.digest}\nletter\n{name}".encode()).digest()
    )
    return {name: _letter(place) for place, name in enumerate(drawn)}


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else f"{chr(ord('A') + place % 26)}{place // 26}"


def _whole_steps(votes: VoteTable, first: str, second: str, *, most: int) -> VoteTable:
    """Return the votes up to the last whole step of items on which two conditions were compared."""
    one, other = votes.models.index(first), votes.models.index(second)
    rows = np.flatnonzero(
        ((votes.left == one) & (votes.right == other)) | ((votes.left == other) & (votes.right == one))
    )
    _, begin = np.unique(votes.item[rows], return_index=True)
    whole = len(begin) - len(begin) % STEP
    if len(begin) >= most or whole == len(begin):
        return votes
    return votes.only(np.arange(len(votes)) < rows[np.sort(begin)[whole]])


def _told(found: Sequence[Evidence]) -> str:
    """Return the state of all pairs in one sentence: of several, how many are decided and the nearest one."""
    if not any(one.wins + one.losses + one.ties for one in found):
        return "too early to tell"
    if len(found) == 1:
        return found[0].to_text()
    open_pairs = [one for one in found if one.verdict == "undecided"]
    told = f"{len(found) - len(open_pairs)} of {len(found)} pairs decided"
    near = min(open_pairs, key=lambda one: math.inf if one.likely_left is None else one.likely_left, default=None)
    return (
        told
        if near is None or near.likely_left is None
        else f"{told}; {near.first} and {near.second}: {near.to_text()}"
    )

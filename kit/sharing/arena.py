"""A study among friends: who asks, what they are told, and what they may not know. Nothing here speaks HTTP."""

from __future__ import annotations

import base64
import threading
import time
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from kit.humaneval.media import Media
from kit.humaneval.overview import overview
from kit.humaneval.pages import ELSEWHERE, Page, State
from kit.humaneval.pairing import PairChoice
from kit.humaneval.schedule import Task, tasks_of
from kit.humaneval.session import Session
from kit.humaneval.store import Store
from kit.humaneval.study import Study
from kit.sharing.drawn import Drawn
from kit.sharing.tokens import Tokens, tokens_of

WINDOWS = 6  # open windows of one rater; one more, and the longest unused is forgotten (its leases run out)
ROUNDS = 300  # bootstrap rounds of the live leaderboard: enough to look at, 1,000 are in ``kit study rank``
FRESH_S = 4.0  # how old the leaderboard may be; one computation serves all who look
SHARE = 0.1  # of the time, at most, goes into computing it


@dataclass(frozen=True)
class Told:
    """What a rater's browser is told.

    Args:
        view: JSON values.
        stored: Whether what was sent is in the store, or was refused for good: the browser need not keep it.
    """

    view: dict[str, Any]
    stored: bool


@dataclass(eq=False)
class Arena:
    """One study that raters are invited to.

    Args:
        study: The study; it is registered.
        store: Where its votes go.
        raters: Who is invited, some of the study's raters; all of them by default.

    Raises:
        StudyError: the study changed after its first vote, or somebody invited is none of its raters.
        StoreError: the database does not answer, or the secret cannot be kept.
    """

    study: Study
    store: Store
    raters: tuple[str, ...] = ()
    tokens: Tokens = field(init=False)
    _sessions: dict[str, OrderedDict[str, Session]] = field(default_factory=dict, init=False, repr=False)
    _schedules: dict[str, tuple[Task, ...]] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _board: _Board = field(init=False, repr=False)
    _pairs: PairChoice = field(init=False, repr=False)
    _drawn: Drawn = field(default_factory=Drawn, init=False, repr=False)
    _closed: threading.Event = field(default_factory=threading.Event, init=False, repr=False)

    def __post_init__(self) -> None:
        self.raters = self.raters or self.study.raters
        check_invited(self.study, self.raters)
        self.store.register(self.study)
        self.tokens = tokens_of(self.store, self.study.name, self.raters)
        self._board = _Board(self)
        self._pairs = PairChoice(self.study, self.store)

    def form(self, rater: str) -> dict[str, Any]:
        """Return what every page has in common, and whom it greets."""
        rubric = {name: list(labels) for name, labels in self.study.rubric.items()}
        form = {"question": self.study.question, "design": self.study.design, "rubric": rubric}
        return {"rater": rater, "study": self.study.digest[:16], **form}

    def state(self, rater: str, window: str, have: Collection[str]) -> Told:
        """Return where a rater stands, with the pages to show now and next.

        Args:
            rater: Who asks.
            window: Which of the rater's windows, by a name that it made up.
            have: Tokens of pages that it holds already, which are not sent again.
        """
        session = self._session(rater, window)
        return self._told(session, session.state(), have)

    def answer(self, rater: str, window: str, have: Collection[str], vote: Mapping[str, Any]) -> Told:
        """Write an answer; when ``Told.stored``, its row is committed or was refused for good.

        Raises:
            StudyError: no answer of this design, no UUID, or no page of this rater.
        """
        session = self._session(rater, window)
        answer = vote["answer"]
        return self._told(session, session.answer(vote["page"], answer, uuid=vote["uuid"], ms=vote.get("ms", 0)), have)

    def undo(self, rater: str, window: str, have: Collection[str], undo: Mapping[str, Any]) -> Told:
        """Take back the answer that is named, or the rater's latest one; its page comes again."""
        session = self._session(rater, window)
        return self._told(session, session.undo(uuid=undo["uuid"], undoes=undo.get("undoes", "")), have)

    def leaderboard(self) -> dict[str, Any]:
        """Return what the owner sees: all that the votes say, and how far each rater is."""
        return self._board.read()

    def warm(self) -> None:
        """Draw pages ahead, in a thread of its own, so that the first friends do not wait for it."""
        tasks = tasks_of(self.study, self.raters[0])
        threading.Thread(target=self._drawn.warm, args=(self.study, tasks, self._closed), daemon=True).start()

    def close(self) -> None:
        """Give back what all windows hold."""
        self._closed.set()
        with self._lock:
            windows = [session for of_rater in self._sessions.values() for session in of_rater.values()]
            self._sessions.clear()
        for session in windows:
            session.release()

    def progress(self, rater: str) -> tuple[int, int]:
        """Return how many tasks a rater has answered, and how many are to come."""
        if rater not in self._schedules:
            self._schedules[rater] = tasks_of(self.study, rater)
        return self.store.progress(self.study, rater, tasks=self._schedules[rater])

    def _session(self, rater: str, window: str) -> Session:
        with self._lock:
            windows = self._sessions.setdefault(rater, OrderedDict())
            if window not in windows:
                holder = self.tokens.holder(rater, window)
                # Without the live decision, which may sway whoever reads it: how things stand is for the owner.
                windows[window] = Session(
                    self.study, self.store, rater, holder, client="page", pairs=self._pairs, page_of=self._drawn.page
                )  # fmt: skip
                while len(windows) > WINDOWS:
                    windows.popitem(last=False)
            windows.move_to_end(window)
            return windows[window]

    def _told(self, session: Session, state: State, have: Collection[str]) -> Told:
        pages = [state.page] if state.page is not None else []
        if state.status == "asking" and (after := session.prefetch()) is not None:
            pages.append(after)
        view: dict[str, Any] = {
            "status": state.status, "queue": [page.token for page in pages],
            "pages": {page.token: _page(page) for page in pages if page.token not in have},
            "done": state.done, "left": state.left, "left_s": state.left_s,
            "message": state.message, "last": state.last, "refused": state.message == ELSEWHERE,
        }  # fmt: skip
        return Told(view, state.status not in {"unsaved", "away"})


def check_invited(study: Study, raters: Collection[str]) -> None:
    """Look that everybody invited is one of a study's raters.

    Raises:
        StudyError: names all who are not.
    """
    from kit.errors import Fault, did_you_mean, listed, raise_faults
    from kit.humaneval.errors import StudyError

    fix = f"add the name to raters in {study.source}, before the first vote"
    allowed = f"Raters: {listed(study.raters)}."
    strangers = [name for name in dict.fromkeys(raters) if name not in study.raters]
    faults = [
        Fault("--raters", f"{name!r} is no rater of this study.{did_you_mean(name, study.raters)}", fix, allowed)
        for name in strangers
    ]
    raise_faults(faults, StudyError)


@dataclass(eq=False)
class _Board:
    """The leaderboard, computed at most every few seconds whoever looks."""

    arena: Arena
    _value: dict[str, Any] = field(default_factory=dict, init=False)
    _next_s: float = field(default=0.0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def read(self) -> dict[str, Any]:
        # While it is made anew, who looks gets the former one: waiting would take the threads that votes come in by.
        if not self._lock.acquire(blocking=not self._value):
            return self._value
        try:
            begun_s = time.monotonic()
            if begun_s >= self._next_s:
                arena = self.arena
                progress = {rater: arena.progress(rater) for rater in arena.raters}
                value = overview(arena.store, arena.study.name, rounds=ROUNDS).to_json()
                now_s = time.monotonic()
                # The first time imports scipy, which takes a second or two once: the owner would wait ten times that.
                took_s = now_s - begun_s if self._value else 0.0
                self._value = {**value, "progress": progress}
                self._next_s = now_s + max(FRESH_S, took_s / SHARE)
            return self._value
        finally:
            self._lock.release()


def _page(page: Page) -> dict[str, Any]:
    return {"prompt": [_media(one) for one in page.prompt], "answers": [_media(one) for one in page.answers]}


def _media(one: Media) -> dict[str, str]:
    """Return a thing to see as JSON: whole, so that a page that is there can be shown without a connection.

    A data URL has no name that could tell something, and needs no second request that would carry a token.
    """
    if one.kind == "text":
        return {"kind": "text", "text": one.text}
    return {"kind": one.kind, "src": f"data:{one.media_type};base64,{base64.b64encode(one.content).decode()}"}

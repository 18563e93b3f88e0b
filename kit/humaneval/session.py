"""One rater's sitting at one study, whatever it is shown with: what comes next, blind, and one committed row each."""

from __future__ import annotations

import json
import statistics
import threading
import time
import uuid as uuids
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from kit.errors import did_you_mean, raise_faults
from kit.humaneval.errors import StoreError, StudyError
from kit.humaneval.live import LiveDecision
from kit.humaneval.pages import AWAY, ELSEWHERE, KEPT, NOTHING_TO_UNDO, Form, Page, PageMaker, State, token_of
from kit.humaneval.pairing import PairChoice
from kit.humaneval.raters import SLOWEST_MS
from kit.humaneval.schedule import Task, tasks_of
from kit.humaneval.store import LEASE_S, Store
from kit.humaneval.study import Study
from kit.humaneval.votes import UNDO, Vote, answer_fault, uuid_fault

LONGEST_MS = 86_400_000  # a day; a clock that was set says more
REMEMBERED = 50  # latest votes whose seconds tell how long the rest will take


@dataclass(frozen=True)
class _Open:
    """A task that this window holds, and since when by ``time.monotonic``."""

    task: Task
    page: Page
    leased_s: float


@dataclass(frozen=True)
class _Unsaved:
    """What is to be written: a vote, or the taking back of an earlier one."""

    uuid: str
    vote: Vote | None = None
    undoes: tuple[str, Task] | None = None


@dataclass(eq=False)
class Session:
    """One rater in front of one study, in one window; may be called from several threads.

    Args:
        study: A study that is registered in the store.
        store: Where the votes go.
        rater: One of the study's raters.
        holder: A name for this window, unique among the open ones. Who comes back under it gets what it held, and the
            same tokens, so where pages are served to others it should be a secret.
        client: What the rows say where they come from: "widget", "page".
        live: Says who is ahead; may be shared by all sessions of a study. None to say nothing.
        lease_s: Seconds until what this window holds may go to another one; calls of ``state`` renew them.
        pairs: Says which pairs come next in a study that wants it; may be shared, too. Made here if None.
        page_of: Makes a task's page; who serves many raters hands in one that keeps what was drawn.

    Raises:
        StudyError: no such rater.
    """

    study: Study
    store: Store
    rater: str
    holder: str
    client: str = "widget"
    live: LiveDecision | None = None
    lease_s: float = LEASE_S
    pairs: PairChoice | None = None
    page_of: PageMaker = Page.of
    _tasks: tuple[Task, ...] = field(default=(), init=False, repr=False)
    _tokens: dict[str, Task] = field(default_factory=dict, init=False, repr=False)
    _open: deque[_Open] = field(default_factory=deque, init=False, repr=False)
    _unsaved: _Unsaved | None = field(default=None, init=False, repr=False)
    _history: list[tuple[str, Task]] | None = field(default=None, init=False, repr=False)
    _again: Task | None = field(default=None, init=False, repr=False)  # was taken back and is to be shown again
    _said: str = field(default="", init=False, repr=False)  # what the rater is to know of the latest answer
    _sent: set[str] = field(default_factory=set, init=False, repr=False)
    _taken_ms: deque[int] = field(default_factory=lambda: deque(maxlen=REMEMBERED), init=False, repr=False)
    _progress: tuple[int, int] = field(default=(0, 0), init=False, repr=False)
    decision: str = field(default="", init=False)  # as of the latest ``prefetch``
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.rater not in self.study.raters:
            what = f"no such rater: {self.rater!r}.{did_you_mean(self.rater, self.study.raters)}"
            raise StudyError.of("session", what, "name all raters before the first vote")
        self.pairs = self.pairs or PairChoice(self.study, self.store)
        self._tasks = tasks_of(self.study, self.rater)
        self._tokens = {self._token(task): task for task in self._tasks}

    @property
    def form(self) -> Form:
        """What every page has in common."""
        return Form.of(self.study)

    def state(self, message: str = "") -> State:
        """Return where the sitting stands, drawing what comes next if nothing is shown.

        Raises:
            DataError: a picture cannot be opened, or a sound cannot be read.
            StudyError: the study is not the registered one.
        """
        with self._lock:
            if self._unsaved is not None:
                return self._state("unsaved", KEPT)
            try:
                self._begin()
                self._draw(1)
                self._progress = self.store.progress(self.study, self.rater, tasks=self._tasks)
            except StoreError:
                return self._state("asking" if self._open else "away", message if self._open else AWAY)
            if self._open:
                return self._state("asking", message)
            return self._state("waiting" if self._progress[1] else "finished", message)

    def prefetch(self) -> Page | None:
        """Return what will be shown after the present page, leased ahead; None when there is nothing, or no database.

        Call it when the present page is on the screen: it also reads the state of the decision anew.

        Raises:
            DataError: a picture cannot be opened, or a sound cannot be read.
            StudyError: the study is not the registered one.
        """
        with self._lock:
            try:
                if self._unsaved is None and self._open:
                    self._draw(2)
                self.decision = self.live.text() if self.live is not None else ""
            except StoreError:
                return None
            return self._open[1].page if len(self._open) > 1 else None

    def answer(
        self, token: str, answer: str | Sequence[int] | Mapping[str, int], *, uuid: str = "", ms: float = 0
    ) -> State:
        """Write an answer and return what comes next; the row is committed unless the status says "unsaved".

        Args:
            token: The page's.
            answer: "left", "right", "tie" or "both_bad"; for a rubric points by criterion; for a ranking places, best
                first; "skip" in each design.
            uuid: Made by the client for this answer and sent again with it, so that it counts once; made here if empty.
            ms: Milliseconds from the page's being visible to the answer, by the client's clock.

        Raises:
            DataError: the next picture or sound cannot be opened; the answer is committed.
            StudyError: no answer of this design, or no page of this rater.
        """
        with self._lock:
            vote = self._vote(token, answer, uuid=uuid or str(uuids.uuid4()), ms=ms)
            if not self._written():  # an earlier one goes first
                return self._state("unsaved", KEPT)
            if vote.uuid in self._sent:
                return self.state()
            self._unsaved = _Unsaved(vote.uuid, vote=vote)
            return self.retry()

    def undo(self, *, uuid: str = "", undoes: str = "") -> State:
        """Take an answer back by another row, and show its page again.

        Args:
            uuid: Made by the client for this and sent again with it, so that it counts once; made here if empty.
            undoes: Which answer, by its id (``State.last``), however late this arrives; the latest one if empty.
        """
        with self._lock:
            if not self._written():
                return self._state("unsaved", KEPT)
            try:
                history = self._begin()  # and what was sent before this sitting
            except StoreError:
                return self.state()
            if uuid in self._sent:
                return self.state()
            named = [one for one in history if one[0] == undoes] if undoes else history
            if not named:
                return self.state(NOTHING_TO_UNDO)
            self._unsaved = _Unsaved(uuid or str(uuids.uuid4()), undoes=named[-1])
            return self.retry()

    def retry(self) -> State:
        """Write what could not be written, if there is something, and return where the sitting stands."""
        with self._lock:
            if not self._written():
                return self._state("unsaved", KEPT)
            return self.state(self._said)

    def release(self) -> None:
        """Give back what this window holds, as when it is closed; a database that does not answer is no matter."""
        with self._lock:
            self._open.clear()
            try:
                self.store.release(self.study, self.holder)
            except (StoreError, StudyError):
                return

    def _token(self, task: Task) -> str:
        return token_of(self.study, task, rater=self.rater, holder=self.holder)

    def _vote(self, token: str, answer: str | Sequence[int] | Mapping[str, int], *, uuid: str, ms: float) -> Vote:
        task = self._tokens.get(token)
        if task is None:
            raise StudyError.of("vote", "this is no page of this rater", "answer the page that is shown")
        text = answer if isinstance(answer, str) else json.dumps(answer)
        taken = round(min(max(ms, 0), LONGEST_MS))
        vote = Vote.on(self.study, task, rater=self.rater, answer=text, uuid=uuid, ms=taken, client=self.client)
        raise_faults([fault for fault in (uuid_fault(vote), answer_fault(self.study, vote)) if fault], StudyError)
        return vote

    def _written(self) -> bool:
        """Write what is not yet written; tell whether nothing is left to write."""
        self._said = ""
        if (kept := self._unsaved) is None:
            return True
        try:
            if kept.vote is not None:
                self.store.record(self.study, kept.vote)
            elif kept.undoes is not None:
                name, client = kept.undoes[0], self.client
                self.store.undo(self.study, rater=self.rater, undoes=name, uuid=kept.uuid, client=client)
        except StoreError:
            return False
        except StudyError:  # answered, or taken back, in another window; its text would name conditions
            self._said = ELSEWHERE
        self._unsaved = None
        self._sent.add(kept.uuid)
        self._remember(kept)
        return True

    def _remember(self, kept: _Unsaved) -> None:
        """Bring what this window knows up to date with what was written."""
        history = self._history if self._history is not None else []
        if kept.vote is not None:
            task = kept.vote.task
            self._open = deque(one for one in self._open if one.task != task)
            if not self._said:
                history.append((kept.uuid, task))
                self._taken_ms.extend([kept.vote.ms] if 0 < kept.vote.ms < SLOWEST_MS else [])
        elif kept.undoes is not None:
            history.remove(kept.undoes)
            if not self._said:
                self._again = kept.undoes[1]

    def _begin(self) -> list[tuple[str, Task]]:
        """Return the rater's votes with their tasks, oldest first, those from before this sitting included."""
        if self._history is None:
            every = list(self.store.votes(self.study.name, rater=self.rater, every=True))
            self._sent.update(vote.uuid for vote in every)
            undone = {vote.undoes for vote in every}
            before = [vote for vote in every if vote.kind != UNDO and vote.uuid not in undone]
            self._history = [(vote.uuid, vote.task) for vote in before]
            self._taken_ms.extend(vote.ms for vote in before if 0 < vote.ms < SLOWEST_MS)
        return self._history

    def _draw(self, depth: int) -> None:
        """Hold as many tasks as ``depth``, as far as there are; what was taken back first, what is held renewed."""
        if (again := self._again) is not None:
            if found := self._lease([again]):
                self._open.appendleft(found)
            self._again = None
        now_s, held = time.monotonic(), deque[_Open]()
        for one in self._open:
            if now_s - one.leased_s < self.lease_s / 2:
                held.append(one)
            elif self._lease([one.task]) is not None:
                held.append(replace(one, leased_s=now_s))
        self._open = held
        if len(held) < depth and self.pairs is not None:
            self._tasks = self.pairs.order(self._tasks, self.rater, [task for _, task in self._history or ()])
        while len(self._open) < depth:
            mine = {one.task.key for one in self._open}
            found = self._lease([task for task in self._tasks if task.key not in mine])
            if found is None:
                return
            self._open.append(found)

    def _lease(self, tasks: Sequence[Task]) -> _Open | None:
        """Lease the best of these tasks, if one is to be had."""
        now_s = time.monotonic()
        task = self.store.hand_out(self.study, self.rater, holder=self.holder, tasks=tasks, lease_s=self.lease_s)
        if task is None:
            return None
        token = self._token(task)
        self._tokens[token] = task
        return _Open(task, self.page_of(self.study, task, token=token), now_s)

    def _state(self, status: str, message: str = "") -> State:
        done, left = self._progress
        left_s = left * statistics.median(self._taken_ms) / 1000 if len(self._taken_ms) > 2 else None
        page, last = self._open[0].page if self._open else None, self._history[-1][0] if self._history else ""
        return State(status, page, done, left, left_s, self.decision, message, last)

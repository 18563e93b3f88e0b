"""Pages drawn once for all raters: to draw two pictures of 512 x 512 anew takes a tenth of a second, each time."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from kit.errors import KitError
from kit.humaneval.media import Media
from kit.humaneval.pages import Page
from kit.humaneval.schedule import Task
from kit.humaneval.study import Study

KEPT_BYTES = 256 * 2**20


@dataclass(frozen=True)
class _Kept:
    """What a page shows, whatever the sides."""

    prompt: tuple[Media, ...]
    answers: Mapping[str, Media]

    @property
    def size_bytes(self) -> int:
        return sum(len(one.content) + len(one.text) for one in (*self.prompt, *self.answers.values()))


@dataclass(eq=False)
class Drawn:
    """Makes a study's pages, and keeps what they show as long as there is room.

    Args:
        most_bytes: Room for pictures and sounds; the longest unused go first.
    """

    most_bytes: int = KEPT_BYTES
    _kept: OrderedDict[tuple[str, ...], _Kept] = field(default_factory=OrderedDict, init=False, repr=False)
    _size_bytes: int = field(default=0, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _drawing: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def page(self, study: Study, task: Task, *, token: str) -> Page:
        """Return a task's page.

        Raises:
            DataError: a picture cannot be opened, or a sound cannot be read.
        """
        key = (task.item, *sorted(task.shown))
        if (found := self._find(key)) is None:
            with self._drawing:  # one at a time: who waits here most likely waits for this very page
                if (found := self._find(key)) is None:
                    page = Page.of(study, task, token=token)
                    found = _Kept(page.prompt, dict(zip(task.shown, page.answers, strict=True)))
                    self._keep(key, found)
        return Page(token, found.prompt, tuple(found.answers[name] for name in task.shown))

    def warm(self, study: Study, tasks: tuple[Task, ...], stop: threading.Event) -> None:
        """Draw pages ahead until there is no more room; for a thread of its own."""
        for task in tasks:
            if stop.is_set() or self._size_bytes > 0.8 * self.most_bytes:
                return
            with contextlib.suppress(KitError):  # whoever comes to that page is told
                self.page(study, task, token="")

    def _find(self, key: tuple[str, ...]) -> _Kept | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: tuple[str, ...], found: _Kept) -> None:
        with self._lock:
            self._kept[key] = found
            self._size_bytes += found.size_bytes
            while self._size_bytes > self.most_bytes and len(self._kept) > 1:
                _, old = self._kept.popitem(last=False)
                self._size_bytes -= old.size_bytes

"""Who is being answered, so that a visitor can end an answer, and know that nothing of it comes any more."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(eq=False)
class _Turn:
    unwanted: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)


@dataclass(eq=False)
class Turns:
    """The answers that are being given, by visitor."""

    _open: dict[str, list[_Turn]] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @contextmanager
    def turn(self, visitor: str) -> Iterator[threading.Event]:
        """Answer a visitor; the event is set once the answer is unwanted."""
        mine = _Turn()
        with self._lock:
            self._open.setdefault(visitor, []).append(mine)
        try:
            yield mine.unwanted
        finally:
            with self._lock:
                left = [one for one in self._open.pop(visitor) if one is not mine]
                if left:
                    self._open[visitor] = left
            mine.over.set()

    def end(self, visitor: str, *, patience_s: float) -> bool:
        """End what is being answered to a visitor, and return once nothing more is said.

        Args:
            visitor: Who does not want it any more.
            patience_s: How long to wait for the end, which comes with the next word.

        Returns:
            Whether it is over.
        """
        with self._lock:
            mine = list(self._open.get(visitor, ()))
        for one in mine:
            one.unwanted.set()
        return all(one.over.wait(patience_s) for one in mine)

"""How often somebody may ask: a bucket of tokens that refills, for each rater and for all strangers together."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(eq=False)
class Limit:
    """A limit on how often each name may ask.

    Args:
        per_s: Requests a second, in the long run.
        burst: Requests at once, as when a phone comes back and sends what it kept.
        clock: Seconds.
    """

    per_s: float
    burst: int
    clock: Callable[[], float] = time.monotonic
    _buckets: dict[str, tuple[float, float]] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def wait_s(self, name: str) -> float:
        """Count a request; return 0 when it may go on, else the seconds to wait."""
        with self._lock:
            now = self.clock()
            left, last = self._buckets.get(name, (float(self.burst), now))
            left = min(float(self.burst), left + (now - last) * self.per_s)
            allowed = left >= 1
            self._buckets[name] = (left - allowed, now)
            return 0.0 if allowed else (1 - left) / self.per_s

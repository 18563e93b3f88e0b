"""What a kernel costs: wall seconds and peak memory of its whole process tree; and the limit that ends it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

EVERY_S = 0.1  # sampling costs about 0.3 ms for a tree of three processes


@dataclass(frozen=True)
class Cost:
    """What a run cost.

    Args:
        wall_s: Seconds from the kernel's start to its end; in a run's record, pulling its parts is added.
        peak_rss_gib: Largest resident memory of the kernel and all its children together, in GiB (2**30 bytes).
        cold: Why the kernel was a cold one; empty for a warm one.
    """

    wall_s: float
    peak_rss_gib: float
    cold: str = "no preloaded process was there"


class Watch:
    """A thread that samples a process tree's memory and calls ``on_limit`` once when the time is up.

    Sampling alone misses a short peak, so the kernel process's own high-water mark (VmHWM, Linux) counts too.
    Pages that processes of the tree share are counted once for each.

    Args:
        pid: The root of the tree.
        limit_s: Seconds after which ``on_limit`` is called.
        on_limit: What to do then; called in the watch's thread.
        limit_gib: Resident memory of the whole tree, in GiB, above which it is called too; None for no such limit.
    """

    def __init__(
        self, pid: int, *, limit_s: float, on_limit: Callable[[], None], limit_gib: float | None = None
    ) -> None:
        self._pid = pid
        self._limit_s = limit_s
        self._limit_bytes = math.inf if limit_gib is None else limit_gib * 2**30
        self._on_limit = on_limit
        self._peak_bytes = 0
        self._begun = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="kit-watch", daemon=True)
        self.exceeded = ""

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def cost(self) -> Cost:
        """Return the cost until now, with one last look at the processes."""
        self._sample()
        return Cost(round(time.monotonic() - self._begun, 3), round(self._peak_bytes / 2**30, 4))

    def _loop(self) -> None:
        while not self._ended.wait(EVERY_S):
            now_bytes = self._sample()
            if time.monotonic() - self._begun > self._limit_s:
                self.exceeded = f"did not end within its limit of {self._limit_s:g} s"
            elif now_bytes > self._limit_bytes:
                self.exceeded = (
                    f"took {now_bytes / 2**30:.2f} GiB, more than its limit of {self._limit_bytes / 2**30:g}"
                )
            if self.exceeded:
                self._on_limit()
                return

    def _sample(self) -> int:
        now_bytes = tree_rss(self._pid)
        self._peak_bytes = max(self._peak_bytes, now_bytes, _high_water(self._pid))
        return now_bytes


def tree_rss(pid: int) -> int:
    """Return the resident bytes of a process and all its descendants; 0 when it is gone."""
    import psutil

    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.Error:  # it ended between the listing and the look
            continue
    return total


def _high_water(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0

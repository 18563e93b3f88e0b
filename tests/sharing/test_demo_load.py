"""A hundred visitors at once: no crash, memory flat, and everybody is answered or told to wait."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import psutil
import pytest
from free_ports import free_port
from test_demo_hostile import Visitor

from kit.adapters.bundle import Bundle

VISITORS = 100
PAUSE_S = 1.0  # between an answer and the next question
LONG_S = float(os.environ.get("KIT_SOAK_S", "600"))
WORDS = ("a red thing", "noise", "something to drink", "thing number 3", "grün", "🙂")


@pytest.mark.soak
def test_a_hundred_visitors(tiny_clip: Bundle, tmp_path: Path) -> None:
    port = free_port()
    code = "from kit.cli import main; main()"
    words = [sys.executable, "-c", code, "demo", str(tiny_clip.folder), "--port", str(port)]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(words, stdout=log, stderr=log) as server:
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(address, server)
            outcomes, seconds, sizes = visited(address, server.pid)
            assert server.poll() is None, "it crashed"
        finally:
            server.terminate()
    total = sum(outcomes.values())
    print(f"{total} questions in {LONG_S:.0f} s: {dict(outcomes)}; median {statistics.median(seconds):.2f} s")
    print(f"memory in MB, a minute apart at most: {[round(size) for size in sizes]}")
    assert set(outcomes) <= {"complete", "told to wait"}, outcomes
    assert outcomes["complete"] > 0.5 * total
    assert "Traceback" not in (tmp_path / "log").read_text()
    # From the second fifth on, when caches are filled.
    assert sizes[-1] < 1.15 * sizes[len(sizes) // 5], sizes


def wait_for(address: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            assert server.poll() is None
            time.sleep(0.1)
    pytest.fail("it did not start")


def visited(address: str, pid: int) -> tuple[Counter[str], list[float], list[float]]:
    """Let all visitors ask until the time is over; return what they got, how long it took, and the server's memory."""
    until, outcomes, seconds = time.monotonic() + LONG_S, Counter[str](), []

    def visitor(number: int) -> None:
        one = Visitor(address)
        while time.monotonic() < until:
            begun = time.monotonic()
            try:
                said = one.call("search", WORDS[number % len(WORDS)], "en", bool(number % 2), 12)
            except urllib.error.HTTPError as error:
                said = f"HTTP {error.code}"
            seconds.append(time.monotonic() - begun)
            outcomes["told to wait" if "Queue is full" in said else said[:80]] += 1
            time.sleep(PAUSE_S)

    threads = [threading.Thread(target=visitor, args=(number,)) for number in range(VISITORS)]
    for thread in threads:
        thread.start()
    sizes = []
    while time.monotonic() < until:
        sizes.append(psutil.Process(pid).memory_info().rss / 1e6)
        time.sleep(min(60.0, LONG_S / 10))
    for thread in threads:
        thread.join(90)
    return outcomes, seconds, sizes

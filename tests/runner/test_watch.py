"""Memory of a process tree, and the limit."""

from __future__ import annotations

import subprocess
import sys
import threading

from kit.runner.watch import Watch, tree_rss


def test_children_count_and_the_limit_is_called_once() -> None:
    child = "x = bytearray(b'x') * (200 * 2**20); print(1, flush=True); input()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"1\n"
    reached = threading.Event()
    try:
        with Watch(parent.pid, limit_s=0.2, on_limit=reached.set) as watch:
            assert reached.wait(60)
            assert watch.exceeded == "did not end within its limit of 0.2 s"
            assert 0.2 < watch.cost().peak_rss_gib < 0.5
    finally:
        parent.communicate(b"\n")
    assert tree_rss(parent.pid) == 0

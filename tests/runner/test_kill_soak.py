"""A hundred kills at random moments of a run: never a half run under a run's name, and always the same numbers."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import psutil
import pytest

from kit.runner.history import history
from kit.runner.library import find
from kit.runner.plan import make_plan
from kit.runner.run import run
from kit.runner.warm_owner import can_fork, warm_kernels

KILLS = 100
LIGHT = ("ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "numpy")
FILES = ["executed.ipynb", "report.html", "result.json", "ro-crate-metadata.json", "run.json"]

pytestmark = [pytest.mark.soak, pytest.mark.skipif(not can_fork(), reason="only Linux forks safely")]


def test_no_kill_leaves_half_a_run(notebooks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KIT_WARM", raising=False)
    target = str(notebooks / "result.ipynb")
    plan = make_plan(find(target), target=target, given={"value": 0.75})
    draw = random.Random(0)
    with warm_kernels(preload=LIGHT):
        begun = time.monotonic()
        wanted = run(plan, out=tmp_path / "uninterrupted").result
        whole_s = time.monotonic() - begun
        ended = {"killed": 0, "finished": 0}
        for _ in range(KILLS):
            ended[forced_and_killed(plan, tmp_path / "runs", draw.uniform(0, whole_s))] += 1
            for folder in (tmp_path / "runs" / "result").glob("[!.]*"):
                assert sorted(path.name for path in folder.iterdir()) == FILES
                assert all(json.loads((folder / name).read_text()) for name in FILES if name != "report.html")
            after = run(plan, out=tmp_path / "runs")
            assert after.result == wanted
            assert [past.digest for past in history(tmp_path / "runs")] == [plan.digest]
        print(f"{ended['killed']} killed in the middle, {ended['finished']} had ended")
        assert ended["killed"] > KILLS / 2
        wait_until_only_servers_live()
    left = [path.name for path in (tmp_path / "runs" / "result").iterdir() if path.name.startswith(".")]
    assert len(left) <= 2, left  # what the last kill left, and its journal, which the next fresh run sweeps


def forced_and_killed(plan: object, out: Path, after_s: float) -> str:
    """Run again in a fork of this process and kill it so many seconds later; return how it ended."""
    pid = os.fork()
    if not pid:
        try:
            run(plan, out=out, force=True)  # type: ignore[arg-type]
        finally:
            os._exit(0)
    time.sleep(after_s)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return "killed" if os.WIFSIGNALED(status) else "finished"


def wait_until_only_servers_live() -> None:
    """Wait for the preloaded process to have no kernel left."""
    end = time.monotonic() + 30
    while any(server.children() for server in psutil.Process().children()):
        assert time.monotonic() < end
        time.sleep(0.1)

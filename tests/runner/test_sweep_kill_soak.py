"""A hundred kills at random moments of a sweep, of its driver or a kernel: no finished trial lost, the same table."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from test_kill_soak import FILES, LIGHT, wait_until_only_servers_live

from kit.runner.history import history
from kit.runner.library import find
from kit.runner.plan import make_plan
from kit.runner.sweep import carry_out, ranked
from kit.runner.warm_owner import can_fork, warm_kernels

KILLS = 100
RANKS = (1, 2, 3, 4)
PARAMETERS = "rank: int = 4  # rank\nseed: int = 0  # seed"
BODY = """
import numpy
from kit.result import Measurement, save_result
value = float(numpy.random.default_rng([rank, seed]).random())
save_result({"accuracy": Measurement(value, "share", 10, value - 0.01, value + 0.01)});
"""

pytestmark = [pytest.mark.soak, pytest.mark.skipif(not can_fork(), reason="only Linux forks safely")]


@pytest.fixture
def plans(tmp_path: Path) -> Iterator[list[Any]]:
    """Four trials, and a preloaded process that none of the drivers owns."""
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(BODY)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "own.ipynb")
    recipe = find(str(tmp_path / "own.ipynb"))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KIT_WARM", raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")
        with warm_kernels(preload=LIGHT):
            yield [({"rank": rank}, make_plan(recipe, target="own.ipynb", given={"rank": rank})) for rank in RANKS]


def test_no_kill_loses_a_finished_trial(plans: list[Any], tmp_path: Path) -> None:
    draw = random.Random(0)
    carry_out(plans, out=tmp_path / "first", workers=2)  # the preloaded process is ready after this one
    begun = time.monotonic()
    wanted = table(carry_out(plans, out=tmp_path / "uninterrupted", workers=2))
    whole_s = time.monotonic() - begun
    ended = {"driver": 0, "kernel": 0, "finished": 0}
    finished_before = 0
    for number in range(KILLS):
        out = tmp_path / f"runs-{number}"
        ended[begun_and_killed(plans, out, draw.uniform(0, 0.8 * whole_s), kernel=number % 2 == 1)] += 1
        before = {path: path.read_bytes() for path in out.glob("own/[!.]*/run.json")}
        finished_before += len(before)
        for folder in (path.parent for path in before):
            assert sorted(path.name for path in folder.iterdir()) == FILES
            assert all(json.loads((folder / name).read_text()) for name in FILES if name != "report.html")
        named = {path.name for path in out.glob("own/[!.]*") if path.suffix != ".failed"}
        assert named == {path.parent.name for path in before}  # nothing half under a run's name
        after = carry_out(plans, out=out, workers=2)
        assert table(after) == wanted
        assert sum(trial.run.reused for trial in after if trial.run) == len(before)
        assert {path: path.read_bytes() for path in before} == before
        assert len(history(out)) == len(RANKS)
    print(f"{ended}; {finished_before} trials had finished before a kill")
    assert min(ended["driver"], ended["kernel"]) > KILLS / 10
    assert finished_before > 0
    wait_until_only_servers_live()


def table(trials: list[Any]) -> list[tuple[Any, ...]]:
    """Return a sweep's table."""
    return [(dict(row.given), row.value, row.low, row.high, row.n) for row in ranked(trials, "accuracy")]


def begun_and_killed(plans: list[Any], out: Path, after_s: float, *, kernel: bool) -> str:
    """Run a sweep in a fork of this process and, so many seconds later, kill it or one of its kernels."""
    pid = os.fork()
    if not pid:
        try:
            carry_out(plans, out=out, workers=2)
        finally:
            os._exit(0)
    time.sleep(after_s)
    if kernel:
        (server,) = [one for one in psutil.Process().children() if one.pid != pid]
        while not (running := server.children()):
            if os.waitpid(pid, os.WNOHANG)[0]:
                return "finished"
            time.sleep(0.01)
        running[0].kill()
        os.waitpid(pid, 0)
        return "kernel"
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return "driver" if os.WIFSIGNALED(status) else "finished"

"""Sweeps: which trials there are, that they run side by side, and that a kill loses none that had finished."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from kit.errors import RecipeError
from kit.runner.grid import drawn, grid, halvings, read_axes
from kit.runner.notebook import Notebook, read_notebook

PARAMETERS = "rank: int = 4  # rank\nlr: float = 1e-3  # rate\nseed: int = 0  # seed\nwait_s: float = 0.0  # pause\n"
BODY = """
import os, time
from kit.result import Measurement, save_result
time.sleep(wait_s)
if rank == 13:
    raise ValueError("unlucky")
value = rank / 100 + seed / 1000
save_result({
    "accuracy": Measurement(value, "share", 10, value - 0.01, value + 0.01),
    "loss": Measurement(1 - value, "nats", 10, better="lower"),
    "threads": Measurement(int(os.environ.get("OMP_NUM_THREADS", 0)), "threads", 1, better="neither"),
});
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A notebook whose accuracy is its rank."""
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(BODY)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "own.ipynb")
    return tmp_path / "own.ipynb"


@pytest.fixture
def notebook(path: Path) -> Notebook:
    return read_notebook(path)


def test_lists_and_ranges(notebook: Notebook) -> None:
    rank, lr, wait = read_axes(["rank=4,8,16", "lr=1e-4..1e-2:log:5", "wait_s=0..1:3"], notebook)
    assert rank.values == (4, 8, 16)
    assert lr.values == (0.0001, 0.0003162, 0.001, 0.003162, 0.01)
    assert wait.values == (0.0, 0.5, 1.0)
    assert read_axes(["rank=1..4:4"], notebook)[0].values == (1, 2, 3, 4)
    assert len(grid([rank, lr, wait])) == 45
    assert grid([rank, wait])[:2] == [{"rank": 4, "wait_s": 0.0}, {"rank": 4, "wait_s": 0.5}]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rank"], "is not of the form name=values"),
        (["rank=1,2", "rank=3"], "is given twice"),
        (["lr=1e-2..1e-4:log:5"], "a range goes upwards"),
        (["lr=0..1:log:5"], "a range by ratio starts above 0"),
        (["lr=a..b:3"], "a range goes from one number to another"),
    ],
)
def test_what_is_no_axis(notebook: Notebook, words: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        read_axes(words, notebook)


def test_a_grid_needs_counts_and_draws_do_not(notebook: Notebook) -> None:
    axes = read_axes(["lr=1e-4..1e-2:log", "rank=4,8"], notebook)
    with pytest.raises(RecipeError, match="a grid needs a count"):
        grid(axes)
    found = drawn(axes, 50, seed=1)
    assert found == drawn(axes, 50, seed=1) != drawn(axes, 50, seed=2)
    assert len({one["lr"] for one in found}) > 40
    assert all(1e-4 <= one["lr"] <= 1e-2 for one in found)
    assert sum(one["lr"] < 1e-3 for one in found) > 15  # by ratio: half of them
    assert len(drawn(read_axes(["rank=4,8"], notebook), 50, seed=1)) == 2


def test_halving_gives_the_best_more_steps(notebook: Notebook) -> None:
    (steps,) = read_axes(["seed=10..80"], notebook)
    rungs: list[list[dict[str, Any]]] = []

    def score(rung: list[dict[str, Any]]) -> list[float]:
        rungs.append(rung)
        return [one["rank"] for one in rung]

    last = halvings([{"rank": rank} for rank in range(8)], steps, keep=2, score=score)
    assert [(len(rung), rung[0]["seed"]) for rung in rungs] == [(8, 10), (4, 20), (2, 40), (1, 80)]
    assert last == [{"rank": 7, "seed": 80}]


def test_a_sweep_ranks_its_trials_and_reports(path: Path, kit: Callable[..., Any], tmp_path: Path) -> None:
    done = kit("sweep", path, "-p", "rank=4,8", "--seeds", "2", "--metric", "accuracy", "--workers", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if re.match(r"[48] ", line)]
    assert [row[:2] for row in rows] == [["8", "0.0805"], ["4", "0.0405"]]
    assert "4 trials, 2 at a time" in done.stderr
    (folder,) = (tmp_path / "runs" / "sweeps").iterdir()
    told = json.loads((folder / "sweep.json").read_text())
    assert [one["given"] for one in told["trials"]] == [{"rank": r, "seed": s} for r in (4, 8) for s in (0, 1)]
    report = (folder / "sweep.html").read_text()
    links = re.findall(r'<a href="([^"]+)"', report)
    assert len(links) == 4
    assert all((folder / link).is_file() for link in links)
    assert "The mean over seeds" in report
    assert not re.search(r'(?:src|href)="(?:https?:)?//', report)
    again = kit("sweep", path, "-p", "rank=4,8", "--seeds", "2", "--metric", "loss", "--workers", "2")
    assert again.stderr.count(", was there") == 4
    assert [line.split()[0] for line in again.stdout.splitlines() if re.match(r"[48] ", line)] == ["8", "4"]
    single = [json.loads(one.read_text())["parameters"] for one in tmp_path.glob("runs/own/*/run.json")]
    assert len(single) == 4


def test_a_trial_that_fails_stops_no_other(path: Path, kit: Callable[..., Any], tmp_path: Path) -> None:
    done = kit("sweep", path, "-p", "rank=12,13,14", KIT_WARM="0")
    assert done.returncode == 1
    assert "1 of 3 trials failed" in done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines() if re.match(r"1[234] ", line)] == [
        ["14", "0.14"], ["12", "0.12"], ["13", "failed"],
    ]  # fmt: skip
    (report,) = (tmp_path / "runs" / "sweeps").glob("*/sweep.html")
    assert "raised ValueError: unlucky" in report.read_text()
    wrong = kit("sweep", path, "-p", "rank=12", "--metric", "acuracy", KIT_WARM="0")
    assert (wrong.returncode, "Did you mean 'accuracy'" in wrong.stderr) == (2, True)


def test_a_killed_sweep_loses_no_finished_trial(path: Path, kit: Callable[..., Any], tmp_path: Path) -> None:
    words = ["sweep", str(path), "-p", "rank=1,2,3,4,5,6", "-p", "wait_s=0.5"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from kit.cli import main; main()", *words], cwd=tmp_path, env={**os.environ},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    end = time.monotonic() + 100
    while len(finished := whole(tmp_path)) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    process.kill()
    process.wait()
    before = {one: one.read_bytes() for one in finished}
    assert 2 <= len(before) < 6
    done = kit(*words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(", was there") >= len(before)
    assert {one: one.read_bytes() for one in before} == before
    assert len(whole(tmp_path)) == 6
    assert not list(tmp_path.glob("runs/own/.partial-*"))


def whole(folder: Path) -> list[Path]:
    """The records of finished runs; half-written ones lie in folders that begin with a dot."""
    return [one for one in folder.glob("runs/own/*/run.json") if not one.parent.name.startswith(".")]


def test_halving_by_command_and_threads_by_worker(path: Path, kit: Callable[..., Any], tmp_path: Path) -> None:
    words = ["--search", "halving", "--trials", "4", "--halve", "seed=1..4", "--metric", "accuracy"]
    env = {"OMP_NUM_THREADS": "3", "KIT_WARM": "0"}
    done = kit("sweep", path, "-p", "rank=1..99", "--workers", "2", *words, **env)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if "trials" in line] == [
        f"own: {n} trials, 2 at a time" for n in (4, 2, 1)
    ]
    results = [json.loads(one.read_text())["measurements"] for one in tmp_path.glob("runs/own/*/result.json")]
    assert {one["threads"]["value"] for one in results} == {3}

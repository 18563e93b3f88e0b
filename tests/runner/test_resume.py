"""A run that was killed goes on where it was, to the numbers of one that was not; each ending is told apart."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

from kit.errors import RunError
from kit.runner import resume
from kit.runner.library import find
from kit.runner.plan import make_plan
from kit.runner.run import Hooks, Run, run

PARAMETERS = "steps: int = 30  # optimiser steps"
TRAIN = """
import time

import torch

import kit
from kit.training.fit import fit

torch.manual_seed(0)
X, Y = torch.randn(64, 6), torch.randn(64, 3)


def slow(model, x, y):
    time.sleep(0.05)
    return torch.nn.functional.mse_loss(model(x), y)


def trained(seed):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Dropout(0.4), torch.nn.Linear(16, 3))
    return fit(model, slow, [X, Y], steps=steps, batch_size=16, seed=seed)


first = trained(1)
"""
AGAIN = "same, second = trained(1), trained(2)"
SAVE = """
from kit.result import Measurement

print("resumed at", first.resumed_at, same.resumed_at, second.resumed_at)
values = {"first": first, "same": same, "second": second}
kit.save_result({name: Measurement(sum(one.losses), "nats", 1) for name, one in values.items()});
"""
ABSENT = "import errno, os, signal\nif not os.path.exists('marker'):  # where the kernel works\n    "
STOPS = {
    "killed": f"{ABSENT}os.kill(os.getpid(), signal.SIGKILL)",
    "disk": f"{ABSENT}raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))",
    "raised": f"{ABSENT}raise ValueError('not yet')",
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in the test's own folder, where the file lies without which a cell stops."""
    monkeypatch.chdir(tmp_path)


def write(path: Path, stop: str = "", train: str = TRAIN) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in (PARAMETERS, train, AGAIN, stop, SAVE) if source]
    cells[0].metadata.tags = ["parameters"]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def carried_out(path: Path, out: Path, said: list[str] | None = None, *, force: bool = False) -> Run:
    plan = make_plan(find(str(path)), target=str(path))
    return run(plan, out=out, force=force, hooks=Hooks(say=(said if said is not None else []).append))


def losses(done: Run) -> dict[str, float]:
    assert done.result is not None
    return {name: found.value for name, found in done.result.measurements.items()}


def resumed_at(done: Run) -> str:
    text = (done.path / "executed.ipynb").read_text()
    return text.split("resumed at ")[1].split("\\n")[0]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    folder = tmp_path_factory.mktemp("straight")
    return losses(carried_out(write(folder / "mine.ipynb"), folder / "runs"))


@pytest.mark.parametrize(
    ("stop", "told", "fix", "next_time"),
    [
        ("killed", "its kernel died: SIGKILL", "kit plan mine for what it needs", "lost its kernel in cell"),
        ("disk", "No space left on device", "free some space", "found the disk full in cell"),
        ("raised", "raised ValueError: not yet", "correct it, then", "raised an error in cell"),
    ],
)
def test_each_ending_is_told_apart_and_gone_on_from(
    tmp_path: Path, straight: dict[str, float], stop: str, told: str, fix: str, next_time: str
) -> None:
    path, out, said = write(tmp_path / "mine.ipynb", STOPS[stop]), tmp_path / "runs", list[str]()
    with pytest.raises(RunError) as caught:
        carried_out(path, out)
    assert told in str(caught.value)
    assert fix in str(caught.value)
    (tmp_path / "marker").touch()  # whatever was wrong is not any more
    begun = time.monotonic()
    done = carried_out(path, out, said)
    assert resumed_at(done) == "30 30 30", "finished cells have what they made"
    assert losses(done) == straight
    assert time.monotonic() - begun < 60
    assert len(said) == 1
    assert next_time in said[0]
    assert done.record["resumed"]["reason"] in {"kernel", "disk", "raised"}
    assert not list(out.glob("*/.*")), "a finished run needs no products"


def test_a_later_cell_may_be_mended(tmp_path: Path, straight: dict[str, float]) -> None:
    out, said = tmp_path / "runs", list[str]()
    with pytest.raises(RunError):
        carried_out(write(tmp_path / "mine.ipynb", STOPS["raised"]), out)
    done = carried_out(write(tmp_path / "mine.ipynb"), out, said)
    assert resumed_at(done) == "30 30 30"
    assert losses(done) == straight
    assert "the notebook has changed since" in said[0]


def test_what_lies_behind_a_change_is_made_anew(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    with pytest.raises(RunError):
        carried_out(write(tmp_path / "mine.ipynb", STOPS["raised"]), out)
    (tmp_path / "marker").touch()
    changed = TRAIN.replace("torch.manual_seed(0)", "torch.manual_seed(0)  # no other number, and yet a change")
    done = carried_out(write(tmp_path / "mine.ipynb", STOPS["raised"], changed), out)
    assert resumed_at(done) == "0 0 0"


def test_force_begins_anew(tmp_path: Path, straight: dict[str, float]) -> None:
    path, out = write(tmp_path / "mine.ipynb", STOPS["raised"]), tmp_path / "runs"
    with pytest.raises(RunError):
        carried_out(path, out)
    (tmp_path / "marker").touch()
    done = carried_out(path, out, force=True)
    assert resumed_at(done) == "0 0 0"
    assert losses(done) == straight


def test_a_killed_runner_is_gone_on_from(tmp_path: Path, straight: dict[str, float], when: Callable[..., None]) -> None:
    path, out, said = write(tmp_path / "mine.ipynb"), tmp_path / "runs", list[str]()
    words = ["run", str(path), "--out", str(out)]
    process = subprocess.Popen([sys.executable, "-c", "from kit.cli import main; main()", *words], cwd=tmp_path)
    when(lambda: list(out.glob("*/.products-*/fit-*.pt")))
    process.kill()
    process.wait()
    done = carried_out(path, out, said)
    assert "was killed in cell" in said[0]
    assert resumed_at(done).split()[0] == "30"
    assert losses(done) == straight


@pytest.fixture
def when() -> Callable[..., None]:
    def wait(true: Callable[[], object], limit_s: float = 120) -> None:
        end = time.monotonic() + limit_s
        while not true():
            assert time.monotonic() < end, "it did not happen"
            time.sleep(0.02)

    return wait


def test_a_disk_that_is_still_full_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, out = write(tmp_path / "mine.ipynb", STOPS["disk"]), tmp_path / "runs"
    with pytest.raises(RunError):
        carried_out(path, out)
    (tmp_path / "marker").touch()
    monkeypatch.setattr(resume.shutil, "disk_usage", lambda _: SimpleNamespace(free=3 << 20))
    with pytest.raises(RunError, match="has 3 MiB free now"):
        carried_out(path, out)


def test_a_notebook_that_changes_while_it_runs_is_told(tmp_path: Path) -> None:
    path, said = tmp_path / "mine.ipynb", list[str]()
    change = f"from pathlib import Path\nme = Path({str(path)!r})\nme.write_text(me.read_text().replace('1 + 1', '2'))"
    cells = [nbformat.v4.new_code_cell(source) for source in (change, "1 + 1")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    plan = make_plan(find(str(path)), target=str(path))
    run(plan, out=tmp_path / "runs", hooks=Hooks(say=said.append))
    assert said == [f"{path} changed while it ran: this is the run of what it was before."]
    with pytest.raises(RunError, match="was changed between its plan and its start"):
        run(plan, out=tmp_path / "runs", force=True)


def test_what_is_measured_is_not_gone_on_with(tmp_path: Path, recipe: Callable[..., Path]) -> None:
    path = write(tmp_path / "timed.ipynb", STOPS["raised"])
    file = recipe(f"notebook: {path}\nresume: false")
    plan = make_plan(find(str(file)), target=str(file))
    with pytest.raises(RunError):
        run(plan, out=tmp_path / "runs")
    assert not list((tmp_path / "runs").glob("*/.products-*"))


def test_a_journal_survives_nonsense(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", json.dumps({"reason": "unheard of"})):
        (tmp_path / "state.json").write_text(text)
        assert resume._state(tmp_path) == {}

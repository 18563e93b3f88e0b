"""Runs with real kernels: what they leave, when they are done again, and how they fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from kit.errors import RunError
from kit.runner import watch
from kit.runner.library import find
from kit.runner.plan import make_plan
from kit.runner.run import Hooks, Run, run

Call = Callable[..., subprocess.CompletedProcess[str]]


def do(target: Path, out: Path, given: dict[str, Any] | None = None, **settings: Any) -> Run:
    return run(make_plan(find(str(target)), target=str(target), given=given), out=out, **settings)


def visible(out: Path) -> list[str]:
    """Everything in the folder of runs but the locks."""
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if ".locks" not in path.parts)


def test_a_run_leaves_its_five_files(notebooks: Path, tmp_path: Path) -> None:
    done = do(notebooks / "result.ipynb", tmp_path, {"value": 0.75})
    names = ["executed.ipynb", "report.html", "result.json", "ro-crate-metadata.json", "run.json"]
    assert sorted(path.name for path in done.path.iterdir()) == names
    assert done.path.parent == tmp_path / "result"
    assert done.result.measurements["recall_at_1"].value == 0.75
    record = json.loads((done.path / "run.json").read_text())
    assert record["parameters"] == {"value": 0.75, "baseline": 0.25}
    assert record["schema"] == 1
    assert record["wall_s"] > 0
    assert 0.02 < record["peak_rss_gib"] < 1
    assert record["command"].endswith("-p value=0.75")


def test_progress_counts_the_cells_that_run(notebooks: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    do(notebooks / "pictures.ipynb", tmp_path, {"n": 9}, hooks=Hooks(lambda *words: told.append(words)))
    question, figure = "What is in a report?", "A figure"
    assert told == [*[(k, 6, question) for k in range(2)], *[(k, 6, figure) for k in range(2, 6)], (6, 6, "")]


def test_the_same_is_not_run_again_unless_forced(notebooks: Path, tmp_path: Path) -> None:
    first = do(notebooks / "simple.ipynb", tmp_path)
    again = do(notebooks / "simple.ipynb", tmp_path)
    assert (first.reused, again.reused) == (False, True)
    assert again.record == first.record
    forced = do(notebooks / "simple.ipynb", tmp_path, force=True)
    assert not forced.reused
    assert forced.path == first.path
    assert len(visible(tmp_path)) == 6  # recipe, digest, four files


def test_reuse_checks_the_recipe_as_it_is_now(recipe: Callable[..., Path], tmp_path: Path) -> None:
    text = "notebook: {nb}/result.ipynb\nexpect: {laptop: {recall_at_1: {at_least: %s}}}"
    out = tmp_path / "runs"
    assert do(recipe(text % 0.4), out).passed
    stricter = do(recipe(text % 0.9), out)
    assert stricter.reused
    assert not stricter.passed
    assert "1 of 1 claims failed" in (stricter.path / "report.html").read_text()


def test_peak_memory_counts_a_short_peak(notebooks: Path, tmp_path: Path) -> None:
    assert 0.29 < do(notebooks / "memory.ipynb", tmp_path).record["peak_rss_gib"] < 0.7


def test_streams_become_one_output(notebooks: Path, tmp_path: Path) -> None:
    cells = json.loads((do(notebooks / "many_prints.ipynb", tmp_path).path / "executed.ipynb").read_text())["cells"]
    assert sorted(output["name"] for output in cells[0]["outputs"]) == ["stderr", "stdout"]


def test_the_kernel_works_where_the_user_is(notebooks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_verysecretvalue")
    done = do(notebooks / "where_am_i.ipynb", tmp_path / "runs")
    text = (done.path / "executed.ipynb").read_text()
    assert str(tmp_path) in text
    assert Path.cwd() == tmp_path
    for path in done.path.iterdir():
        assert "hf_verysecretvalue" not in path.read_text(), path


def test_bundles_are_named_from_the_run_folder(notebooks: Path, tmp_path: Path) -> None:
    done = do(notebooks / "saves_bundle.ipynb", tmp_path)
    assert done.result.bundles == ("bundle",)
    assert (done.path / "bundle" / "weights.txt").read_text() == "1 2 3"
    assert ".partial" not in (done.path / "executed.ipynb").read_text()
    assert str(done.path / "bundle") in (done.path / "executed.ipynb").read_text()


def test_a_path_with_odd_characters(notebooks: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a {b} 'c' ü"
    folder.mkdir()
    notebook = folder / "my {x} notebook.ipynb"
    notebook.write_bytes((notebooks / "result.ipynb").read_bytes())
    assert do(notebook, folder / "runs").result is not None


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("raises", ["cell 3 of 3, line 2: raised ZeroDivisionError: division by zero", "Line: fine / broken"]),
        (
            "raises_kit_error",
            ["metadata.csv: line 7: no such picture: cat.png.\n  Fix: remove the line", "cell 1 of 1"],
        ),
        ("sys_exit", ["cell 1 of 2: called sys.exit()"]),
        ("sys_exit_code", ["cell 1 of 2: called sys.exit(3)"]),
        ("kills_kernel", ["cell 2 of 2: its kernel died: SIGKILL ended it"]),
        ("os_exit", ["cell 1 of 1: its kernel died: the process ended with exit code 7"]),
    ],
)
def test_a_notebook_that_fails(notebooks: Path, tmp_path: Path, name: str, wanted: list[str]) -> None:
    with pytest.raises(RunError) as caught:
        do(notebooks / f"{name}.ipynb", tmp_path)
    text = str(caught.value)
    (kept,) = tmp_path.glob(f"{name}/*.failed/executed.ipynb")
    for words in [*wanted, str(kept), f"kit run {notebooks / name}.ipynb"]:
        assert words in text, text
    digest = kept.parent.name
    assert visible(tmp_path) == [name, f"{name}/{digest}", f"{name}/{digest}/executed.ipynb"]
    assert json.loads(kept.read_text())["cells"]


@pytest.mark.parametrize("name", ["broken_result", "newer_result"])
def test_a_result_that_cannot_be_read(notebooks: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match=r"executed\.ipynb"):
        do(notebooks / f"{name}.ipynb", tmp_path)
    assert len(list(tmp_path.glob(f"{name}/*.failed"))) == 1
    assert not list(tmp_path.glob(f"{name}/*/run.json"))


def test_a_kernel_that_is_not_installed(notebooks: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="'no-such-kernel', which is not installed"):
        do(notebooks / "not_python.ipynb", tmp_path)
    assert visible(tmp_path) == []


def test_a_notebook_that_never_ends_is_stopped_with_its_children(
    notebooks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "started"
    # The limit is over when the last cell has begun: how long the kernel takes to get there is this machine's affair.
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + 600 * has_begun(started))
    monkeypatch.setattr(watch, "time", clock)
    with pytest.raises(RunError, match=r"cell 3 of 3: did not end within its limit of 500 s"):
        do(notebooks / "never_ends.ipynb", tmp_path / "runs", {"started": str(started)}, limit_s=500)
    assert not any(psutil.pid_exists(int(pid)) for pid in started.read_text().split())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing(notebooks: Path, tmp_path: Path, number: signal.Signals) -> None:
    process, pids = start(notebooks, tmp_path)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("Interrupted")
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert visible(tmp_path / "runs") == []


def test_after_a_kill_the_next_run_cleans_up(notebooks: Path, tmp_path: Path) -> None:
    process, pids = start(notebooks, tmp_path)
    process.kill()
    process.wait()
    assert len(list((tmp_path / "runs" / "never_ends").glob(".partial-*"))) == 1
    wait_until(lambda: not psutil.pid_exists(pids[0]))  # the kernel notices that its parent is gone
    with suppress(psutil.NoSuchProcess):  # a warm kernel's children go with it
        psutil.Process(pids[1]).kill()
    with pytest.raises(RunError, match="limit"):
        do(notebooks / "never_ends.ipynb", tmp_path / "runs", {"started": str(tmp_path / "started")}, limit_s=1)
    assert not list((tmp_path / "runs").glob("*/.*")), "neither half a run nor what it kept: it had kept nothing"


def start(notebooks: Path, tmp_path: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a run of the notebook that never ends; return it and the pids of kernel and kernel's child."""
    started = tmp_path / "started"
    words = ["run", str(notebooks / "never_ends.ipynb"), "-p", f"started={started}"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from kit.cli import main; main()", *words],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A suite that was started in the background of a shell ignores ^C, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
    )  # fmt: skip
    wait_until(lambda: has_begun(started))
    return process, [int(pid) for pid in started.read_text().split()]


def has_begun(started: Path) -> bool:
    return started.exists() and len(started.read_text().split()) == 2


def wait_until(true: Callable[[], bool], limit_s: float = 120) -> None:
    end = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_two_at_once_run_once(notebooks: Path, tmp_path: Path) -> None:
    document = json.loads((notebooks / "simple.ipynb").read_text())
    waiting = f"while not Path({str(tmp_path / 'go')!r}).exists():\n    time.sleep(0.05)"
    document["cells"][-1]["source"] = f"import time\nfrom pathlib import Path\n\n{waiting}"
    (tmp_path / "waits.ipynb").write_text(json.dumps(document))
    command = [sys.executable, "-c", "from kit.cli import main; main()", "run", "waits.ipynb", "-p", "x=8"]
    said = [tmp_path / name for name in ("one", "other")]
    both = [subprocess.Popen(command, cwd=tmp_path, stdout=path.open("w"), stderr=subprocess.STDOUT) for path in said]
    wait_until(lambda: any("waiting for it" in path.read_text() for path in said))
    (tmp_path / "go").touch()
    for process in both:
        process.wait(120)
    texts = [path.read_text() for path in said]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("Reused the run" in text for text in texts) == 1
    assert sum("waiting for it" in text for text in texts) == 1


def test_a_run_from_a_newer_kit(notebooks: Path, tmp_path: Path) -> None:
    done = do(notebooks / "simple.ipynb", tmp_path)
    record = done.path / "run.json"
    record.write_text(json.dumps({**done.record, "schema": 2}))
    with pytest.raises(RunError, match=r"schema 2 is newer than this kit reads \(1\)"):
        do(notebooks / "simple.ipynb", tmp_path)
    record.write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        do(notebooks / "simple.ipynb", tmp_path)


def test_an_output_folder_that_cannot_be_written(notebooks: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        do(notebooks / "simple.ipynb", tmp_path / "file")
    if os.access("/proc", os.W_OK) and not Path("/proc/version").exists():
        return
    with pytest.raises(RunError, match="cannot be written"):
        do(notebooks / "simple.ipynb", Path("/proc/runs"))


def test_a_report_that_was_deleted_is_written_again(notebooks: Path, tmp_path: Path) -> None:
    done = do(notebooks / "simple.ipynb", tmp_path)
    (done.path / "report.html").unlink()
    again = do(notebooks / "simple.ipynb", tmp_path)
    assert again.reused
    assert (again.path / "report.html").is_file()


def test_a_full_disk_is_one_clear_error(notebooks: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        with pytest.raises(RunError, match="No space left"):
            do(notebooks / "pictures.ipynb", small)
        assert not list(small.glob("pictures/*/run.json"))
        assert not list(small.glob("pictures/.partial*"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_no_kernelspec_is_needed(notebooks: Path, tmp_path: Path) -> None:
    assert do(notebooks / "no_kernelspec.ipynb", tmp_path).result is None


def test_a_file_that_a_parameter_names_is_an_input(
    notebooks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = find(str(notebooks / "uses_part.ipynb"))
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / "one.txt").write_text("1")

    def digest(value: str) -> str:
        return make_plan(recipe, target="x", given={"data": value}).digest

    before = {value: digest(value) for value in ("rows.csv", "many", "absent")}
    assert before == {value: digest(value) for value in before}
    (tmp_path / "rows.csv").write_text("a,b\n1,3\n")
    (tmp_path / "many" / "two.txt").write_text("2")
    after = {value: digest(value) for value in before}
    assert after["rows.csv"] != before["rows.csv"]
    assert after["many"] != before["many"]
    assert after["absent"] == before["absent"]


def test_an_error_with_a_cause_is_placed_in_the_cell(notebooks: Path, tmp_path: Path) -> None:
    notebook = json.loads((notebooks / "raises.ipynb").read_text())
    source = [
        "import json\n",
        "try:\n",
        "    json.loads('{')\n",
        "except ValueError as e:\n",
        "    raise KeyError('x') from e",
    ]
    notebook["cells"] = [{**notebook["cells"][-1], "cell_type": "code", "outputs": [], "source": source}]
    (tmp_path / "chained.ipynb").write_text(json.dumps(notebook))
    with pytest.raises(RunError, match=r"line 5.*\n(.*\n)*.*raise KeyError\('x'\) from e"):
        do(tmp_path / "chained.ipynb", tmp_path / "runs")

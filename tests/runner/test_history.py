"""The memory of runs: found by their crates, compared with intervals, and loud when something became worse."""

from __future__ import annotations

import json
import re
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from kit.errors import RunError
from kit.result import Measurement, Result
from kit.runner.compare import compare
from kit.runner.crate import CRATE
from kit.runner.history import INDEX, find_run, history
from kit.runner.library import find
from kit.runner.plan import make_plan
from kit.runner.regressions import last_good, regressions
from kit.runner.run import Run, run


def do(target: Path, out: Path, **given: Any) -> Run:
    return run(make_plan(find(str(target)), target=str(target), given=given), out=out)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A folder with three runs of a notebook and one of another."""
    out = tmp_path_factory.mktemp("history")
    source = root / "tests" / "notebooks" / "result.ipynb"
    for value in (0.5, 0.7, 0.9):
        do(source, out, value=value)
    do(root / "tests" / "notebooks" / "simple.ipynb", out)
    return out


@pytest.fixture
def runs(done: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt, in order of time."""
    shutil.copytree(done, tmp_path / "runs")
    at = {0.5: "10:00", 0.7: "11:00", 0.9: "12:00"}
    for path in (tmp_path / "runs").glob("result/*"):
        value = json.loads((path / "run.json").read_text())["parameters"]["value"]
        retold(path, f"2026-11-01T{at[value]}:00+00:00")
    return tmp_path / "runs"


def retold(folder: Path, started: str) -> None:
    """Move a run to another time."""
    record = json.loads((folder / "run.json").read_text())
    crate = (folder / CRATE).read_text().replace(record["started"], started)
    (folder / CRATE).write_text(crate)
    (folder / "run.json").write_text(json.dumps({**record, "started": started}))


def test_a_crate_tells_what_the_record_says(done: Path) -> None:
    for past in history(done):
        record = json.loads((past.path / "run.json").read_text())
        same = ("recipe", "size", "digest", "started", "wall_s", "peak_rss_gib", "parameters", "machine")
        assert {name: getattr(past, name) for name in same} == {name: record[name] for name in same}
        assert past.versions == {name: version for name, version in record["versions"].items() if version}
        assert past.passed is None  # nothing was claimed
    told = {past.parameters["value"]: past.measurements["recall_at_1"] for past in history(done, recipe="result")}
    assert told[0.9] == (0.9, 0.8, 1.0, "share")


def test_a_rebuilt_index_equals_the_old_one(runs: Path) -> None:
    first = history(runs, keep=True)
    text = (runs / INDEX).read_text()
    assert [asdict(one) for one in history(runs)] == [asdict(one) for one in first]
    (runs / INDEX).unlink()
    history(runs, keep=True, rebuild=True)
    assert (runs / INDEX).read_text() == text


@pytest.mark.soak
def test_ten_thousand_runs_are_found_in_a_second(runs: Path) -> None:
    (one, *_) = (runs / "result").iterdir()
    crate, record = (one / CRATE).read_text(), (one / "run.json").read_text()
    digest = json.loads(record)["digest"]
    for number in range(10_000):
        own = f"{number:0{len(digest)}x}"
        folder = runs / "result" / own[-12:]
        folder.mkdir()
        (folder / CRATE).write_text(crate.replace(digest, own))
        (folder / "run.json").write_text(record.replace(digest, own))
    assert len(history(runs, keep=True)) >= 10_000
    text, seconds = (runs / INDEX).read_text(), []
    for _ in range(3):
        begin = time.perf_counter()
        history(runs)
        seconds.append(time.perf_counter() - begin)
    print(f"10,000 runs: {[round(one, 2) for one in seconds]} s")
    assert statistics.median(seconds) < 1
    history(runs, keep=True, rebuild=True)
    assert (runs / INDEX).read_text() == text


def test_the_index_follows_what_is_there(runs: Path) -> None:
    history(runs, keep=True)
    newest, middle, _ = history(runs, recipe="result")
    shutil.rmtree(newest.path)
    retold(middle.path, "2026-11-02T09:00:00+00:00")
    assert [one.started[:13] for one in history(runs, recipe="result")] == ["2026-11-02T09", "2026-11-01T10"]


@pytest.mark.parametrize(
    "text", ["", "{", '{"schema": 99, "runs": {}}', '{"schema": 1, "runs": [1]}', '{"schema": 1, "runs": {"a": 2}}']
)
def test_a_damaged_index_is_not_believed(runs: Path, text: str) -> None:
    (runs / INDEX).write_text(text)
    assert len(history(runs, keep=True)) == 4
    assert len(json.loads((runs / INDEX).read_text())["runs"]) == 4


def test_a_run_without_a_whole_crate_is_left_out(runs: Path) -> None:
    paths = [one.path for one in history(runs)]
    (paths[0] / CRATE).write_text('{"@graph": [{"@id": "#run"}]}')
    (paths[1] / CRATE).write_text("")
    (runs / "result" / ".partial-ab-1").mkdir()
    assert [one.path for one in history(runs)] == paths[2:]


def test_runs_are_found_by_folder_digest_and_recipe(runs: Path) -> None:
    newest, *_ = history(runs, recipe="result")
    assert find_run("result", runs) == find_run(newest.digest[:8], runs) == find_run(str(newest.path), runs) == newest
    with pytest.raises(RunError, match=r"no such run in .* Did you mean 'result'"):
        find_run("resutl", runs)
    with pytest.raises(RunError, match="names 4 runs"):
        find_run("", runs)


def test_what_differed_between_two_runs(runs: Path) -> None:
    newest, middle, _ = history(runs, recipe="result")
    found = compare(middle.path, newest.path)
    assert found.measured["recall_at_1"].value == pytest.approx(0.2)
    assert ("parameter", "value", "0.7", "0.9") in found.changed
    assert {kind for kind, *_ in found.changed} <= {"parameter", "cost"}
    assert (found.code, found.kit) == ((), False)
    executed = json.loads((newest.path / "executed.ipynb").read_text())
    executed["cells"][-1]["source"] = ["print('other')\n", *executed["cells"][-1]["source"]]
    (newest.path / "executed.ipynb").write_text(json.dumps(executed))
    assert "+print('other')" in compare(middle.path, newest.path).code


def worse(runs: Path, value: float, **changes: Any) -> list[Any]:
    """Return what a new run of the 0.9 notebook's parameters with this value would be told."""
    newest = history(runs, recipe="result")[0]
    record = json.loads((newest.path / "run.json").read_text())
    record |= {"started": "2026-11-03T00:00:00+00:00", "digest": "new", **changes}
    old = json.loads((newest.path / "result.json").read_text())
    result = Result({name: Measurement(**{**one, "value": value, "low": value - 0.1, "high": value + 0.1})
                     for name, one in old["measurements"].items()})  # fmt: skip
    return regressions(runs, record, result)


def claimed(runs: Path, *, passed: bool) -> None:
    """Give the newest run a claim."""
    newest = history(runs, recipe="result")[0]
    record = json.loads((newest.path / "run.json").read_text())
    record["claims"] = [{"claim": "a", "observed": "b", "passed": passed, "kind": "claim"}]
    (newest.path / "run.json").write_text(json.dumps(record))


def test_what_fell_clearly_below_the_last_good_run_is_a_regression(runs: Path) -> None:
    claimed(runs, passed=True)
    (found,) = worse(runs, 0.6)
    assert (found.label, found.passed, found.kind) == ("WORSE", False, "regression")
    assert found.link == f"../{history(runs, recipe='result')[0].digest}/report.html"
    assert "against 0.9 of 2026-11-01T12:00" in found.observed
    assert worse(runs, 0.8) == []  # within the interval of the difference
    assert worse(runs, 1.2) == []


def test_a_run_that_failed_or_had_other_parameters_is_no_yardstick(runs: Path) -> None:
    claimed(runs, passed=False)
    assert worse(runs, 0.1) == []
    claimed(runs, passed=True)
    assert worse(runs, 0.1, parameters={"value": 0.95, "baseline": 0.25}) == []
    assert worse(runs, 0.1, size="smoke") == []
    assert worse(runs, 0.1, started="2026-11-01T11:59:00+00:00") == []
    record = json.loads((history(runs, recipe="result")[0].path / "run.json").read_text())
    assert last_good(runs, record) is None  # itself


def test_a_regression_is_loud_in_report_command_and_exit_code(
    recipe: Callable[..., Path], kit: Callable[..., Any], tmp_path: Path, notebooks: Path
) -> None:
    text = (notebooks / "result.ipynb").read_text()
    (tmp_path / "result.ipynb").write_text(text)
    path = recipe("notebook: result.ipynb\nexpect: {laptop: {recall_at_1: {at_least: 0.1}}}")
    assert kit("run", path).returncode == 0
    fallen = text.replace("    value, ", "    value - 0.3, ").replace("value - 0.1", "value - 0.4")
    (tmp_path / "result.ipynb").write_text(fallen.replace("value + 0.1", "value - 0.2"))
    (first,) = history(tmp_path / "runs")
    retold(first.path, "2026-11-01T10:00:00+00:00")
    done = kit("run", path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "WORSE than the last good run: 0.2 share, -0.3 share" in done.stdout
    assert f"Its report: runs/mine/{first.digest}/report.html" in done.stdout
    newest, _ = history(tmp_path / "runs")
    report = (newest.path / "report.html").read_text()
    assert "Worse than the last good run in 1 measurement" in report
    assert f'<a href="../{first.digest}/report.html">' in report
    assert newest.passed is False
    shown = kit("history", "--failed").stdout
    assert "1 of 1 runs (2 in all)" in shown
    assert newest.digest in shown
    swept = kit("sweep", path, "-p", "value=0.5,0.6", KIT_WARM="0")
    assert swept.returncode == 1, swept.stderr
    assert "WORSE than the last good run: value=0.5: 0.2 share, -0.3 share" in swept.stderr
    (page,) = (tmp_path / "runs" / "sweeps").glob("*/sweep.html")
    assert "2 runs, 1 worse than the last good run" in page.read_text()
    (link,) = [one for one in re.findall(r'href="([^"]+)"', page.read_text()) if f"../{first.digest}/" in one]
    assert (page.parent / link).is_file()


def test_the_commands(runs: Path, kit: Callable[..., Any]) -> None:
    shown = kit("history", "--recipe", "result", "--where", "recall_at_1>=0.6").stdout
    assert "2 of 2 runs (4 in all)" in shown
    assert "recall_at_1 0.9 share [0.8, 1]" in shown
    assert "value=0.7" in shown
    assert "1 of 1 runs" in kit("history", "-p", "value=0.5", "--size", "laptop").stdout
    assert "No such run among 4" in kit("history", "-p", "value=0.55").stdout
    unknown = kit("history", "--recipe", "resutl")
    assert (unknown.returncode, "Did you mean 'result'" in unknown.stderr) == (2, True)
    assert kit("history", "--where", "recall").returncode == 2
    newest, middle, _ = history(runs, recipe="result")
    told = kit("compare", middle.digest, newest.digest).stdout
    for wanted in ("+0.2 share [", "parameter", "Code: the same cells; the same kit."):
        assert wanted in told

"""Every recipe's smoke size, run as people run it: through ``kit run``, and one notebook through plain papermill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kit.cli.app import app
from kit.result import MIME, Result
from kit.runner.library import find
from kit.runner.plan import make_plan
from kit.runner.run import run

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
assert RECIPES, f"{ROOT / 'recipes'}: no recipes"

pytestmark = pytest.mark.weights


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_smoke_size_runs_and_its_claims_hold(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # The command in this process: three seconds of imports once and not for every recipe.
    with pytest.raises(SystemExit) as ended:
        app(["run", path.stem, "--size", "smoke"])
    assert ended.value.code == 0, "".join(capsys.readouterr())
    (folder,) = (tmp_path / "runs" / path.stem).iterdir()
    record = json.loads((folder / "run.json").read_text())
    judged = [claim for claim in record["claims"] if claim["kind"] == "claim"]
    assert judged, f"{path.name}: its smoke size claims nothing"
    assert all(claim["passed"] for claim in judged)
    result = Result.from_json(json.loads((folder / "result.json").read_text()))
    for bundle in result.bundles:
        assert (folder / bundle / "manifest.json").is_file()
    again = run(make_plan(find(path.stem), target=path.stem, size="smoke"), out=tmp_path / "runs")
    assert again.reused
    assert again.record == record


def test_a_notebook_runs_with_plain_papermill(tmp_path: Path, root: Path) -> None:
    notebook = root / "notebooks" / "01_stitch_clip.ipynb"
    words = ["-p", "epochs", "2", "-p", "limit", "32", "-p", "seeds", "1"]
    command = [sys.executable, "-m", "papermill", str(notebook), "out.ipynb", *words]
    env = {name: value for name, value in os.environ.items() if name != "KIT_RUN_DIR"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    outputs = [
        out for cell in json.loads((tmp_path / "out.ipynb").read_text())["cells"] for out in cell.get("outputs", ())
    ]
    (found,) = [out["data"][MIME] for out in outputs if MIME in out.get("data", {})]
    result = Result.from_json(found)
    assert result.measurements["recall_at_5"].n > 10
    assert Path(result.bundles[0]).is_relative_to(tmp_path / "kit-output")

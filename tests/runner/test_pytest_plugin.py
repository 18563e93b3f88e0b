"""The pytest plugin, run as anybody would: what it collects, and what a failure says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = ["notebooks/own.ipynb::laptop", "notebooks/simple.ipynb::laptop"]
NAMES = ("simple", "raises", "result", "sys_exit")


@pytest.fixture
def project(tmp_path: Path, notebooks: Path) -> Path:
    """Four notebooks, two with a recipe, one without, one that takes no parameters."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "recipes").mkdir()
    for name in NAMES:
        (tmp_path / "notebooks" / f"{name}.ipynb").write_bytes((notebooks / f"{name}.ipynb").read_bytes())
    own = nbformat.v4.new_code_cell("k: int = 2  # how often", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[own]), tmp_path / "notebooks" / "own.ipynb")
    text = "notebook: notebooks/result.ipynb\nsizes: {smoke: {}}\nexpect: {smoke: {recall_at_1: {at_least: 0.9}}}\n"
    (tmp_path / "recipes" / "strict.yaml").write_text(text)
    (tmp_path / "recipes" / "breaks.yaml").write_text("notebook: notebooks/raises.ipynb\nsizes: {smoke: {}}\n")
    (tmp_path / "recipes" / "other.yaml").write_text("on: push\n")
    (tmp_path / "test_own.py").write_text("def test_it():\n    pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return tmp_path


def pytest_in(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", *plugin(), "-p", "no:cacheprovider", *words]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env, timeout=240)


def plugin() -> list[str]:
    """Name the plugin where this environment was installed before it was there."""
    from importlib.metadata import entry_points

    known = {point.value for point in entry_points(group="pytest11")}
    return [] if "kit.runner.pytest_plugin" in known else ["-p", "kit.runner.pytest_plugin"]


def test_it_collects_recipes_and_notebooks_without_one(project: Path) -> None:
    shown = pytest_in(project, "--kit-notebooks", "--collect-only", "-q").stdout
    found = [line for line in shown.splitlines() if "::" in line]
    assert sorted(found) == [*NOTEBOOKS, "recipes/breaks.yaml::smoke", "recipes/strict.yaml::smoke"]


def test_without_the_option_it_does_nothing(project: Path) -> None:
    shown = pytest_in(project, "--collect-only", "-q").stdout
    assert [line for line in shown.splitlines() if "::" in line] == ["test_own.py::test_it"]


def test_a_failure_shows_cell_outputs_and_command(project: Path) -> None:
    done = pytest_in(project, "--kit-notebooks", "-n", "2")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 failed, 2 passed" in done.stdout
    for wanted in (
        "Source of the cell:", "    fine / broken", "ZeroDivisionError: division by zero",
        "cell 3 of 3, line 2: raised ZeroDivisionError", "Run it again: kit run recipes/breaks.yaml --size smoke",
        "FAIL  recall_at_1 ≥ 0.9, observed 0.5", "Run it again: kit run recipes/strict.yaml --size smoke",
    ):  # fmt: skip
        assert wanted in done.stdout, done.stdout
    assert not re.search(r"kit/runner/\w+\.py:\d+", done.stdout)  # no traceback through the runner

"""The floors of the house, types, style, and notebooks without outputs: each by the tool that knows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
CHECKS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "import-linter": ["lint-imports"],
}


@pytest.mark.parametrize("name", CHECKS)
def test_tool(name: str, root: Path) -> None:
    program, *words = CHECKS[name]
    done = subprocess.run([BIN / program, *words], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_notebooks_are_committed_without_outputs(root: Path) -> None:
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    assert notebooks, "no notebooks"
    done = subprocess.run([BIN / "nbstripout", "--verify", *notebooks], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

"""Fixture notebooks, recipes beside them, and the command line as people use it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def notebooks(root: Path) -> Path:
    """The one-behaviour notebooks."""
    return root / "tests" / "notebooks"


@pytest.fixture
def recipe(tmp_path: Path, notebooks: Path) -> Callable[..., Path]:
    """Write a recipe for a fixture notebook; ``{nb}`` in the text becomes the notebook's folder."""

    def write(text: str, name: str = "mine") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(text.replace("{nb}", str(notebooks)), encoding="utf-8")
        return path

    return write


@pytest.fixture
def kit(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the real command in an empty folder."""

    def call(*words: object, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from kit.cli import main; main()", *map(str, words)],
            cwd=tmp_path, capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "200", **env},
        )  # fmt: skip

    return call

"""A run's figures as files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from kit.errors import RunError
from kit.runner.figures import write_figures


def test_the_figures_of_a_real_run(notebooks: Path, tmp_path: Path, kit: Callable[..., object]) -> None:
    done = kit("run", notebooks / "pictures.ipynb")
    assert done.returncode == 0, done.stderr
    shown = kit("report", "pictures", "--figures", tmp_path / "figures")
    assert shown.returncode == 0, shown.stderr
    files = sorted((tmp_path / "figures").iterdir())
    assert files, "no figure was written"
    assert [str(file) for file in files] == shown.stdout.splitlines()[1:]
    for file in files:
        assert Image.open(file).width > 50


def test_a_run_without_figures(tmp_path: Path) -> None:
    (tmp_path / "executed.ipynb").write_text('{"cells": [{"cell_type": "code", "outputs": []}]}')
    with pytest.raises(RunError, match="shows no figure"):
        write_figures(tmp_path, tmp_path / "into", name="x")
    assert not (tmp_path / "into").exists()

"""The widget with the ipywidgets that Colab has: an environment of its own, without torch, in which its tests run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PINNED = ["ipywidgets==7.7.1", "anywidget==0.9.*"]  # Colab's, August 2026
NEEDED = ["ipykernel<7", "ipython_genutils", "psygnal", "typing_extensions"]  # by those two; not the classic notebook
KIT = ["filelock", "numpy", "pillow", "pytest", "pytest-xdist", "pyyaml", "resvg_py", "scipy", "sqlalchemy>=2"]


@pytest.mark.soak
def test_the_widgets_tests_pass_with_ipywidgets_7(tmp_path: Path, root: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    for words in (["--no-deps", *PINNED], [*NEEDED, *KIT]):
        subprocess.run([python, "-m", "pip", "install", "-q", *words], check=True, capture_output=True)
    asked = "import ipywidgets, anywidget; print(ipywidgets.__version__, anywidget.__version__)"
    versions = subprocess.run([python, "-c", asked], check=True, capture_output=True, text=True).stdout
    assert versions.startswith("7.7.1 0.9.")
    words = ["-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", "tests/humaneval/test_widget.py"]
    env = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([python, *words], cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]

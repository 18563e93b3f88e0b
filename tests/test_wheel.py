"""The wheel carries everything: commands, notebooks, recipes and templates work without a clone."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """The wheel, built from the checkout as anybody would."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (found,) = out.glob("*.whl")
    return found


def _kit(python: Path | str, folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, "-m", "kit.cli", *words], cwd=folder, capture_output=True, text=True, timeout=600,
        env={**os.environ, "COLUMNS": "200", **env},
    )  # fmt: skip


def test_what_is_inside(wheel: Path, root: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = sorted((root / "kit").rglob("*"))
    wanted = {str(path.relative_to(root)) for path in sources if path.is_file() and "__pycache__" not in path.parts}
    wanted |= {f"kit/_share/notebooks/{path.name}" for path in (root / "notebooks").glob("*.ipynb")}
    (kernel,) = [name for name in names if name.endswith(".data/data/share/jupyter/kernels/kit-warm/kernel.json")]
    wanted.add(kernel)
    wanted |= {f"kit/_share/recipes/{path.name}" for path in (root / "recipes").glob("*.yaml")}
    assert len(wanted) > 60
    assert names == wanted


def test_list_and_copy_without_a_clone(wheel: Path, root: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    shown = _kit(sys.executable, tmp_path, "list", PYTHONPATH=str(tmp_path / "site"))
    assert "stitch-clip" in shown.stdout, shown.stderr
    copied = _kit(sys.executable, tmp_path, "copy", "stitch-clip", PYTHONPATH=str(tmp_path / "site"))
    assert copied.returncode == 0, copied.stderr
    assert (tmp_path / "stitch-clip.yaml").is_file()
    original = (root / "notebooks" / "01_stitch_clip.ipynb").read_bytes()
    assert (tmp_path / "01_stitch_clip.ipynb").read_bytes() == original


@pytest.mark.soak
def test_a_new_environment(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", wheel], check=True, timeout=1200)
    work = tmp_path / "work"
    work.mkdir()
    home = {"KIT_HOME": str(tmp_path / "home")}
    for words in (["list"], ["doctor"], ["run", "stitch-clip", "--size", "smoke"], ["copy", "stitch-clip"]):
        done = _kit(python, work, *words, **home)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    done = _kit(python, work, "run", "stitch-clip.yaml", "--size", "smoke", **home)
    assert "Reused" in done.stdout, "the copy is the same run"

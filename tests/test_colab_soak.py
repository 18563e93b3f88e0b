"""Every recipe's smoke size with the ipywidgets, IPython and ipykernel that Google Colab has."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
from test_binder import COLAB

ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
PINNED = [f"ipywidgets=={COLAB['ipywidgets']}", "ipython==7.34.0", f"ipykernel=={COLAB['ipykernel']}"]
# What those three need and newer ones do not; the rest is as it is here, torch included.
NEEDED = ["backcall", "decorator", "ipython_genutils", "jedi", "pickleshare", "setuptools"]

pytestmark = [pytest.mark.soak, pytest.mark.weights]


@pytest.fixture(scope="module")
def colab(tmp_path_factory: pytest.TempPathFactory, need: Callable[[bool, str], None]) -> Path:
    """A Python of its own environment in which those versions come before the ones that are installed here."""
    folder = tmp_path_factory.mktemp("colab") / "venv"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-deps", *PINNED, *NEEDED], capture_output=True, text=True
    )
    need(done.returncode == 0, f"pip does not install Colab's versions on this Python: {done.stderr[-400:]}")
    (own,) = (folder / "lib").glob("python*/site-packages")
    # As a site folder and not as a path, so that what is installed there in place is found too.
    (own / "zz_here.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    return python


def test_its_versions_are_the_ones_that_run(colab: Path) -> None:
    asked = "import ipywidgets as a, IPython as b, ipykernel as c; print(a.__version__, b.__version__, c.__version__)"
    said = subprocess.run([colab, "-c", asked], capture_output=True, text=True, check=True).stdout.split()
    assert said == [one.partition("==")[2] for one in PINNED]


@pytest.mark.parametrize("name", RECIPES)
def test_the_smoke_size_runs(name: str, colab: Path, tmp_path: Path) -> None:
    words = [colab, "-c", "from kit.cli import main; main()", "run", name, "--size", "smoke"]
    env = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    env["JUPYTER_PATH"] = str(Path(sys.prefix) / "share" / "jupyter")  # nbconvert's templates, which lie beside it
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]

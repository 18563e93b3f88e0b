"""What every test may use: fixture notebooks and recipes, the command line, and a way to say what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from kit.runner.machine import usable_cores
from kit.runner.warm_owner import warm_kernels

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before anything imports numpy or torch: workers that each use every core are slower than one after the other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
WORKERS = 4  # each holds a gigabyte or two of models
LONGEST = ("test_recipes.py", "test_quality.py")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run the suite on the cores that there are, and what was named file by file right here."""
    return 0 if any(".py" in word for word in config.args) else min(WORKERS, usable_cores())


_kept_warm = ExitStack()


def pytest_configure(config: pytest.Config) -> None:
    """Keep kernels warm for a suite of many workers, which run notebooks by the dozen; KIT_WARM=0 keeps them cold."""
    if getattr(config.option, "numprocesses", None):
        _kept_warm.enter_context(warm_kernels(env={"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}))


def pytest_unconfigure() -> None:
    """End the preloaded process."""
    _kept_warm.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes a minute or two, so that no worker is left alone with it while the others have no more."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def need() -> Callable[[bool, str], None]:
    """Skip with a reason when something is missing; under KIT_REQUIRE_ALL=1, as in CI, fail instead."""

    def check(there: bool, reason: str) -> None:
        if there:
            return
        if os.environ.get("KIT_REQUIRE_ALL") == "1":
            pytest.fail(f"KIT_REQUIRE_ALL=1, and {reason}")
        pytest.skip(reason)

    return check


@pytest.fixture(scope="session")
def chromium(need: Callable[[bool, str], None]) -> str:
    """The path of a Chromium."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    need(found is not None, "Chromium is missing: apt-get install chromium")
    return str(found)


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
            cwd=tmp_path, capture_output=True, text=True, timeout=1200, env={**os.environ, "COLUMNS": "200", **env},
        )  # fmt: skip

    return call

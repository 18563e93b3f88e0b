"""What every test may use: parts by name, a way to say what is missing, and an untouched home."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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

"""Recipes killed with -9 at random moments and gone on with: the numbers of an uninterrupted run."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kit.parts.pull import kit_home
from kit.result import Result
from kit.runner.library import find
from kit.runner.plan import make_plan
from kit.runner.run import run

KILLS = int(os.environ.get("KILLS", "20"))
CLOCK = {"s", "ms"}  # what is measured by the clock is another number each time

pytestmark = [pytest.mark.soak, pytest.mark.weights]


@pytest.mark.parametrize("name", ["clip-lora", "vision-language"])
def test_a_recipe_that_is_killed_again_and_again_ends_with_the_same_numbers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"  # activations of its own, so that encoding is killed too
    home.mkdir()
    for shared in ("parts", "derived"):
        (kit_home() / shared).mkdir(parents=True, exist_ok=True)
        (home / shared).symlink_to(kit_home() / shared)
    monkeypatch.setenv("KIT_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    plan = make_plan(find(name), target=name, size="smoke")
    begun = time.monotonic()
    straight = run(plan, out=tmp_path / "straight")
    whole_s = time.monotonic() - begun
    wanted = numbers(straight.result)
    draw, killed, tries = random.Random(1), 0, 0
    while killed < KILLS and tries < 3 * KILLS:
        tries += 1
        out = tmp_path / f"runs-{tries}"
        for _ in range(2):  # killed twice before it may end
            killed += killed_after(name, out, draw.uniform(0.2, 1.0) * whole_s)
        done = run(plan, out=out)
        assert numbers(done.result) == wanted, f"try {tries}"
        assert not list(out.glob("*/.products-*"))
    print(f"{name}: {killed} kills, {tries} runs, one takes {whole_s:.0f} s")
    assert killed >= KILLS / 2


def killed_after(name: str, out: Path, seconds: float) -> bool:
    """Run in a process of its own, and kill it after so long; return whether it was still at work."""
    words = ["run", name, "--size", "smoke", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-c", "from kit.cli import main; main()", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return True
    return False


def numbers(result: Result | None) -> dict[str, tuple[float, float | None, float | None]]:
    assert result is not None
    return {
        name: (found.value, found.low, found.high)
        for name, found in result.measurements.items()
        if found.unit not in CLOCK
    }

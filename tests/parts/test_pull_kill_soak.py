"""A hundred kills at random moments of a pull, of pip and of unpacking: never a part that is there and broken."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from kit.parts import wheel
from kit.parts.catalog import PARTS
from kit.parts.pull import is_here, path_of, pull, verify

KILLS = 100
NAME = "easy-vqa"

pytestmark = pytest.mark.soak


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty home, and a folder from which pip takes the wheel."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel.fetch(PARTS[NAME], folder)
    for key, value in {"KIT_HOME": tmp_path / "home", "PIP_NO_INDEX": 1, "PIP_FIND_LINKS": folder}.items():
        monkeypatch.setenv(key, str(value))


@pytest.mark.usefixtures("local")
def test_no_kill_leaves_a_part_that_is_there_and_broken(tmp_path: Path) -> None:
    draw = random.Random(0)
    begun = time.monotonic()
    pull(NAME)
    whole_s = time.monotonic() - begun
    told = {"killed": 0, "finished": 0, "gone": 0}
    for number in range(KILLS):
        told[pulled_and_killed(draw.uniform(0, whole_s), anew=number % 2 == 0)] += 1
        told["gone"] += not is_here(NAME)
        assert not is_here(NAME) or verify(NAME) == []
        assert pull(NAME) == path_of(NAME)
        assert verify(NAME) == []
        assert [path.name for path in (tmp_path / "home" / "parts").glob(".tmp-*")] == []
    print(told)
    assert told["killed"] > KILLS / 2


def pulled_and_killed(after_s: float, *, anew: bool) -> str:
    """Pull in a process group of its own and kill that group so many seconds later; return how it ended.

    Args:
        after_s: Seconds.
        anew: Without the part that is there; else in its place.
    """
    if anew:
        path_of(NAME).rename(path_of(NAME).parent / f".tmp-{path_of(NAME).name}.aside")  # which a pull removes
    pid = os.fork()
    if not pid:
        try:
            os.setsid()
            pull(NAME, force=True)
        finally:
            os._exit(0)
    time.sleep(after_s)
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # it has not begun yet, or has ended
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return "killed" if os.WIFSIGNALED(status) else "finished"

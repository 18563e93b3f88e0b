"""What a sweep shows while it runs: a table that grows on a terminal."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rich.console import Console

from kit.cli.sweep_live import growing
from kit.result import Measurement, Result
from kit.runner.sweep import Trial


def trial(rank: int, value: float | None) -> Trial:
    if value is None:
        return Trial({"rank": rank}, None, "own.ipynb: raised ValueError: unlucky")
    measured = {"accuracy": Measurement(value, "share", 10, value - 0.1, value + 0.1)}
    run: Any = SimpleNamespace(result=Result(measured), record={"wall_s": 1.0}, reused=False)
    return Trial({"rank": rank}, run)


def shown(done: list[Trial], total: int) -> list[str]:
    console = Console(file=io.StringIO(), width=80)
    console.print(growing(done, total, metric="", at_once=2, spent_s=30.0))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def test_the_best_stand_first_and_the_rest_is_estimated() -> None:
    assert shown([], 4) == ["0 of 4 trials, 30 s, 2 running"]
    told = shown([trial(4, 0.5), trial(8, 0.75), trial(13, None)], 4)
    assert [line.split()[:2] for line in told[:4]] == [
        ["rank", "accuracy"],
        ["8", "0.75"],
        ["4", "0.5"],
        ["13", "failed"],
    ]
    assert "[0.65, 0.85]" in told[1]
    assert told[4] == "3 of 4 trials, 30 s, 1 running, about 10 s left"
    assert shown([trial(4, 0.5)], 1)[-1] == "1 of 1 trials, 30 s"


def test_on_a_terminal_it_grows_in_place(notebooks: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    words = ["sweep", str(notebooks / "result.ipynb"), "-p", "value=0.25,0.5"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from kit.cli import main; main()", *words], cwd=tmp_path, stderr=theirs,
        stdout=subprocess.PIPE, text=True, env={**os.environ, "KIT_WARM": "0", "TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    while True:
        try:
            seen += os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
    out, _ = process.communicate(timeout=60)
    os.close(ours)
    text = seen.decode()
    assert process.returncode == 0, text
    assert "0 of 2 trials" in text
    assert "1 of 2 trials" in text
    assert "was there" not in text
    assert out.splitlines()[1].split()[:2] == ["0.5", "0.5"]

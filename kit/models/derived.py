"""Folders that kit makes once from something slow to read, keeps in its home, and verifies when they are opened."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from filelock import FileLock

from kit.errors import ModelError
from kit.parts.pull import kit_home
from kit.parts.wheel import file_sha256

MARKER = "kit-derived.json"


def derived(name: str, make: Callable[[Path], None], *, need_bytes: int = 0) -> Path:
    """Return the folder ``name`` among kit's derived folders, made first when it is not there or is damaged.

    Two processes may ask at once: one makes it, the other waits. A kill leaves a temporary folder that the next
    call removes. Every file is read against its hash, once in a process (0.8 s for half a gigabyte).

    Args:
        name: The folder's name; it must change when what ``make`` writes changes.
        make: Writes the files into an empty folder.
        need_bytes: How much room it takes, asked for before anything is made.

    Raises:
        ModelError: kit's home cannot be written, or the disk is full.
    """
    root = kit_home() / "derived"
    target = root / name
    if _sound(target):
        return target
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):
            if not _sound(target):
                _make(target, make, need_bytes)
    except OSError as error:
        what = f"{root} cannot be written: {error.strerror or error}"
        raise ModelError.of(name, what, "free some space, or set KIT_HOME to a folder that you may write") from error
    return target


def _make(target: Path, make: Callable[[Path], None], need_bytes: int) -> None:
    prefix = f".tmp-{target.name}."
    for left in target.parent.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    free = shutil.disk_usage(target.parent).free
    if free < need_bytes:
        what = f"{target.parent} has {free / 1e6:.0f} MB free; this takes {need_bytes / 1e6:.0f} MB"
        raise ModelError.of(target.name, what, "free some space, or set KIT_HOME to another disk")
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        make(work)
        files = {path.name: file_sha256(path) for path in sorted(work.iterdir())}
        for path in work.iterdir():
            path.chmod(0o644)  # safetensors lets only the owner read
        (work / MARKER).write_text(json.dumps({"files": files}, indent=1), encoding="utf-8")
        work.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        work.replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sound(folder: Path) -> bool:
    try:
        files = json.loads((folder / MARKER).read_text(encoding="utf-8"))["files"]
        return all(_digest(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _digest(path: Path) -> str:
    seen = path.stat()
    return _digest_of(path, seen.st_size, seen.st_mtime_ns)


@cache
def _digest_of(path: Path, size: int, mtime_ns: int) -> str:  # noqa: ARG001 - both are part of what is remembered
    return file_sha256(path)

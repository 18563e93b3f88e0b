"""The folder of runs: where each is, which are whole, and how a new one comes in without ever being half there."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kit.errors import RunError

SCHEMA = 1
RECORD = "run.json"
_UNFINISHED = re.compile(r"\.(partial|old)-([0-9a-f]+)-(\d+)")


def folder_of(out: Path, recipe: str, digest: str) -> Path:
    """Return where a run is, or would be, absolute."""
    return out.absolute() / recipe / digest


def read_record(folder: Path) -> dict[str, Any]:
    """Return a run's ``run.json``.

    Raises:
        RunError: it cannot be read, or a newer kit wrote it.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError.of(str(path), f"cannot be read: {error}", f"remove {folder} and run again") from error
    schema = record.get("schema") if isinstance(record, dict) else None
    if not isinstance(schema, int):
        raise RunError.of(str(path), "is not a run's record: it has no schema number", f"remove {folder} and run again")
    if schema > SCHEMA:
        raise RunError.of(
            str(path), f"schema {schema} is newer than this kit reads ({SCHEMA})",
            "pip install -U multimodal-kit, or run with --out ANOTHER_FOLDER",
        )  # fmt: skip
    return dict(record)


def is_whole(folder: Path) -> bool:
    """Return whether a finished run is there; only whole folders ever get this name."""
    return (folder / RECORD).is_file()


def every_run(out: Path, recipe: str | None = None) -> list[Path]:
    """Return the folders of finished runs, newest first.

    Raises:
        RunError: one of them cannot be read.
    """
    found = [
        path.parent
        for path in out.absolute().glob(f"{recipe or '*'}/*/{RECORD}")
        if not path.parent.name.startswith(".")
    ]
    return sorted(found, key=lambda folder: str(read_record(folder).get("started", "")), reverse=True)


@contextmanager
def locked(out: Path, recipe: str, digest: str, *, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of one run, which the system drops when the process dies; another process waits here.

    Raises:
        RunError: the folder of runs cannot be written.
    """
    import filelock

    with writable(out):
        locks = out / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        (out / recipe).mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(locks / f"{recipe}-{digest}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            on_wait()
            lock.acquire()
    try:
        yield
    finally:
        with suppress(OSError):  # not empty, as a rule; a run that failed leaves no empty folder
            (out / recipe).rmdir()
        lock.release()


@contextmanager
def partial(final: Path) -> Iterator[Path]:
    """Give an empty folder for a run at work; it is gone afterwards unless ``settle`` moved it to its name.

    Call it under the run's lock.

    Raises:
        RunError: the folder of runs cannot be written.
    """
    folder = final.parent / f".partial-{final.name}-{os.getpid()}"
    with writable(final.parent):
        _sweep(final.parent, final.name)
        folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def settle(folder: Path, final: Path) -> None:
    """Give a finished partial folder its name in one step, in place of an older run of the same digest."""
    old = final.parent / f".old-{final.name}-{os.getpid()}"
    with writable(final.parent):
        if final.exists():
            final.replace(old)
        folder.replace(final)
    shutil.rmtree(old, ignore_errors=True)


def keep_failed(folder: Path, final: Path, executed: str) -> Path | None:
    """Keep a failed run's notebook as ``<digest>.failed/executed.ipynb``, and return its path."""
    source = folder / executed
    if not source.is_file():
        return None
    failed = final.with_name(f"{final.name}.failed")
    with writable(final.parent):
        failed.mkdir(exist_ok=True)
        return source.replace(failed / executed)


def _sweep(folder: Path, digest: str) -> None:
    """Remove what killed runs left; put back a finished run that one was about to replace."""
    import psutil

    for path in folder.glob(".*"):
        found = _UNFINISHED.fullmatch(path.name)
        # Under the lock nobody else works on this digest, so its leftovers are dead even if the pid is in use again.
        if not found or (found[2] != digest and psutil.pid_exists(int(found[3]))):
            continue
        if found[1] == "old" and not (folder / found[2]).exists():
            path.replace(folder / found[2])
        else:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn what the system says about a folder that cannot be written, or a full disk, into kit's error."""
    try:
        yield
    except OSError as error:
        raise RunError.of(
            str(error.filename or folder), f"cannot be written: {error.strerror or error}",
            "make it writable, free space, or choose another folder with --out",
        ) from error  # fmt: skip


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        RunError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    with writable(path.parent):
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)

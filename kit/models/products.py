"""What finished cells of a run made, kept so that the run, killed and started again, has it in seconds.

``kit run`` names a folder in KIT_PRODUCTS and removes it when the run ends well; elsewhere nothing is kept. A product
is found again where its own inputs are the same, and every cell until then, and what KIT_PRODUCTS_OF says of kit,
libraries and data; the same work done for the third time in a notebook is the third product of its key, so that what
is timed again and again is done again and again.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kit.errors import ModelError

FOLDER, OF = "KIT_PRODUCTS", "KIT_PRODUCTS_OF"
T = TypeVar("T")
_times: Counter[str] = Counter()


def folder() -> Path | None:
    """Return where products are kept; None where nothing is."""
    path = os.environ.get(FOLDER)
    return Path(path) if path else None


def numbered(key: str) -> str:
    """Return the identity of this process's next product of ``key``, 64 hex digits."""
    key = f"{key}|{os.environ.get(OF, '')}|{_cells()}"
    _times[key] += 1
    return hashlib.sha256(f"{key}|{_times[key]}".encode()).hexdigest()


def _cells() -> str:
    """Return the identity of this notebook's cells up to the one that runs now; empty outside a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    sources = [] if shell is None else shell.user_ns.get("In", [])
    return hashlib.sha256("\0".join(map(str, sources)).encode()).hexdigest() if sources else ""


def kept(kind: str, key: Callable[[], str], make: Callable[[], T], target: Path | None = None) -> T:
    """Return what ``make`` gives, or gave when this run was at this place before.

    Args:
        kind: What it is, in a word.
        key: Gives everything that it follows from; asked only where products are kept.
        make: Computes it: JSON values, and no use of a shared random state.
        target: A folder that ``make`` also writes, or leaves out; not there yet.

    Raises:
        ModelError: the disk is full.
    """
    place = folder()
    if place is None:
        return make()
    name = numbered(f"{kind}|{key()}")
    stored = place / f"{kind}-{name[:32]}"
    try:
        said = json.loads((stored / "value.json").read_text(encoding="utf-8"))
        if said["key"] == name:
            if target is not None and (stored / "folder").is_dir():
                shutil.copytree(stored / "folder", target)
            return said["value"]  # type: ignore[no-any-return]
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # none yet, or a damaged one
        pass
    value = make()
    partial = place / f"{stored.name}.tmp-{os.getpid()}"
    with full_disk_told(place):
        partial.mkdir(parents=True, exist_ok=True)
        if target is not None and target.is_dir():
            shutil.copytree(target, partial / "folder")
        (partial / "value.json").write_text(json.dumps({"key": name, "value": value}), encoding="utf-8")
        shutil.rmtree(stored, ignore_errors=True)
        partial.replace(stored)  # it gets this name when it is whole
    return value


class full_disk_told:  # noqa: N801 - read as a phrase: with full_disk_told(folder)
    """Turn a full disk into kit's error, whoever finds it: torch raises RuntimeError where Python raises OSError.

    Args:
        folder: The folder that is written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or not is_full(error):
            return
        what = f"cannot be written: {os.strerror(errno.ENOSPC)}"
        raise ModelError.of(str(self.folder), what, "free some space, and run it again") from error


def is_full(error: BaseException) -> bool:
    """Return whether this error says that a disk is full."""
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT}
    # torch's zip writer: "PytorchStreamWriter failed writing file", after the system's own words on stderr
    return isinstance(error, RuntimeError) and "PytorchStreamWriter" in str(error)

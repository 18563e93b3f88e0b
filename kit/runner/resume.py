"""A run that did not reach its end: what its finished cells made, why it ended, and how it goes on."""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.errors import RunError
from kit.runner import ledger
from kit.runner.execute import NotebookStoppedError
from kit.runner.plan import Plan

PREFIX, STATE = ".products-", "state.json"
KEPT_S = 14 * 24 * 3600  # what nobody went on with in two weeks, nobody will
LEAST_FREE = 2**28  # bytes without which a run that found the disk full is not begun again
WORDS = {
    "running": "was killed", "interrupted": "was interrupted", "kernel": "lost its kernel",
    "disk": "found the disk full", "limit": "reached its limit", "raised": "raised an error",
}  # fmt: skip


@dataclass
class Journal:
    """What is kept of a run while it goes on.

    Args:
        folder: Where its cells keep what they make; None where nothing is kept.
        of: What all of that follows from besides the cells: kit, libraries, data.
        digests: The run's own.
        earlier: The state in which an earlier run of the same ended; empty for none.
        changed: Whether the notebook was another one then.
    """

    folder: Path | None
    of: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    earlier: Mapping[str, Any] = field(default_factory=dict)
    changed: bool = False

    def env(self) -> dict[str, str]:
        """Return what a kernel is told of it."""
        return {} if self.folder is None else {"KIT_PRODUCTS": str(self.folder), "KIT_PRODUCTS_OF": self.of}

    def note(self, reason: str, done: int = 0, total: int = 0) -> None:
        """Note where the run is, or why it ended."""
        if self.folder is None:
            return
        state: dict[str, Any] = {"reason": reason, "digests": dict(self.digests), "at": _now()}
        if total:
            state |= {"cell": done + 1, "total": total}
        else:
            state = {**_state(self.folder), "reason": reason}
        with suppress(OSError, RunError):  # a full disk: the note before it stays
            ledger.write_text(self.folder / STATE, json.dumps(state))

    def done(self) -> None:
        """Remove what a finished run needs no more."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def sentence(self) -> str:
        """What to say of the earlier run; empty for none."""
        if not self.earlier or self.folder is None:
            return ""
        said = f"The run of {self.earlier['at']} {WORDS[self.earlier['reason']]}"
        said += f" in cell {self.earlier['cell']} of {self.earlier['total']}" if "cell" in self.earlier else ""
        if self.earlier["reason"] == "disk":
            said += f"; {shutil.disk_usage(self.folder).free / 2**30:.1f} GiB are free now"
        if not _products(self.folder):
            return f"{said}; it had kept nothing, and begins anew."
        if self.changed:
            return f"{said}, and the notebook has changed since: what cells before the first change made is kept."
        return f"{said}; going on with what its cells made."


@contextmanager
def journal(plan: Plan, final: Path, *, force: bool) -> Iterator[Journal]:
    """Give the journal of a run, which goes on with an earlier one where that did not reach its end.

    Call it under the run's lock.

    Args:
        plan: The run.
        final: Its folder.
        force: Begin anew.

    Raises:
        RunError: the earlier run found the disk full, and it still is.
    """
    if not plan.recipe.resume:
        yield Journal(None)
        return
    folder = final.parent / f"{PREFIX}{final.name}"
    if force:
        shutil.rmtree(folder, ignore_errors=True)
    changed = not force and not folder.is_dir() and _adopt(plan, final, folder)
    found = Journal(folder, _of(plan.digests), plan.digests, _state(folder), changed)
    if found.earlier.get("reason") == "disk":
        _require_room(final.parent)
    with ledger.writable(final.parent):
        folder.mkdir(exist_ok=True)
    try:
        yield found
    except KeyboardInterrupt:
        found.note("interrupted")
        raise
    finally:
        if _state(folder).get("reason") in {"raised", "kernel", "limit", "interrupted"} and not _products(folder):
            shutil.rmtree(folder, ignore_errors=True)
        _sweep(plan, final, folder)


def _of(digests: Mapping[str, str]) -> str:
    said = [digests[name] for name in ("kit", "inputs", "versions", "device", "parameters")]
    return hashlib.sha256("|".join(said).encode()).hexdigest()


def _adopt(plan: Plan, final: Path, folder: Path) -> bool:
    """Take over what a run left from which this one differs by the notebook alone; return whether there is one."""
    for other in sorted(final.parent.glob(f"{PREFIX}*"), key=_age_s):
        digests = _state(other).get("digests", {})
        if {name for name, value in plan.digests.items() if digests.get(name) != value} != {"notebook", "digest"}:
            continue
        with _nobodys(other, plan, final) as free:
            if free:
                other.replace(folder)
                return True
    return False


@contextmanager
def _nobodys(folder: Path, plan: Plan, final: Path) -> Iterator[bool]:
    """Give whether no run is at work in a journal's folder, and hold it meanwhile."""
    import filelock

    digest = folder.name.removeprefix(PREFIX)
    lock = filelock.FileLock(final.parents[1] / ".locks" / f"{plan.recipe.name}-{digest}.lock")
    try:
        lock.acquire(timeout=0)
    except (filelock.Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _products(folder: Path) -> bool:
    return folder.is_dir() and any(path.name != STATE for path in folder.iterdir())


def _sweep(plan: Plan, final: Path, own: Path) -> None:
    """Remove what killed runs left that had kept nothing, or that nobody went on with."""
    for folder in final.parent.glob(f"{PREFIX}*"):
        if folder != own and (_age_s(folder) > KEPT_S or not _products(folder)):
            with _nobodys(folder, plan, final) as free:
                if free:
                    shutil.rmtree(folder, ignore_errors=True)


def _age_s(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except OSError:  # another run's, just gone
        return 0.0


def _state(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("reason") in WORDS else {}


def _require_room(folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if free < LEAST_FREE:
        what = f"the disk was full when this run ended, and has {free / 2**20:.0f} MiB free now"
        raise RunError.of(str(folder), what, "free some space, or choose another folder with --out")


def reason_of(error: NotebookStoppedError) -> str:
    """Return why a notebook stopped: "disk", "kernel", "limit" or "raised"."""
    said = f"{error.ename} {error.evalue} {error.what}"
    if os.strerror(errno.ENOSPC) in said or re.search(r"Errno (28|122)\b", said) or "PytorchStreamWriter" in said:
        return "disk"
    if error.what.startswith("its kernel died"):
        return "kernel"
    return "limit" if "limit of" in error.what else "raised"


def fix_of(reason: str, plan: Plan) -> str:
    """Return what to do about a run that stopped for this reason."""
    again = f"{plan.command}; it goes on from what is kept" if plan.recipe.resume else plan.command
    return {
        "disk": f"free some space, then: {again}",
        "kernel": f"see kit plan {plan.recipe.name} for what it needs, then: {again}",
        "limit": f"raise the limit (--limit-s, --limit-gib), then: {again}",
    }.get(reason, f"correct it, then: {plan.command}")


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")

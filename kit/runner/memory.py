"""How much memory this process may still take, with the limit of the container that it is in; no torch needed."""

from __future__ import annotations

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def free_memory_bytes() -> int:
    """Return the bytes of main memory that may still be taken."""
    import psutil

    return min([int(psutil.virtual_memory().available), *container_bytes()])


def container_bytes(root: Path = ROOT, own: Path = OWN) -> list[int]:
    """Return what each control group around this process has left; empty where none has a limit.

    psutil sees the whole machine: in a container of 2 GB, as Binder's, it reports the host's 64.

    Args:
        root: Where control groups are mounted.
        own: The kernel's list of the groups that this process is in.
    """
    try:
        lines = [line.split(":", 2) for line in own.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []
    left: list[int] = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers not in {"", "memory"}:
            continue
        top = root / "memory" if controllers else root
        limit, used = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        )
        place = top / path.lstrip("/")
        # Inside a container the path is often the host's, and the container's own group is mounted at the top.
        for folder in (place, *place.parents):
            if not folder.is_relative_to(top):
                break
            found = _left(folder, limit, used)
            left += [] if found is None else [found]
    return left


def _left(folder: Path, limit: str, used: str) -> int | None:
    try:
        most = (folder / limit).read_text(encoding="utf-8").strip()
        if most == "max":
            return None
        taken = int((folder / used).read_text(encoding="utf-8"))
        files = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
    except (OSError, ValueError):
        return None
    # Pages of files that were read are given back on demand.
    cached = int(files.get("total_inactive_file", files.get("inactive_file", 0)))
    return max(0, int(most) - (taken - cached))

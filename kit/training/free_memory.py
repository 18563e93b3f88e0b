"""How much memory a device has left, with the limit of the container that this process is in."""

from __future__ import annotations

from pathlib import Path

import torch

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def free_bytes(device: torch.device) -> int:
    """Return the bytes that may still be taken on a device; a "meta" device counts as the CPU."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + held  # what torch holds without using it is torch's to give
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    import psutil

    available = int(psutil.virtual_memory().available)
    return min([available, *container_bytes()])


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

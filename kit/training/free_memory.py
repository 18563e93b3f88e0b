"""How much memory a device has left, with the limit of the container that this process is in."""

from __future__ import annotations

import torch

from kit.runner.memory import free_memory_bytes


def free_bytes(device: torch.device) -> int:
    """Return the bytes that may still be taken on a device; a "meta" device counts as the CPU."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + held  # what torch holds without using it is torch's to give
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return free_memory_bytes()

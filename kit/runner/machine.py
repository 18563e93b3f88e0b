"""What a run ran on: device type, versions, and the machine; found without importing torch."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

DISTRIBUTION = "multimodal-kit"
RECORDED = (
    *("torch", "transformers", "peft", "open_clip_torch", "timm"),
    *(DISTRIBUTION, "accelerate", "numpy", "papermill", "nbclient", "ipykernel"),
)


def digested() -> dict[str, str | None]:
    """Return the versions that are part of a run's digest: Python's, and those of all that kit runs on.

    A change in any of them may move a number (a resize in pillow, a drawing in resvg_py, a solver in scipy), and
    which of them a notebook uses is not known before it runs. Python counts by its minor version alone.
    """
    try:
        required = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # kit's sources on the path, not installed
        required = list(RECORDED)
    words = [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in required if "extra ==" not in line]
    # Build tools differ in how they write resvg_py; PEP 503's form is the same everywhere.
    names = {re.sub(r"[-_.]+", "-", word).lower() for word in words} | {"peft"}
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"python": python, **versions(tuple(sorted(names - {DISTRIBUTION})))}


def versions(names: tuple[str, ...] = RECORDED) -> dict[str, str | None]:
    """Return installed versions by distribution name; None where a package is absent."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def device_type() -> str:
    """Return "cuda", "mps" or "cpu", or what ``KIT_DEVICE`` says."""
    told = os.environ.get("KIT_DEVICE", "").partition(":")[0].strip().lower()
    if told:
        return told
    if os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}:
        return "cpu"
    # On WSL and Windows there is no /dev/nvidia0; the driver's own tool is there on all three.
    if Path("/dev/nvidia0").exists() or _nvidia_smi_finds_one():
        return "cuda"
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "mps"
    return "cpu"


def _nvidia_smi_finds_one() -> bool:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU" in listed.stdout


def describe() -> dict[str, object]:
    """Return the machine as plain JSON values: system, processor, cores, memory in GiB, Python, device type."""
    import psutil

    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "device": device_type(),
    }


def usable_cores() -> int:
    """Return how many cores this process may use."""
    cores = core_numbers()
    return (os.cpu_count() or 1) if cores is None else len(cores)


def core_numbers() -> set[int] | None:
    """Return which cores this process may use; None where the system has no affinity: macOS and Windows."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()

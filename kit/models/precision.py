"""At which precision a machine computes quickly."""

from __future__ import annotations

from pathlib import Path

import torch


def best_precision(device: torch.device | str) -> str:
    """Return what ``fit`` should be asked for on a device: "bf16", "fp16" or "no" (float32).

    A processor counts where it multiplies bfloat16 itself (AVX512-BF16, AMX, or Arm's bf16: 415 against 178 GFLOP/s
    on two cores); elsewhere torch emulates it at a fraction of float32's speed. The same goes for a T4, which torch
    says supports bfloat16. On Apple's MPS float32 is safe with every torch.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if kind == "cpu" and {"avx512_bf16", "amx_bf16", "bf16"} & _cpu_flags() else "no"


def _cpu_flags(file: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Return what the first processor says it can do; empty where the system has no such file."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    return next(
        (set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))), set()
    )

"""How fast this machine is: a few seconds of measuring, kept in kit's cache; no torch needed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from kit.runner import ledger, machine

SIDE = 2048  # of the product: large enough that BLAS runs at its best
COPIED = 2**28  # bytes: more than any cache holds
QUIET = 0.15  # of the cores, used by others
SNIPPET = """
import ast, json
for n in range(60):
    json.loads(json.dumps(ast.dump(ast.parse("f(x) + [1, 2, 3] * y\\n" * 60))))
"""


@dataclass(frozen=True)
class Speed:
    """What a machine does in a second.

    Args:
        gflops: Products of large float32 matrices, GFLOP a second, on all cores that may be used.
        gib_per_s: Memory read while it is copied, GiB a second.
        python_s: Seconds of a fixed piece of pure Python.
        imports_s: Seconds of importing torch in a new process.
        busy: How much of these cores others used meanwhile, 0 to 1.
    """

    gflops: float
    gib_per_s: float
    python_s: float
    imports_s: float
    busy: float = 0.0


def here(cache: Path, *, again: bool = False, kept: bool = False) -> Speed:
    """Return the speed of this machine with the cores that this process may use, measured once for each.

    What was measured beside others' work is measured again the next time, and the better of both counts.

    Args:
        cache: The folder to keep it in.
        again: Measure even if it is there.
        kept: Take what is there, whatever others did while it was measured.
    """
    described = machine.describe()
    said = [described["processor"], described["cores"], described["python"], os.environ.get("OMP_NUM_THREADS", "")]
    name = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]
    path = cache / f"speed-{name}.json"
    there = None if again else _kept(path)
    if there is not None and (kept or there.busy <= QUIET):
        return there
    found = measure() if there is None else _better(measure(), there)
    cache.mkdir(parents=True, exist_ok=True)
    ledger.write_text(path, json.dumps(asdict(found)))
    return found


def _kept(path: Path) -> Speed | None:
    try:
        return Speed(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # none yet, or one of another kit
        return None


def _better(one: Speed, other: Speed) -> Speed:
    return Speed(
        max(one.gflops, other.gflops), max(one.gib_per_s, other.gib_per_s), min(one.python_s, other.python_s),
        min(one.imports_s, other.imports_s), min(one.busy, other.busy),
    )  # fmt: skip


def measure() -> Speed:
    """Return this machine's speed, the best of a few tries each: others' work makes it slower and nothing faster."""
    import numpy as np

    before = _used()
    a = np.ones((SIDE, SIDE), dtype=np.float32)
    product = _best(lambda: np.dot(a, a), tries=6)
    source = np.ones(COPIED, dtype=np.uint8)
    target = np.empty_like(source)
    copy = _best(lambda: np.copyto(target, source), tries=4)
    code = compile(SNIPPET, "calibration", "exec")
    python = _best(lambda: exec(code, {}), tries=4)  # noqa: S102 - our own lines
    command = [sys.executable, "-c", "import torch"]
    imports = _best(lambda: subprocess.run(command, check=False, capture_output=True), tries=2)
    return Speed(
        gflops=round(2 * SIDE**3 / product / 1e9, 1), gib_per_s=round(COPIED / copy / 2**30, 2),
        python_s=round(python, 4), imports_s=round(imports, 2), busy=_others(before),
    )  # fmt: skip


def _best(work: Callable[[], object], *, tries: int) -> float:
    taken = []
    for _ in range(tries):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def _used() -> tuple[float, float, float]:
    """Return the clock, the seconds that all processes have used on these cores, and this one's with its children."""
    import psutil

    cores = machine.core_numbers()
    busy = sum(
        sum(one) - one.idle - getattr(one, "iowait", 0.0) - getattr(one, "guest", 0.0)
        for place, one in enumerate(psutil.cpu_times(percpu=True))
        if cores is None or place in cores
    )
    return time.perf_counter(), busy, sum(os.times()[:4])


def _others(before: tuple[float, float, float]) -> float:
    """Return the share of these cores that others have used since ``before``."""
    clock, busy, own = (now - then for now, then in zip(_used(), before, strict=True))
    return round(min(1.0, max(0.0, (busy - own) / clock / machine.usable_cores())), 2)

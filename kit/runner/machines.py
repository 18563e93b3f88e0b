"""Machines that a run may be planned for: this one, one of a small table, or one that was measured elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from kit.errors import RunError, did_you_mean, listed
from kit.runner.calibrate import Speed, here
from kit.runner.machine import describe
from kit.runner.memory import free_memory_bytes

# Two shared x86 cores with AVX512, on which the recipes' figures were measured in November 2026.
REFERENCE = Speed(gflops=250.0, gib_per_s=18.0, python_s=0.058, imports_s=1.4)
ONE_THREAD = 0.53  # of the products of two


@dataclass(frozen=True)
class Machine:
    """A machine to plan for.

    Args:
        name: What it is called.
        memory_gib: What a run may take, GiB.
        disk_gib: What it may leave on the disk, GiB.
        speed: How fast it is.
        measured: Whether the speed was measured there, and not taken from the reference machine's core.
        price_per_hour: What it costs an hour; None where nobody said.
        priced: Where the price is from and of when.
    """

    name: str
    memory_gib: float
    disk_gib: float
    speed: Speed
    measured: bool = True
    price_per_hour: float | None = None
    priced: str = ""


def _like_reference(cores: int) -> Speed:
    """Return the speed of a machine with ``cores`` hardware threads like the reference machine's."""
    scale = ONE_THREAD if cores == 1 else cores / 2
    return replace(REFERENCE, gflops=REFERENCE.gflops * scale)


# Prices by their providers' public lists, as pages of 2026 quote them; memory in GiB of 2**30 bytes.
NAMED: Mapping[str, Machine] = {
    machine.name: machine
    for machine in (
        Machine("binder", 1.86, 5.0, _like_reference(1), measured=False, price_per_hour=0.0,
                priced="mybinder.org, free"),
        Machine("spaces-cpu-basic", 14.9, 46.0, _like_reference(2), measured=False, price_per_hour=0.0,
                priced="Hugging Face, free hardware of a paid plan, 2026"),
        Machine("spaces-cpu-upgrade", 29.8, 46.0, _like_reference(8), measured=False, price_per_hour=0.03,
                priced="USD, Hugging Face, 2026"),
        Machine("m7i.xlarge", 16.0, 50.0, _like_reference(4), measured=False, price_per_hour=0.2016,
                priced="USD, AWS us-east-1 on demand, 2026"),
    )
}  # fmt: skip


def this_machine(cache: Path, out: Path, *, again: bool = False, kept: bool = False) -> Machine:
    """Return this machine, with what memory and disk are free now.

    Args:
        cache: Where its speed is kept.
        out: The folder of runs, for the disk that it is on.
        again: Measure its speed anew.
        kept: Take a speed that is kept, even if others were busy while it was measured.
    """
    folder = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free / 2**30
    speed = here(cache, again=again, kept=kept)
    return Machine(f"this machine, {describe()['cores']} cores", free_memory_bytes() / 2**30, free, speed)


def find_machine(name: str) -> Machine:
    """Return the machine that ``name`` names: one of the table, or a file that ``kit plan --save-machine`` wrote.

    Raises:
        RunError: no such machine, or a file that is none.
    """
    if name in NAMED:
        return NAMED[name]
    path = Path(name).expanduser()
    if path.suffix != ".json" or not path.is_file():
        known = f"Known: {listed(NAMED)}, or a file that kit plan --save-machine FILE.json wrote on the machine."
        raise RunError.of(f"--machine {name}", f"no such machine.{did_you_mean(name, NAMED)}", allowed=known)
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return Machine(**{**values, "speed": Speed(**values["speed"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError.of(str(path), f"is no machine's file: {error}", "write it anew there") from error


def saved(machine: Machine, path: Path) -> str:
    """Return the text of a machine's file, under the file's name, with all of its memory rather than what is free."""
    memory = float(str(describe()["memory_gib"]))
    return json.dumps(asdict(replace(machine, name=path.stem, memory_gib=memory)), indent=1)

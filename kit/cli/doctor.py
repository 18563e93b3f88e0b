"""``kit doctor``: what this machine offers kit, and what is broken."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

ESSENTIAL = ("torch", "transformers", "open_clip", "timm", "papermill", "nbclient", "nbconvert", "ipykernel", "pip")

QUANTISATION = ("bitsandbytes", "torchao", "onnxruntime", "onnx", "onnxscript")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        what: What was looked at.
        found: What is there.
        good: Whether kit can work with it.
        fix: What to do when not.
    """

    what: str
    found: str
    good: bool = True
    fix: str = ""


def doctor() -> None:
    """Look at Python, packages, device, memory, disk and parts; exit code 1 when something essential is broken."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    found = list(findings())
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in found:
        mark = "[green]ok[/]" if finding.good else "[bold red]broken[/]"
        told = finding.found + (f"\nFix: {finding.fix}" if finding.fix else "")
        table.add_row(Text(finding.what), Text(told), mark)  # as Text: a folder named "[a]" is no markup
    Console(width=None if sys.stdout.isatty() else 120, highlight=False).print(table)
    if not all(finding.good for finding in found):
        raise typer.Exit(1)


def findings() -> Iterator[Finding]:
    """Look at everything, one finding after the other."""
    from kit.parts.pull import kit_home, states
    from kit.runner import machine

    told = machine.describe()
    supported = (3, 11) <= sys.version_info < (3, 14)
    yield Finding(
        "Python", f"{told['python']} ({sys.executable})", supported, "" if supported else "use Python 3.11 to 3.13"
    )
    for name, version in machine.versions().items():
        if version is not None:
            yield Finding(name, version)
    missing = [name for name in ESSENTIAL if importlib.util.find_spec(name) is None]
    if missing:
        yield Finding("packages", f"missing: {', '.join(missing)}", good=False, fix=f"pip install {' '.join(missing)}")
    yield _quantisation()
    yield Finding("device", str(told["device"]))
    yield Finding("machine", f"{told['cores']} cores, {told['memory_gib']} GiB, {told['processor']}, {told['system']}")
    yield _folder("KIT_HOME", kit_home())
    yield _folder("working directory", Path.cwd())
    here = [state.part.name for state in states() if state.here]
    yield Finding("parts", f"{len(here)} of {len(states())} here{': ' + ', '.join(here) if here else ''}")


def _quantisation() -> Finding:
    """Return which of the packages that make smaller copies are here; none of them is essential."""
    lacking = [name for name in QUANTISATION if importlib.util.find_spec(name) is None]
    here = [name for name in QUANTISATION if name not in lacking]
    found = f"{', '.join(here) or 'none'} here"
    more = f"; {', '.join(lacking)} not: pip install 'multimodal-kit[quantization]'" if lacking else ""
    return Finding("smaller copies", found + more)


def _folder(what: str, path: Path) -> Finding:
    """Return whether a folder, or the nearest one above it that exists, can be written, and its free space."""
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding(what, f"{path}: cannot be written", good=False, fix="make it writable, or choose another")
    return Finding(what, f"{path}, {shutil.disk_usage(there).free / 1e9:.1f} GB free")

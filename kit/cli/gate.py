"""How the parity gate is shown, wherever a copy passes through it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any


def show_gate(gate: Any, tolerance: Any) -> bool:
    """Show a copy's parity with its bundle and what exceeds its tolerance; return whether nothing does.

    Args:
        gate: A ``kit.quantization.parity.Parity``.
        tolerance: A ``kit.quantization.parity.Tolerance``.
    """
    show_table(("parity with the bundle", "observed", "allowed", ""), gate.rows(tolerance))
    faults = gate.faults(tolerance)
    for fault in faults:
        print(fault, file=sys.stderr)
    return not faults


def show_table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows under their columns' names."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(table)

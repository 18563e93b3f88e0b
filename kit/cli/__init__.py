"""The command ``kit``: one module per group of commands."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit: 0 good, 1 a failed claim, 2 bad input, 130 interrupted."""
    from kit.cli.app import app

    app()

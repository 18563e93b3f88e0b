"""An executed notebook made fit to be kept: the run's lasting path in it, and no secret."""

from __future__ import annotations

import json
import os
from pathlib import Path

from kit.runner import ledger


def tidy(path: Path, *, folder: Path, final: Path) -> None:
    """Put the run's lasting path and no secret into an executed notebook.

    Args:
        path: The notebook; nothing happens where it is not there.
        folder: Where the run was at work.
        final: Where it will be.
    """
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8").replace(_escaped(folder), _escaped(final))
    for value in _secrets():
        text = text.replace(_escaped(value), "[secret]")
    ledger.write_text(path, text)


def _escaped(value: Path | str) -> str:
    return json.dumps(str(value), ensure_ascii=False)[1:-1]


def _secrets() -> list[str]:
    """Return the values of environment variables that are named like secrets: a notebook may have printed one."""
    from kit.runner.parameters import looks_secret

    return [value for name, value in os.environ.items() if len(value) >= 8 and looks_secret(name)]

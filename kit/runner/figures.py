"""A run's figures as files, for a README, a slide or a message."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from kit.errors import RunError
from kit.runner.execute import EXECUTED


def pictures(run: Path) -> list[str]:
    """Return every PNG that a run's cells show, in base64.

    Raises:
        RunError: no executed notebook.
    """
    try:
        cells = json.loads((run / EXECUTED).read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError) as error:
        raise RunError.of(str(run), f"has no executed notebook that can be read: {error}", "run it again") from error
    outputs = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
    return ["".join(data["image/png"]) for data in outputs if "image/png" in data]


def write_figures(run: Path, into: Path, *, name: str) -> list[Path]:
    """Write every PNG that a run's cells show as ``NAME-1.png``, ``NAME-2.png``, … and return the files.

    Args:
        run: A run's folder.
        into: Where to; made if need be, and files of these names are replaced.
        name: How the files' names begin.

    Raises:
        RunError: no executed notebook, no figure in it, or a folder that cannot be written.
    """
    found = pictures(run)
    if not found:
        raise RunError.of(str(run), "shows no figure", "draw one with matplotlib in the notebook")
    files = []
    try:
        into.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(found, start=1):
            files.append(into / f"{name}-{number}.png")
            files[-1].write_bytes(base64.b64decode(picture))
    except OSError as error:
        raise RunError.of(str(into), f"cannot be written: {error.strerror}", "choose another folder") from error
    return files

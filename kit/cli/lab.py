"""``kit lab``: JupyterLab on kit's notebooks."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from kit.errors import RunError

COPY = "kit-notebooks"


def lab(
    browser: Annotated[bool, typer.Option(help="Open the browser.")] = True,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes any free one.")] = 8888,
) -> None:
    """Open JupyterLab on kit's notebooks, on this machine only.

    From a clone it opens the clone's own notebooks; from an installed kit a copy in ./kit-notebooks, in which
    nothing of yours is ever overwritten.
    """
    from kit.runner.warm import PATIENT

    folder = notebooks_folder(Path.cwd())
    command = [sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", f"--port={port}"]
    command += [f"--ServerApp.root_dir={folder}", *([] if browser else ["--no-browser"])]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")  # in a container one is root, and the server listens here only
    print(f"JupyterLab on {folder}; ^C ends it.", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os.environ.update({**PATIENT, **os.environ})
    os.execv(sys.executable, command)  # noqa: S606 - one process less between ^C and the server


def notebooks_folder(here: Path) -> Path:
    """Return the clone's notebooks, or a copy below ``here`` to which missing notebooks are added.

    Raises:
        RunError: kit came without notebooks, or the copy cannot be written.
    """
    from kit.runner.library import share

    source = share() / "notebooks"
    if not source.is_dir():
        raise RunError.of(str(source), "this kit came without notebooks", "reinstall multimodal-kit, or use a clone")
    if source.parent.name != "_share":
        return source
    folder = here / COPY
    try:
        folder.mkdir(exist_ok=True)
        for notebook in sorted(source.glob("*.ipynb")):
            if not (folder / notebook.name).exists():
                shutil.copyfile(notebook, folder / notebook.name)
    except OSError as error:
        raise RunError.of(str(folder), f"cannot be written: {error.strerror}", "change to a folder of yours") from error
    return folder

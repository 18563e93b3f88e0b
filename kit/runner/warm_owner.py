"""Who starts a preloaded process: an owner with whom it ends, or a kernelspec, after which it waits for a while."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from kit.runner.warm import DEFAULTS, VARIABLE, fixed

# What takes long to import and does nothing else when it is; kit itself is not here, so that its sources may change.
PRELOAD = (
    *("ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "ipywidgets", "numpy", "scipy.stats"),
    *(
        "matplotlib.pyplot",
        "PIL.Image",
        "torch",
        "torchvision",
        "transformers",
        "peft",
        "open_clip",
        "timm",
        "accelerate",
    ),
    *("safetensors.torch", "tqdm.auto", "yaml"),
)
IDLE_S = 900.0  # a shared one ends after so long without a kernel


def can_fork() -> bool:
    """Return whether this system forks safely: Linux does; macOS's frameworks do not, and Windows has no fork."""
    return sys.platform == "linux"


@contextmanager
def warm_kernels(*, preload: Sequence[str] = PRELOAD, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Start a preloaded process that ends with this one; runs below this process find it by ``KIT_WARM``.

    Returns at once; the first kernel waits until everything is imported. ``KIT_WARM`` in the environment wins: its
    owner is somebody else, or warm kernels are not wanted ("0").

    Args:
        preload: Modules to import beforehand.
        env: What its kernels will have in their environment beyond this process's own, as far as libraries read it.
    """
    told = os.environ.get(VARIABLE)
    if told is not None or not can_fork():
        yield told or "0"
        return
    folder = Path(tempfile.mkdtemp(prefix="kit-warm-"))  # 0700
    address = str(folder / "s")
    process = _start(address, ["--with-owner", *preload], stdin=subprocess.PIPE, env=env)
    os.environ[VARIABLE] = address
    try:
        yield address
    finally:
        os.environ.pop(VARIABLE, None)
        if process.stdin is not None:
            process.stdin.close()  # which it takes for its owner's end
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def shared_address() -> str:
    """Return the socket of the preloaded process that all of a user's ``kit-warm`` kernels share; started if need be.

    There is one for each Python and each environment that its libraries would have read.
    """
    if not can_fork():
        return "0"
    said = repr([sys.executable, sorted(fixed({**DEFAULTS, **os.environ}).items()), sorted(os.sched_getaffinity(0))])
    root = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    folder = root / f"kit-warm-{os.getuid()}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.stat().st_uid != os.getuid():  # somebody else was first, in a folder that all may write
        return "0"
    import filelock

    address = str(folder / "s")
    with filelock.FileLock(folder / "lock"):
        if not _answers(address):
            # It forks at once, and the fork goes on.
            _start(address, ["--idle-s", str(IDLE_S), *PRELOAD], stdin=subprocess.DEVNULL).wait()
    return address


def _answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as link:
        try:
            link.connect(address)
        except OSError:
            return False
    return True


def _start(
    address: str, words: list[str], *, stdin: int, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start the process with a socket that listens already, so that whoever comes too early waits."""
    path = Path(address)
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        before = os.umask(0o177)
        try:
            door.bind(address)
        finally:
            os.umask(before)
        door.listen(64)
        number = door.fileno()
        with (path.parent / "log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "kit.runner.warm_server", str(number), address, *words],
                stdin=stdin,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=path.parent,
                pass_fds=(number,),
                start_new_session=True,
                env={**DEFAULTS, **os.environ, **(env or {})},
            )

"""A kernel for one run: its own process tree, started beside us and gone when the run ends, however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

# Linux allows 107 bytes for a socket's path, macOS 103; ours adds "/k-ipc-1".
_LONGEST_SOCKET_FOLDER = 90


_running: set[int] = set()  # the kernels of this process, for who must end them from another thread


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came; ends a run as ^C does."""


@contextmanager
def kernel(
    language: str,
    kernel_name: str,
    *,
    cwd: Path,
    env: Mapping[str, str],
    log: IO[bytes],
    spec_python: str = sys.executable,
    warm: str = "",
) -> Iterator[Any]:
    """Start a kernel, give its (asynchronous) manager, and end it with everything that it started.

    A Python notebook runs on the Python that runs kit, whatever kernelspec its file names: a ``python3`` spec of
    another environment would not find kit, and a name from someone else's machine is not installed here.

    Args:
        language: The notebook's language, lower case.
        kernel_name: The kernelspec to use for another language than Python.
        cwd: The kernel's working directory.
        env: The kernel's environment.
        log: Takes what the kernel process itself writes.
        spec_python: The interpreter for Python notebooks.
        warm: The socket of a preloaded process that forks Python kernels; by default the one that ``KIT_WARM`` names,
            and a cold kernel without one, or where a fork would not be the same.
    """
    from jupyter_core.utils import run_sync

    from kit.runner.client import ClosingManager
    from kit.runner.warm import VARIABLE

    _sweep_sockets()
    # 0700, so nobody else reaches the sockets
    folder = Path(tempfile.mkdtemp(prefix=f"kit-kernel-{os.getpid()}-"))
    settings: dict[str, Any] = {"connection_file": str(folder / "k.json"), "kernel_name": kernel_name}
    if os.name == "posix" and len(os.fsencode(folder)) < _LONGEST_SOCKET_FOLDER:
        settings["transport"] = "ipc"  # no ports, so nothing to collide on: papermill's "Address already in use"
    manager = ClosingManager(**settings)
    if language == "python":
        manager._kernel_spec = _this_python(spec_python)
        _warmed(manager, warm or os.environ.get(VARIABLE, "0"))
    pid = 0
    try:
        run_sync(manager.start_kernel)(
            extra_arguments=["--HistoryManager.hist_file=:memory:"], cwd=str(cwd), env=dict(env), stdout=log, stderr=log
        )
        pid = manager.provisioner.pid
        _running.add(pid)
        yield manager
        with _undisturbed():
            run_sync(manager.shutdown_kernel)(now=False)  # lets the notebook's own exit handlers run
    finally:
        with _undisturbed():
            kill_tree(pid)
            _running.discard(pid)
            manager.close()
            shutil.rmtree(folder, ignore_errors=True)


def _sweep_sockets() -> None:
    """Remove the folders of processes that were killed and could not do it themselves."""
    import psutil

    for path in Path(tempfile.gettempdir()).glob("kit-kernel-*-*"):
        pid = path.name.split("-")[2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def _this_python(python: str) -> Any:
    from jupyter_client.kernelspec import KernelSpec

    argv = [python, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    return KernelSpec(argv=argv, language="python", display_name="Python 3")


def _warmed(manager: Any, address: str) -> None:
    """Let a manager ask the preloaded process at ``address`` for its kernel, before it starts one itself."""
    if address == "0":
        return
    from kit.runner.warm_provisioner import WarmProvisioner

    manager.kernel_id = str(uuid.uuid4())
    manager.provisioner = WarmProvisioner(
        kernel_id=manager.kernel_id, kernel_spec=manager._kernel_spec, parent=manager, address=address
    )


def why_cold(manager: Any) -> str:
    """Return why a manager's kernel is a cold one; empty for a warm one."""
    return str(getattr(manager.provisioner, "cold", "no preloaded process was there"))


def end_all() -> None:
    """Kill every kernel that this process runs, with all that they started: the runs in other threads then end."""
    for pid in list(_running):
        kill_tree(pid)


def kill_tree(pid: int) -> None:
    """Kill a kernel and everything in its session, also what its death has already orphaned."""
    import psutil

    if pid <= 0:
        return
    doomed: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid == pid or _session(process.pid) == pid:
            doomed[process.pid] = process
    with suppress(psutil.Error):  # the kernel itself may be gone; its session was looked through above
        doomed.update({child.pid: child for child in psutil.Process(pid).children(recursive=True)})
    for process in doomed.values():
        try:
            process.kill()
        except psutil.Error:
            continue
    psutil.wait_procs(list(doomed.values()), timeout=5)


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (OSError, AttributeError):
        return None


@contextmanager
def signals_end_the_run() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end a run as ^C does, so that its kernel and its half-written folder go."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        raise Terminated(signal.Signals(number).name)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {name: signal.signal(getattr(signal, name), stop) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore a second ^C while the kernel is being ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)

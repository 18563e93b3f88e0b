"""Warm kernels, seen from outside: ask a preloaded process for a fork of itself, or hear why it must be a cold one.

Only the standard library is imported here: ``python -m kit.runner.warm -f FILE`` is the command of the kernelspec
``kit-warm``, and every kernel waits for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

VARIABLE = "KIT_WARM"  # the socket of a preloaded process; "0": never warm
WAIT_S = 120.0  # for a process that still preloads, on a machine that is busy
# What libraries read once, when they are imported. A kernel with another value needs a process of its own.
FIXED = (
    *(
        "ACCELERATE_",
        "ATEN_",
        "BNB_",
        "CUDA_",
        "GOMP_",
        "HF_",
        "HOME",
        "HUGGINGFACE_",
        "KMP_",
        "LD_",
        "MALLOC_",
        "MKL_",
    ),
    *("MPL", "NPY_", "NUMEXPR_", "NVIDIA_", "OMP_", "OPENBLAS_", "PYTHON", "PYTORCH_", "TOKENIZERS_", "TORCH"),
    *("TRANSFORMERS_", "XDG_"),
)
READ_LATER = frozenset({"HF_TOKEN"})
# Threads that wait spin only briefly before they give their core away. Pictures a second, measured on two cores: by
# default 65 alone and 4 to 14 beside one other busy process; with this 60 and 35. What the user has set wins.
PATIENT = MappingProxyType({"GOMP_SPINCOUNT": "5000"})
# What a preloaded process is started with; the second is ipykernel's, which comes too late for its matplotlib.
DEFAULTS = MappingProxyType({**PATIENT, "MPLBACKEND": "module://matplotlib_inline.backend_inline"})


def fixed(env: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an environment that a preloaded process cannot change for its forks.

    >>> fixed({"HF_HUB_OFFLINE": "1", "HF_TOKEN": "x", "KIT_RUN_DIR": "/r"})
    {'HF_HUB_OFFLINE': '1'}
    """
    return {name: value for name, value in env.items() if name.startswith(FIXED) and name not in READ_LATER}


class WarmKernel:
    """A forked kernel as ``subprocess.Popen`` shows a process; it dies when this object's socket closes.

    Args:
        pid: The kernel's process, which leads a session and a process group of its own.
        link: The connection to the process that forked it, which tells its end.
    """

    stdin = stdout = stderr = None

    def __init__(self, pid: int, link: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._link = link

    def poll(self) -> int | None:
        """Return how the kernel ended, as Popen does: negative for a signal; None while it lives."""
        return self._hear(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the kernel's end and return its code.

        Raises:
            TimeoutError: it lives on after ``timeout`` seconds.
        """
        found = self._hear(timeout)
        if found is None:
            raise TimeoutError(f"kernel {self.pid} still runs after {timeout:g} s")
        return found

    def send_signal(self, number: int) -> None:
        """Send a signal to the kernel's process; nothing when it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def _hear(self, timeout: float | None) -> int | None:
        if self.returncode is not None:
            return self.returncode
        try:
            self._link.settimeout(timeout)
            said = _line(self._link)
        except (TimeoutError, BlockingIOError):
            return None
        except OSError:
            said = {}
        # Without a word the preloaded process itself is gone, and its kernels with it.
        self.returncode = int(said.get("exit", -signal.SIGKILL))
        self._link.close()
        return self.returncode


def launch(
    command: Sequence[str], *, address: str, cwd: str, env: Mapping[str, str], files: tuple[int, int, int]
) -> WarmKernel | str:
    """Return a warm kernel, or the reason why this one must be cold.

    Args:
        command: What would start it cold: ``[python, …, "-m", "ipykernel_launcher", "-f", FILE, …]``.
        address: The socket of the preloaded process.
        cwd: Its working directory.
        env: Its environment.
        files: What become its standard input, output and error.
    """
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | getattr(socket, "SOCK_CLOEXEC", 0))
    try:
        link.settimeout(WAIT_S)
        link.connect(address)
        wanted = {
            "python": command[0],
            "argv": list(command[command.index("ipykernel_launcher") + 1 :]),
            "cwd": cwd,
            "env": dict(env),
            "cores": sorted(os.sched_getaffinity(0)),
            "umask": _umask(),
        }
        text = json.dumps(wanted).encode() + b"\n"
        sent = socket.send_fds(link, [text], list(files))
        link.sendall(text[sent:])
        said = _line(link)
    except (OSError, ValueError, AttributeError) as error:  # no such socket, nobody there, no affinity on this system
        link.close()
        return f"no preloaded process answers at {address}: {error}"
    if "pid" not in said:
        link.close()
        return str(said.get("cold", "the preloaded process ended"))
    return WarmKernel(said["pid"], link)


def _line(link: socket.socket) -> dict[str, Any]:
    """Return the next line as JSON; an empty mapping when the other side is gone. Lines from there are short."""
    text = b""
    while not text.endswith(b"\n"):
        more = link.recv(1)  # never a byte of the next line
        if not more:
            return {}
        text += more
    found: dict[str, Any] = json.loads(text)
    return found


def _umask() -> int:
    """Return this process's umask, which os.umask would change for other threads meanwhile."""
    for line in open("/proc/self/status", encoding="ascii", errors="replace"):  # noqa: PTH123, SIM115 - before pathlib
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022


def main(words: Sequence[str]) -> int:
    """Be the kernel that a Jupyter client starts: hold on to a warm one until either side ends, or become a cold one.

    Args:
        words: The arguments that ipykernel_launcher would get.

    Returns:
        The kernel's exit code; a kernel that a signal ended takes this process with it by the same signal.
    """
    from kit.runner.warm_owner import shared_address

    command = [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", *words]
    told = os.environ.get(VARIABLE)
    address = shared_address() if told is None else told
    found: WarmKernel | str = "" if address in {"", "0"} else "cold"
    if found:
        found = launch(command, address=address, cwd=str(os.getcwd()), env=os.environ, files=(0, 1, 2))  # noqa: PTH109
    if not isinstance(found, WarmKernel):
        if found:
            print(f"kit-warm: a cold kernel, because {found}", file=sys.stderr, flush=True)
        os.execv(command[0], command)  # noqa: S606 - this process becomes the kernel
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: found.send_signal(number))
    while (code := found.poll()) is None:
        time.sleep(0.05)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in {signal.SIGKILL, signal.SIGSTOP} else None
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

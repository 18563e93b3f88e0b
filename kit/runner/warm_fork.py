"""What a fork of the preloaded process does to become a kernel of its own, and how it ends."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

_DIES_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def alone(files: Sequence[int]) -> None:
    """Make a fresh fork a process of its own: session, end, files and signals."""
    os.setsid()
    # Should the preloaded process be killed, nobody would be left to end its kernels.
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    for number, given in enumerate(files):
        os.dup2(given, number)
    for number in files:
        os.close(number)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def become_kernel(request: Mapping[str, Any]) -> None:
    """Be the IPython kernel that was asked for, until it is shut down."""
    os.environ.clear()
    # The parent that this names is not ours; the socket tells us when it is gone.
    os.environ.update({name: value for name, value in request["env"].items() if name != "JPY_PARENT_PID"})
    os.umask(request["umask"])
    os.sched_setaffinity(0, request["cores"])
    os.chdir(request["cwd"])
    _reseed()
    sys.argv = ["ipykernel_launcher", *request["argv"]]
    from ipykernel.kernelapp import IPKernelApp

    IPKernelApp.launch_instance()


def leave() -> NoReturn:
    """End as Python does, but for taking every module apart: with all that is preloaded that took half a second."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _reseed() -> None:
    """Give numpy's old generator and torch's a seed of their own, as in a new process; random reseeds itself."""
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.seed()

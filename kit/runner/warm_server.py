"""The preloaded process: imports once what notebooks import, then forks an isolated IPython kernel for each that asks.

``python -m kit.runner.warm_server DOOR ADDRESS [--with-owner | --idle-s N] MODULE …``, where DOOR is the number of a
socket that listens already. One thread, no CUDA, and no parallel region before a fork: neither survives one.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.runner.warm import DEFAULTS, fixed
from kit.runner.warm_fork import alone, become_kernel, leave

_LONGEST = 4 * 2**20  # bytes of a request: an environment and some words


@dataclass
class _Asked:
    """A kernel that somebody asks for: the words so far, and the files that came with them."""

    text: bytes = b""
    files: list[int] = field(default_factory=list)
    pid: int = 0


@dataclass
class Server:
    """The loop that waits for requests, ends of kernels, and the end of whoever wants them.

    Args:
        door: A Unix socket that listens.
        env: The environment as the libraries saw it when they were imported.
        idle_s: Seconds without a kernel after which the loop ends; None for never.
        owner: A file whose end is the owner's end; None without one.
    """

    door: socket.socket
    env: Mapping[str, str]
    idle_s: float | None = None
    owner: int | None = None
    links: dict[socket.socket, _Asked] = field(default_factory=dict)
    stamp: tuple[Any, ...] = ()

    def serve(self) -> dict[str, Any] | None:
        """Serve until the owner is gone or nobody has come for long.

        Returns:
            In a forked kernel: its request, with which it leaves the loop. In the preloaded process, at the end: None.
        """
        self.stamp = installed()
        bell, rung = socket.socketpair()
        for end in (bell, rung):
            end.setblocking(False)
        signal.set_wakeup_fd(rung.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        waiting = selectors.DefaultSelector()
        sources: list[Any] = [self.door, bell, *([] if self.owner is None else [self.owner])]
        for source in sources:
            waiting.register(source, selectors.EVENT_READ)
        last = time.monotonic()
        while self.links or self.idle_s is None or time.monotonic() - last < self.idle_s:
            for key, _ in waiting.select(self.idle_s):
                last = time.monotonic()
                if key.fileobj == self.owner:
                    self._end_all()
                    return None
                if key.fileobj is bell:
                    _drain(bell)
                    self._reap(waiting)
                elif key.fileobj is self.door:
                    self._accept(waiting)
                elif key.fileobj not in self.links:  # its kernel ended in this very moment, and took it along
                    continue
                elif (request := self._hear(key.fileobj, waiting)) is not None:
                    waiting.close()
                    bell.close()
                    rung.close()
                    return request
        return None

    def _accept(self, waiting: selectors.BaseSelector) -> None:
        link, _ = self.door.accept()
        if _user_of(link) != os.getuid():
            link.close()
            return
        self.links[link] = _Asked()
        waiting.register(link, selectors.EVENT_READ)

    def _hear(self, link: Any, waiting: selectors.BaseSelector) -> dict[str, Any] | None:
        """Read on; return the request in the kernel that was forked for it."""
        asked = self.links[link]
        try:
            text, files, _, _ = socket.recv_fds(link, 65536, 3)
        except OSError:
            text, files = b"", []
        asked.text += text
        asked.files += files
        if not text or len(asked.text) > _LONGEST:
            self._drop(link, waiting)  # whoever asked is gone, and its kernel goes too
        elif asked.text.endswith(b"\n") and not asked.pid:
            return self._fork(link, asked, waiting)
        return None

    def _fork(self, link: socket.socket, asked: _Asked, waiting: selectors.BaseSelector) -> dict[str, Any] | None:
        request: dict[str, Any] = json.loads(asked.text)
        reason = self._why_cold(request) if len(asked.files) == 3 else "its files did not arrive"
        if reason:
            _tell(link, {"cold": reason})
            self._drop(link, waiting)
            return None
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid:
            asked.pid = pid
            _close(asked.files)
            _tell(link, {"pid": pid})
            return None
        signal.set_wakeup_fd(-1)
        alone(asked.files)
        self.door.close()
        for other in self.links:
            other.close()
        return request

    def _why_cold(self, request: Mapping[str, Any]) -> str:
        """Return why a fork of this process would not be what was asked for; empty when it would."""
        if request["python"] != sys.executable:
            return f"it is for {request['python']}, and {sys.executable} is preloaded"
        if len(request["cores"]) != len(os.sched_getaffinity(0)):
            return f"it has {len(request['cores'])} cores, and threads were counted for others at the preload"
        theirs, ours = fixed({**DEFAULTS, **request["env"]}), fixed(self.env)
        if differs := sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name)):
            return f"libraries read {', '.join(differs)} at the preload, with another value"
        if installed() != self.stamp:
            return "packages were installed or removed since the preload"
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            return "the preloaded process has touched CUDA"
        return ""

    def _reap(self, waiting: selectors.BaseSelector) -> None:
        """Tell of every kernel that has ended how it did."""
        for link, asked in list(self.links.items()):
            if not asked.pid:
                continue
            pid, status = os.waitpid(asked.pid, os.WNOHANG)
            if pid:
                _tell(link, {"exit": os.waitstatus_to_exitcode(status)})
                end_session(pid)
                asked.pid = 0
                self._drop(link, waiting)

    def _drop(self, link: socket.socket, waiting: selectors.BaseSelector) -> None:
        asked = self.links.pop(link)
        waiting.unregister(link)
        link.close()
        _close(asked.files)
        if asked.pid:
            end_session(asked.pid)
            os.waitpid(asked.pid, 0)

    def _end_all(self) -> None:
        for asked in self.links.values():
            if asked.pid:
                end_session(asked.pid)
                os.waitpid(asked.pid, 0)


def installed() -> tuple[Any, ...]:
    """Return what changes when a package is installed or removed: the times of the folders that hold them."""
    folders = [Path(place) for place in sys.path if place.endswith(("site-packages", "dist-packages"))]
    return tuple((str(folder), folder.stat().st_mtime_ns) for folder in folders if folder.is_dir())


def end_session(leader: int) -> None:
    """Kill every process of a session, also those whose parent has ended."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if os.getsid(int(entry.name)) == leader:
                    os.kill(int(entry.name), signal.SIGKILL)


def _user_of(link: socket.socket) -> int:
    _, user, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(user)


def _tell(link: socket.socket, said: Mapping[str, Any]) -> None:
    with suppress(OSError):  # whoever asked may be gone
        link.sendall(json.dumps(said).encode() + b"\n")


def _drain(bell: socket.socket) -> None:
    with suppress(BlockingIOError):
        while bell.recv(4096):
            pass


def _close(files: list[int]) -> None:
    """Close files and forget their numbers, which by then may be those of another kernel's link."""
    while files:
        with suppress(OSError):
            os.close(files.pop())


def _preload(modules: Sequence[str]) -> None:
    """Import what there is; a package that is missing or broken is the notebook's affair."""
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 - whatever a package does at import
            print(f"kit-warm: {name} is not preloaded: {error}", file=sys.stderr, flush=True)
    # kit's own modules are imported anew by each kernel, so that its sources may change meanwhile.
    for name in [name for name in sys.modules if name == "kit" or name.startswith("kit.")]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()  # a collection in a fork would write to every page that it shares


def main(words: Sequence[str]) -> None:
    """Preload, serve, and leave no socket behind."""
    door = socket.socket(fileno=int(words[0]))
    address, modules = Path(words[1]), list(words[2:])
    idle_s = owner = None
    if modules[:1] == ["--with-owner"]:
        owner, modules = 0, modules[1:]
    elif modules[:1] == ["--idle-s"]:
        idle_s, modules = float(modules[1]), modules[2:]
        if os.fork():  # no child of whoever came first: Ray, for one, kills those of a worker that it no longer needs
            os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    env = dict(os.environ)
    _preload(modules)
    request = Server(door, env, idle_s, owner).serve()
    if request is not None:
        become_kernel(request)
        leave()
    address.unlink(missing_ok=True)
    if owner is not None:  # who may have been killed, and then does not do it
        shutil.rmtree(address.parent, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Ports for the servers of tests."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator

WORKERS = 16
# Below the ports that Linux lends to whoever asks for any: between the look and the server's start, which takes
# seconds, nobody is lent one of these, and each worker has its own.
LOWEST, HIGHEST = 10_000, 32_000


def _ports() -> Iterator[int]:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    own = list(range(LOWEST + worker, HIGHEST, WORKERS))
    random.Random(os.getpid()).shuffle(own)  # another suite on this machine begins elsewhere
    yield from own


_left = _ports()


def free_port() -> int:
    """Return a port that nothing listens at, and that no other test is given."""
    for port in _left:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("every port is taken")

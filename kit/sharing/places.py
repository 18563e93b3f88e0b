"""Where a page listens: whether the place is free, and what others call this machine."""

from __future__ import annotations

import socket

from kit.errors import KitError

EVERYWHERE = {"0.0.0.0", "::"}  # noqa: S104 - named to be told apart, not bound to


def check_free(host: str, port: int, error: type[KitError], *, fix: str) -> None:
    """Look that nothing listens at a place, before anything is done that takes seconds.

    Raises:
        KitError: of the class ``error``: it cannot be listened at, and what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as failure:
        what = f"cannot be listened at: {failure.strerror or failure}"
        raise error.of(f"{host}:{port}", what, fix) from failure


def free_port(host: str) -> int:
    """Return a port that nothing listens at."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def address_of(host: str, port: int) -> str:
    """Return the address of a page; of one that listens everywhere, this machine's address in its network."""
    shown = _own() if host in EVERYWHERE else host
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def _own() -> str:
    """Return this machine's address in its network; nothing is sent to find it out."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("10.255.255.255", 1))
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"

"""Voting pages that run in this process, and a real PostgreSQL for the long tests."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from postgres_server import postgres

from kit.humaneval.store import Store
from kit.humaneval.study import Study
from kit.sharing.arena import Arena
from kit.sharing.serve import Served, serve

__all__ = ["postgres"]


@pytest.fixture
def port() -> int:
    """A port that is free just now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def serving(tmp_path: Path, port: int) -> Iterator[Callable[..., Served]]:
    """Serve a study, by default from an SQLite file; all of it ends with the test."""
    running: list[tuple[Served, Store]] = []

    def start(study: Study, url: str = "", *, raters: tuple[str, ...] = ()) -> Served:
        store = Store(url or str(tmp_path / "votes.db"))
        served = serve(Arena(study, store, raters), port=port)
        running.append((served, store))
        return served

    yield start
    for served, store in running:
        served.close()
        store.close()

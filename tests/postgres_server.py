"""A real PostgreSQL of the tests' own, started once."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest


@dataclass
class Postgres:
    """A server in its own folder, reached through a socket there; no port, no password, nobody else."""

    programs: Path
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    def run(self, program: str, *words: str) -> None:
        subprocess.run(
            [self.programs / program, *words], check=True, capture_output=True, cwd=self.folder, **self.who()
        )

    def who(self) -> dict[str, str]:
        return {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}

    def start(self, *, fsync: bool = False) -> None:
        options = ["-c", "listen_addresses=", "-c", f"fsync={'on' if fsync else 'off'}"]
        command = ["-D", str(self.folder / "data"), "-k", str(self.folder), *options]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", *command], stdout=log, stderr=log, cwd=self.folder, **self.who()
            )
        for _ in range(600):  # a busy machine takes its time
            asked = subprocess.run([self.programs / "pg_isready", "-h", self.folder], capture_output=True)
            if asked.returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError((self.folder / "log").read_text())

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(20)
            self.process = None

    def database(self) -> str:
        """Make an empty database and return its URL."""
        name = f"votes_{uuid.uuid4().hex[:12]}"
        self.run("createdb", "-h", str(self.folder), "-U", "postgres", name)
        return f"postgresql+psycopg://postgres@/{name}?host={self.folder}"


@pytest.fixture(scope="session")
def postgres(need: Callable[[bool, str], None]) -> Iterator[Postgres]:
    found = shutil.which("initdb")
    candidates = [Path(found)] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    need(bool(candidates), "PostgreSQL is missing: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="kit-pg-"))
    server = Postgres(candidates[-1].resolve().parent, folder)
    if who := server.who():
        shutil.chown(folder, **who)
    try:
        server.run("initdb", "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "--no-sync")
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)

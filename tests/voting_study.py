"""A study with pictures whose files tell everything, a voting page that serves it, and a client that speaks to it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from free_ports import free_port
from PIL import Image

from kit.data.picture import Picture
from kit.humaneval.items import Item, Output
from kit.humaneval.store import Store
from kit.humaneval.study import Study
from kit.sharing.arena import Arena
from kit.sharing.serve import Served, serve

CONDITIONS = ("sunrise-base", "sunrise-tuned")


def picture(folder: Path, condition: str, number: int, *, side: int = 64) -> Output:
    """A picture in a file whose name, format and EXIF say who made it."""
    luck = np.random.default_rng(zlib.crc32(f"{condition} {number}".encode()))
    small = min(side, 8 if side <= 64 else side)  # a large one is noise: nothing about it compresses
    pixels = np.kron(
        luck.integers(0, 255, (small, small, 3), np.uint8), np.ones((side // small, side // small, 1), np.uint8)
    )
    path = folder / condition / f"{condition}_{number}.{'jpg' if condition.endswith('tuned') else 'png'}"
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0131] = condition
    Image.fromarray(pixels).save(path, exif=exif)
    return Output(picture=Picture.at(path))


def picture_study(folder: Path, n: int = 12, *, side: int = 64, **changed: Any) -> Study:
    """Pictures of two models; the prompt is a text."""
    items = tuple(
        Item(f"item-{i}", {name: picture(folder, name, i, side=side) for name in CONDITIONS}, f"A scene, number {i}")
        for i in range(n)
    )
    fields: dict[str, Any] = {"question": "Which fits the words better?", "raters": ("ana", "ben"), "repeats": 0}
    return Study(**{**fields, "name": "scenes", "conditions": CONDITIONS, "items": items, **changed})


@dataclass
class Client:
    """Votes as the page does, over one kept connection.

    Args:
        link: A rater's or the owner's.
    """

    link: str
    window: str = field(default_factory=lambda: uuid.uuid4().hex)
    connection: HTTPConnection | None = None

    def ask(self, path: str, body: bytes | None = None, **values: Any) -> tuple[int, Any]:
        """Return the status and the JSON of an answer."""
        address, _, token = self.link.partition("/#")
        if self.connection is None:
            self.connection = HTTPConnection(urlsplit(address).netloc, timeout=60)
        content = json.dumps(values).encode() if body is None else body
        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        try:
            self.connection.request("POST", f"/api/{path}", content, headers)
            answer = self.connection.getresponse()
            return answer.status, json.loads(answer.read())
        except BaseException:
            self.connection.close()
            self.connection = None
            raise

    def state(self, *have: str) -> dict[str, Any]:
        """Return what is to be shown."""
        status, view = self.ask("state", window=self.window, have=list(have))
        assert status == 200, view
        return dict(view)

    def vote(self, page: str, answer: Any = "left", *, name: str = "", have: tuple[str, ...] = ()) -> tuple[int, Any]:
        """Send an answer."""
        vote = {"page": page, "answer": answer, "uuid": name or str(uuid.uuid4()), "ms": 1500}
        return self.ask("answer", window=self.window, have=list(have), **vote)


@dataclass
class Command:
    """``kit study serve`` in a process of its own.

    Args:
        study: The study's YAML.
        words: What else is typed.
    """

    study: Path
    words: tuple[str, ...]
    process: subprocess.Popen[str] | None = None

    def start(self) -> dict[str, str]:
        """Start it and return the links that it prints, by whose they are."""
        typed = ["study", "serve", self.study.name, *self.words]
        command = [sys.executable, "-c", "from kit.cli import main; main()", *typed]
        self.process = subprocess.Popen(
            command, cwd=self.study.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        links, lines = dict[str, str](), []
        for line in self.process.stdout or ():
            lines.append(line)
            if found := re.match(r"(\S.*?)\s+(http://\S+)$", line.rstrip()):
                links[found.group(1)] = found.group(2)
            if line.startswith("^C"):
                return links
        raise AssertionError("".join(lines))

    def kill(self) -> None:
        """Kill it with -9."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate(timeout=20)
            self.process = None


def size_of(content: bytes) -> tuple[int, int]:
    """Return a picture's width and height."""
    return Image.open(io.BytesIO(content)).size


@pytest.fixture
def port() -> int:
    """A port of the test's own."""
    return free_port()


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

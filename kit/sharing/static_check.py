"""A static Space's folder served as files, used in a headless browser, and held to what Python finds."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kit.errors import BundleError, Fault, raise_faults
from kit.quantization.onnx_clip import open_onnx_clip
from kit.sharing.gallery import chromium
from kit.sharing.space_files import STATIC, folder_faults, is_static
from kit.sharing.static_space import ITEMS, MOST_BYTES, VECTORS, folder_bytes

TOP = 5
SAME = 0.99  # of the questions must find the same pictures, in the same order
FIRST_S = 5.0
PATIENCE_MS = 180_000
# Selectors, since the page's own policy forbids functions that are made of text.
READY = 'html[data-ready="true"], #loading.bad'
ANSWERED = '#found[data-answer]:not([data-answer="{}"]), #about.bad'
PLACES = "nodes => nodes.map(node => Number(node.dataset.place))"


@dataclass(frozen=True)
class StaticChecked:
    """What a static Space showed.

    Args:
        mb: The folder's size, in megabytes.
        load_s: Seconds until the page said that it is ready.
        first_s: Seconds from the Enter key to the first answer.
        asked: How many questions were asked, without a network.
        differ: Those whose first five pictures were not those of Python's onnxruntime on the same files.
        elsewhere: Addresses outside the folder that were asked for.
        complaints: What the browser complained about: errors, and what the page's own policy forbade.
        screenshot: The file of its picture; None where none was wanted.
    """

    mb: float
    load_s: float
    first_s: float
    asked: int
    differ: tuple[str, ...]
    elsewhere: tuple[str, ...]
    complaints: tuple[str, ...]
    screenshot: Path | None

    def faults(self) -> list[Fault]:
        """Return everything that must not be."""
        found = [
            Fault(one, "was asked for, and the page must ask nobody", "make the folder again") for one in self.elsewhere
        ]
        found += [Fault("the browser", f"complained: {one}", "make the folder again") for one in self.complaints]
        if len(self.differ) > (1 - SAME) * self.asked:
            what = (
                f"{len(self.differ)} of {self.asked} questions find other pictures than in Python: {self.differ[0]!r}"
            )
            found.append(Fault("the first five", what, "make the folder again, with this version of kit"))
        if self.first_s > FIRST_S:
            found.append(Fault("the first answer", f"took {self.first_s:.1f} s", "a smaller text tower"))
        return found


def check_static(folder: Path, *, questions: int = 20, screenshot: Path | None = None) -> StaticChecked:
    """Use a static Space's page in a headless browser, and compare what it finds with Python's onnxruntime.

    Args:
        folder: The folder.
        questions: How many names of its pictures are searched.
        screenshot: Where to put a picture of its page.

    Returns:
        What it showed; ``faults`` says what of it must not be.

    Raises:
        BundleError: no such folder, damaged towers, a folder that is too large or tells too much, or a page that does
            not come up.
        RunError: Chromium or playwright is missing.
    """
    if not is_static(folder):
        raise BundleError.of(str(folder), "is no static Space's folder", "make one with kit space build --static")
    raise_faults(folder_faults(folder, most=MOST_BYTES), BundleError)
    words = _questions(folder, questions)
    expected = python_top(folder, words)
    with served(folder) as address, ThreadPoolExecutor(1) as apart:
        # In a thread: Playwright's plain interface refuses to work in a notebook's own event loop.
        return apart.submit(_visit, address, folder, words, expected, screenshot).result()


def _questions(folder: Path, many: int) -> list[str]:
    """Return names of pictures, spread over all of them; those that were held out come first in the folder."""
    items = json.loads((folder / ITEMS).read_text(encoding="utf-8"))
    names = list(dict.fromkeys(next(iter(item["names"].values())) for item in items))
    return names[:: max(1, len(names) // many)][:many]


@torch.inference_mode()
def python_top(folder: Path, words: Sequence[str], k: int = TOP) -> list[list[int]]:
    """Return the places of the k nearest pictures of each question, by Python's onnxruntime on the folder's files."""
    encoder = open_onnx_clip(folder / "model", threads=1)  # as in the browser; two would wait for each other
    width = int(json.loads((folder / STATIC).read_text(encoding="utf-8"))["width"])
    # In float64, as JavaScript adds: pictures that are twins differ by less than float32's order of adding does.
    vectors = np.fromfile(folder / VECTORS, "<f2").reshape(-1, width).astype(np.float64)
    queries = [encoder.encode_text(encoder.tokenize([one]))[0].double().numpy() for one in words]
    return [np.argsort(-(vectors @ query), kind="stable")[:k].tolist() for query in queries]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder's files on this machine alone, and yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True, name="kit-static").start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _visit(
    address: str, folder: Path, words: Sequence[str], expected: Sequence[Sequence[int]], screenshot: Path | None
) -> StaticChecked:
    elsewhere: list[str] = []
    complaints: list[str] = []
    with chromium() as browser:
        # Without a service worker, so that each request is seen here.
        context = browser.new_context(viewport={"width": 1280, "height": 860}, service_workers="block")
        context.set_default_timeout(PATIENCE_MS)
        context.on("request", lambda one: None if _own(one.url, address) else elsewhere.append(one.url))
        page = context.new_page()
        page.on("console", lambda one: complaints.append(one.text) if one.type == "error" else None)
        page.on("pageerror", lambda one: complaints.append(str(one)))
        load_s = _opened(page, address)
        context.set_offline(True)
        begun_s = time.monotonic()
        answers = [ask(page, words[0])]
        first_s = time.monotonic() - begun_s
        if screenshot is not None:
            screenshot.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=screenshot)
        answers += [ask(page, one) for one in words[1:]]
        context.close()
    differ = [one for one, found, right in zip(words, answers, expected, strict=True) if found != right]
    return StaticChecked(
        folder_bytes(folder) / 1e6, load_s, first_s, len(words), tuple(differ), tuple(dict.fromkeys(elsewhere)),
        tuple(dict.fromkeys(complaints)), screenshot,
    )  # fmt: skip


def _own(url: str, address: str) -> bool:
    return url.startswith((f"{address}/", "blob:", "data:"))


def _opened(page: Any, address: str) -> float:
    begun_s = time.monotonic()
    page.goto(f"{address}/index.html")
    page.wait_for_selector(READY, state="attached")
    if page.locator("#loading.bad").count():
        raise BundleError.of("index.html", page.locator("#loading").inner_text(), "make the folder again")
    return time.monotonic() - begun_s


def ask(page: Any, words: str) -> list[int]:
    """Type words into an open page and return the places of the first five pictures that it shows."""
    before = page.get_attribute("#found", "data-answer")
    page.fill("#words", words)
    page.press("#words", "Enter")
    page.wait_for_selector(ANSWERED.format(before), state="attached")
    found: list[int] = page.locator("#found button").evaluate_all(PLACES)
    return found[:TOP]

"""Pictures opened by a second process, while this one computes.

Drawing an SVG takes 5 ms and resvg keeps the interpreter's lock, so threads gain nothing. A worker process
draws the next pictures while a tower encodes the last ones. Plain pipes instead of multiprocessing: that
needs an importable ``__main__``, which a notebook's kernel is not.
"""

from __future__ import annotations

import contextlib
import queue
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING

from kit.data.picture import Picture
from kit.errors import DataError, Fault

if TYPE_CHECKING:
    from PIL.Image import Image

Opened = tuple[int, int, bytes]  # width, height in pixels, RGB bytes
_ASK = struct.Struct("<II")  # size to draw at in pixels, length of the file in bytes
_ANSWER = struct.Struct("<II")  # width and height in pixels; width 0 means a fault of so many bytes


def draw_many(pictures: Sequence[Picture], *, ahead: int = 64) -> Iterator[Image]:
    """Yield the pictures, opened by a worker process, in order; what ``open`` gives, bit for bit.

    Args:
        pictures: What to open.
        ahead: How many opened pictures may wait; 64 of 224 x 224 pixels take 10 MB.

    Raises:
        DataError: a picture cannot be opened; names it.
    """
    from PIL import Image

    ready: queue.Queue[Opened | DataError] = queue.Queue(maxsize=ahead)
    stop = threading.Event()
    command = [sys.executable, "-m", "kit.data.draw"]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=1 << 20)
    fetcher = threading.Thread(target=_fetch, args=(pictures, worker, ready, stop), daemon=True)
    fetcher.start()
    try:
        for _ in pictures:
            opened = ready.get()
            if isinstance(opened, DataError):
                raise opened
            yield Image.frombytes("RGB", opened[:2], opened[2])
    finally:
        stop.set()
        worker.kill()
        fetcher.join()
        with contextlib.suppress(BrokenPipeError), worker:
            pass  # closes both pipes and waits


def _fetch(
    pictures: Sequence[Picture],
    worker: subprocess.Popen[bytes],
    ready: queue.Queue[Opened | DataError],
    stop: threading.Event,
) -> None:
    """Put every picture, opened, or the error that ends it all, into ``ready``."""
    for picture in pictures:
        opened: Opened | DataError
        try:
            opened = _ask(worker, picture)
        except DataError as error:
            opened = error
        except OSError:
            opened = _died(picture)
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(opened, timeout=0.1)
                break
        if stop.is_set() or isinstance(opened, DataError):
            return


def _died(picture: Picture) -> DataError:
    return DataError(Fault(picture.name, "the process that draws pictures died"))


def _ask(worker: subprocess.Popen[bytes], picture: Picture) -> Opened:
    """Have the worker open one picture and return it."""
    assert worker.stdin is not None  # noqa: S101  # both are pipes
    assert worker.stdout is not None  # noqa: S101
    content = picture.read()
    worker.stdin.write(_ASK.pack(picture.size, len(content)))
    worker.stdin.write(content)
    worker.stdin.flush()
    head = worker.stdout.read(_ANSWER.size)
    if len(head) < _ANSWER.size:
        raise _died(picture)
    width, height = _ANSWER.unpack(head)
    if not width:
        raise DataError(Fault(picture.name, worker.stdout.read(height).decode()))
    pixels = worker.stdout.read(width * height * 3)
    if len(pixels) < width * height * 3:
        raise _died(picture)
    return width, height, pixels


def _serve(asked: IO[bytes], answers: IO[bytes]) -> None:
    """Answer until the other end closes."""
    while len(head := asked.read(_ASK.size)) == _ASK.size:
        size, length = _ASK.unpack(head)
        content = asked.read(length)
        try:
            image = Picture("picture", reader=lambda: content, size=size).open()  # noqa: B023  # opened at once
            answers.write(_ANSWER.pack(*image.size) + image.tobytes())
        except DataError as error:
            said = error.faults[0].what.encode()
            answers.write(_ANSWER.pack(0, len(said)) + said)
        answers.flush()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):  # the parent is gone
        _serve(sys.stdin.buffer, sys.stdout.buffer)

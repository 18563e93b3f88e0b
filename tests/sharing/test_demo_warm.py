"""The first visitor waits for nothing that a second one would not wait for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest
from dual_encoders import noise_pictures

from kit.adapters.bundle import Bundle
from kit.quantization.onnx_clip import open_onnx_clip, write_onnx_clip
from kit.sharing.demo_parts import make_parts
from kit.sharing.finding import FIRST, Finder, picture_encoder
from kit.sharing.shelf import make_shelf

# What a page's first search may import: nothing of what takes long.
SCRIPT = """
import signal
import sys
import threading
import time
from urllib.request import Request, urlopen
from kit.sharing.demo import demo

served = demo(sys.argv[1], port=0)
for thread in threading.enumerate():
    if thread.name == "kit-read":  # what reads the pictures imports things in its own time
        thread.join()
before = set(sys.modules)
ask = Request(served.address + "/gradio_api/call/search", b'{"data": ["a red thing", "en", false, 12]}',
              {"content-type": "application/json"})
name = urlopen(ask).read().decode().split('"')[3]
said = urlopen(served.address + "/gradio_api/call/search/" + name).read().decode()
assert "thing number" in said, said
new = sorted({name.partition(".")[0] for name in set(sys.modules) - before})


def tell():
    while not callable(signal.getsignal(signal.SIGTERM)):  # until it waits
        time.sleep(0.01)
    print("new:", *new, flush=True)


threading.Thread(target=tell).start()
served.wait()
"""


def called(work: Callable[[], Any]) -> set[CodeType]:
    """Return every Python function that a piece of work runs, itself left out."""
    seen: set[CodeType] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            seen.add(frame.f_code)

    def run() -> None:
        sys.setprofile(note)
        work()
        sys.setprofile(None)

    one = threading.Thread(target=run)  # as Gradio calls a search: in a thread of its own
    one.start()
    one.join()
    return {code for code in seen if code.co_filename != __file__}


@pytest.fixture(scope="module")
def towers(tiny_clip: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP in 8 bits."""
    folder = tmp_path_factory.mktemp("small") / "onnx"
    write_onnx_clip(folder, tiny_clip.load(), noise_pictures(5), tiny_clip)
    return folder


@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_the_first_search_goes_the_way_of_the_second(
    tiny_clip: Bundle, towers: Path, tmp_path: Path, runtime: str
) -> None:
    encoder = tiny_clip.load() if runtime == "torch" else open_onnx_clip(towers)
    finder = Finder(encoder, make_shelf(tiny_clip.manifest, tmp_path), "it")
    finder.read()
    warm = called(finder.warm)
    first = called(lambda: finder.find("a red thing", 3, held_out=True))
    second = called(lambda: finder.find("a blue thing", 3, held_out=True))
    assert first == second, "the first one prepares something"
    assert "Vectors.top" in {code.co_qualname for code in first}
    libraries = {code for code in first if "site-packages" in code.co_filename}
    assert len(libraries) > 5
    assert libraries <= warm, "a library's code that was not run when the page came up"


def test_a_page_is_served_warm(tiny_clip: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(Finder, "warm", lambda self: asked.append(self.name))
    make_parts([tiny_clip, tiny_clip], tmp_path, pictures="", device=None, wrap=None)
    assert asked == [f"{tiny_clip.manifest.name} (1)", f"{tiny_clip.manifest.name} (2)"]


def test_the_first_search_imports_nothing_and_a_polite_end_leaves_nothing(tiny_clip: Bundle, tmp_path: Path) -> None:
    words = [sys.executable, "-c", SCRIPT, str(tiny_clip.folder)]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        new = page.stdout.readline()
        made = [path.name for path in tmp_path.iterdir()]
        page.terminate()
        _, errors = page.communicate(timeout=60)
    assert new, errors
    assert not {"matplotlib", "torch", "transformers", "open_clip", "gradio", "PIL", "kit", "numpy"} & set(new.split())
    assert any(name.startswith("kit-demo-") for name in made)
    assert page.returncode == 128 + signal.SIGTERM, errors
    assert not list(tmp_path.iterdir()), "it left something"


def test_a_kernel_that_ends_leaves_nothing(tiny_clip: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jupyter_client.manager import KernelManager

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    code = f"import kit; page = kit.demo({str(tiny_clip.folder)!r}, port=0)"
    reply = client.execute_interactive(code, timeout=120)
    made = [path.name for path in tmp_path.iterdir()]
    client.stop_channels()
    manager.shutdown_kernel(now=False)
    assert reply["content"]["status"] == "ok", reply
    assert any(name.startswith("kit-demo-") for name in made)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("kit-")], "it left something"


def test_an_exports_vectors_are_kept(tiny_clip: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_HOME", str(tmp_path / "home"))
    write_onnx_clip(tmp_path / "onnx", tiny_clip.load(), noise_pictures(5), tiny_clip)
    pictures = noise_pictures(9)
    first = picture_encoder(open_onnx_clip(tmp_path / "onnx"))(pictures)
    again = open_onnx_clip(tmp_path / "onnx")
    monkeypatch.setattr(type(again), "encode_image", None)  # calling it would fail
    assert picture_encoder(again)(pictures).equal(first)


def test_few_pictures_are_read_first(tiny_clip: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dataclasses import replace

    shelf = make_shelf(tiny_clip.manifest, tmp_path)
    many = replace(shelf, items=shelf.items * 30)
    finder, sizes = Finder(tiny_clip.load(), many, "it"), list[int]()
    add = finder.vectors.add
    monkeypatch.setattr(finder.vectors, "add", lambda vectors: (sizes.append(len(vectors)), add(vectors)))
    finder.read()
    assert sizes == [FIRST, 2 * FIRST, 4 * FIRST, 136]
    assert len(finder.vectors) == len(many) == 360

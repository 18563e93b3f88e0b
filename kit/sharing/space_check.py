"""A Space's folder run as Hugging Face runs it: its own environment, its own process, every endpoint called."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.errors import BundleError, RunError, raise_faults
from kit.sharing.gallery import chromium
from kit.sharing.places import free_port
from kit.sharing.space import space_of
from kit.sharing.space_files import folder_faults, is_static

START_S = 300.0  # a Space that does not answer within half an hour is given up; here sooner
NEVER = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # a Space has none of its visitor's machine


@dataclass(frozen=True)
class Checked:
    """What a Space showed.

    Args:
        start_s: Seconds from the start of its process to an answering page.
        endpoints: Each endpoint with what it answered, shortened.
        screenshot: The file of its picture; None where there is no Chromium.
    """

    start_s: float
    endpoints: Mapping[str, str]
    screenshot: Path | None


def check_space(folder: Path, *, fresh: bool = True, screenshot: Path | None = None) -> Checked:
    """Run a Space's folder and call every endpoint of its page.

    Args:
        folder: The folder.
        fresh: Install its requirements into a new virtual environment first, as Hugging Face does (some 6 GB where
            no CPU build of torch can be reached); otherwise its ``app.py`` runs on what is installed here.
        screenshot: Where to put a picture of its page.

    Raises:
        BundleError: files that must not be uploaded, requirements that do not install, a page that does not come up,
            or an endpoint that fails; with the end of what was printed.
    """
    space_of(folder)
    raise_faults(folder_faults(folder), BundleError)
    with tempfile.TemporaryDirectory(prefix="kit-space-") as scratch:
        copy = Path(scratch) / "app"
        shutil.copytree(folder, copy)
        python = _environment(Path(scratch) / "venv", copy) if fresh else sys.executable
        with _running(python, copy, Path(scratch) / "log") as (address, start_s):
            endpoints = _call_all(address, _picture(Path(scratch)))
            # In a thread: Playwright's plain interface refuses to work in a notebook's own event loop.
            with ThreadPoolExecutor(1) as apart:
                shot = apart.submit(_shoot, address, screenshot).result() if screenshot is not None else None
        return Checked(start_s, endpoints, shot)


def _environment(folder: Path, space: Path) -> str:
    import venv

    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    wanted = folder / "requirements.txt"
    lines = (space / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted.write_text("\n".join(reachable(lines)), encoding="utf-8")
    words = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(wanted)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise BundleError.of("requirements.txt", f"does not install:\n{done.stderr[-2000:]}", "look at the first error")
    return python


def reachable(lines: Sequence[str]) -> list[str]:
    """Return requirements without further indexes that this machine cannot reach.

    pip asks each of them for each of some eighty packages, and tries five times: ten minutes of waiting.
    """
    kept = []
    for line in lines:
        index = line.removeprefix("--extra-index-url ")
        if index != line and not _answers(index):
            print(f"{index} cannot be reached: torch comes with CUDA, some 5 GB.", file=sys.stderr, flush=True)
            continue
        kept.append(line)
    return kept


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/torch/", timeout=10):  # noqa: S310 - as the Space's requirements say
            return True
    except OSError:
        return False


@contextmanager
def _running(python: str, space: Path, log: Path) -> Iterator[tuple[str, float]]:
    """Run ``app.py`` until the block ends; yield its address and how long it took to answer."""
    port = free_port("127.0.0.1")
    env = {name: value for name, value in os.environ.items() if name not in {*NEVER, "PYTHONPATH", "KIT_HOME"}}
    env |= {
        "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "SYSTEM": "spaces", "SPACE_ID": "kit/check",
        "PYTHONDONTWRITEBYTECODE": "1", "GRADIO_TEMP_DIR": str(log.parent / "uploads"),
    }  # fmt: skip
    begun_s = time.monotonic()
    with log.open("w") as out, subprocess.Popen([python, "app.py"], cwd=space, env=env, stdout=out, stderr=out) as app:
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(address, app, log)
            yield address, time.monotonic() - begun_s
        finally:
            app.terminate()
            try:
                app.wait(15)
            except subprocess.TimeoutExpired:
                app.kill()


def _wait(address: str, app: subprocess.Popen[bytes], log: Path) -> None:
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s and app.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):  # noqa: S310 - http, this machine
                return
        except OSError:
            time.sleep(0.2)
    why = "ended" if app.poll() is not None else f"did not answer within {START_S:.0f} s"
    raise BundleError.of("app.py", f"{why}:\n{log.read_text(errors='replace')[-2000:]}", "look at the last error")


def _picture(folder: Path) -> Path:
    from PIL import Image

    path = folder / "picture.png"
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(path)
    return path


def _call_all(address: str, picture: Path) -> dict[str, str]:
    from gradio_client import Client, handle_file  # type: ignore[import-untyped]

    client = Client(address, verbose=False)
    api: Any = client.view_api(return_format="dict", print_info=False)
    answers = {}
    for name, said in api["named_endpoints"].items():
        given = {}
        for one in said["parameters"]:
            if not one["parameter_has_default"]:
                is_file = one["python_type"]["type"] == "filepath"
                given[one["parameter_name"]] = handle_file(picture) if is_file else "a cat"
        try:
            answers[name] = str(client.predict(**given, api_name=name))[:200]
        except Exception as error:
            raise BundleError.of(name, f"failed: {error}", "try it on kit demo, which shows the error") from error
    if not answers:
        raise BundleError.of("app.py", "has no endpoint that can be called", "make the folder again")
    return answers


def _shoot(address: str, path: Path) -> Path | None:
    """Take a picture of the page; None, and a line that says so, where there is no Chromium or Playwright."""
    try:
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 860})
            page.goto(address)
            page.wait_for_selector("#title h1")
            page.wait_for_selector("#words, #question")
            if page.locator("#tries button, #tries tbody tr").count():
                page.locator("#tries button, #tries tbody tr").first.click()
                page.wait_for_timeout(4000)
            path.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=path)
    except RunError as error:
        print(f"No screenshot: {error.faults[0].where} {error.faults[0].what}.", file=sys.stderr)
        return None
    return path


def push_space(folder: Path, name: str, *, private: bool = False, dry_run: bool = False) -> list[tuple[str, int]]:
    """Upload a Space's folder, with the token of huggingface_hub's own login.

    Args:
        folder: The folder.
        name: ORG/NAME.
        private: Whether a Space that is new is private.
        dry_run: Upload nothing; only look.

    Returns:
        What goes, or would go: names and bytes.

    Raises:
        BundleError: files that must not go, or that the Hub does not take.
    """
    from kit.manifest import verify
    from kit.sharing.hub import upload

    if is_static(folder):
        verify(folder / "model")
    else:
        space_of(folder)
    return upload(folder, name, kind="space", private=private, dry_run=dry_run)

"""One JupyterLab for all browser tests, and a Chromium for each file of them."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from voting_study import port, serving

__all__ = ["port", "serving"]

READY = """() => {
    const panel = window.jupyterapp?.shell?.currentWidget, kernel = panel?.sessionContext?.session?.kernel;
    return Boolean(panel?.context?.isReady && panel?.sessionContext?.isReady && kernel?.connectionStatus === 'connected'
        && kernel?.status === 'idle');
}"""


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    """A Chromium for one file: Playwright keeps its event loop running, which the tests of other files may not bear."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def kernel_idle() -> Callable[..., None]:
    """Wait until the notebook that a page of JupyterLab shows has a kernel with nothing to do."""

    def wait(page: Any, *, limit_s: float = 60) -> None:
        page.wait_for_function(READY, timeout=1000 * limit_s)

    return wait


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A JupyterLab of its own, on a folder of its own; yields its address with the token, and the folder."""
    home = tmp_path_factory.mktemp("lab")
    (home / "work").mkdir()
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    port = free_port()
    token = secrets.token_hex(16)
    folders = {"CONFIG_DIR": "config", "DATA_DIR": "data"}
    env = {**os.environ, **{f"JUPYTER_{name}": str(home / folder) for name, folder in folders.items()}}
    env |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    words = [
        sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    log = (home / "log").open("w")
    server = subprocess.Popen(words, cwd=home / "work", env=env, stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}/api?token={token}", server, home / "log")
        # Without the reset JupyterLab opens what the test before left open, too, and may show that instead.
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?reset&token={token}", home / "work"
    finally:
        server.terminate()  # it ends its kernels first
        server.wait(60)


def _wait(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(autouse=True)
def _playwright_is_there(need: Callable[[bool, str], None]) -> None:
    need(find_spec("playwright") is not None, "playwright is missing: pip install playwright")

"""What mybinder.org builds, built here without Docker: its notebooks run under its JupyterLab, within its memory.

``KIT_BINDER_ENV`` names a folder that keeps the environment (6 GB where no CPU build of torch can be reached) for the
next time; without it, it is made and deleted.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from free_ports import free_port
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from kit.runner.library import recipe_paths
from kit.runner.recipe import Recipe, read_recipe
from kit.sharing.space_check import reachable

ROOT = Path(__file__).resolve().parents[1]
MOST_GIB = 1.6  # of mybinder.org's 2, which end a kernel without a word; a size made for Binder has a budget of its own
LIMIT_S = 1800.0  # of a cell
READ = (read_recipe(path) for path in recipe_paths().values())
# What a visitor of Binder opens: whole tiers at their own size, and what has a size made for it.
RECIPES = {one.name: one for one in READ if one.tier == "binder" or "binder" in one.sizes}

pytestmark = [pytest.mark.soak, pytest.mark.weights]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """binder/'s environment: its Python where there is one, its requirements, its postBuild."""
    kept = os.environ.get("KIT_BINDER_ENV")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("binder")
    venv = folder / "venv"
    env = {**os.environ, "PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "KIT_HOME": str(folder / "home")}
    env = {name: value for name, value in env.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    if not (folder / "built").exists():
        build(folder, venv, env)
    yield venv / "bin" / "python", env
    if not kept:
        shutil.rmtree(folder)


def build(folder: Path, venv: Path, env: dict[str, str]) -> None:
    wanted = (ROOT / "binder" / "runtime.txt").read_text().strip().removeprefix("python-")
    found = shutil.which(f"python{wanted}")
    runs = found is not None and subprocess.run([found, "-c", "import venv"], capture_output=True).returncode == 0
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([found if runs else sys.executable, "-m", "venv", venv], check=True)
    lines = (ROOT / "binder" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (folder / "requirements.txt").write_text("\n".join(reachable(lines)), encoding="utf-8")
    words = [venv / "bin" / "python", "-m", "pip", "install", "-q", "-r", folder / "requirements.txt"]
    for command in (words, ["bash", ROOT / "binder" / "postBuild"]):
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
    (folder / "built").touch()


@dataclass(eq=False)
class Memory:
    """The memory of a process with all its children: proportional shares, so that what they share counts once.

    Args:
        pid: The process.
    """

    pid: int
    peak_gib: float = 0.0
    _over: threading.Event = field(default_factory=threading.Event, repr=False)

    def watch(self) -> None:
        while not self._over.wait(0.5):
            self.peak_gib = max(self.peak_gib, self.now_gib())

    def now_gib(self) -> float:
        total = 0
        for process in [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]:
            try:
                text = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
            except (OSError, psutil.Error):  # it ended meanwhile
                continue
            total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        return total / 2**20

    def __enter__(self) -> Memory:
        self._thread = threading.Thread(target=self.watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@dataclass(frozen=True)
class Lab:
    """A JupyterLab with its folders."""

    address: str
    token: str
    pid: int
    work: Path
    runtime: Path

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        sent = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"token {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.address}/api/{path}", sent, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None


@pytest.fixture(scope="module")
def lab(environment: tuple[Path, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The environment's JupyterLab, on a copy of the notebooks."""
    python, env = environment
    home, port, token = tmp_path_factory.mktemp("lab"), free_port(), secrets.token_hex(16)
    shutil.copytree(ROOT / "notebooks", home / "work" / "notebooks")
    env = env | {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    words = [
        python, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
    ]  # fmt: skip
    with (home / "log").open("w") as log:
        server = subprocess.Popen(words, cwd=home / "work", env=env, stdout=log, stderr=log)
    found = Lab(f"http://127.0.0.1:{port}", token, server.pid, home / "work", home / "runtime")
    try:
        wait_for(found, server, home / "log")
        yield found
    finally:
        server.terminate()
        server.wait(30)


def wait_for(lab: Lab, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        try:
            lab.ask("GET", "status")
        except OSError:  # URLError is one
            assert server.poll() is None, log.read_text()[-3000:]
            time.sleep(0.3)
        else:
            return
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


def test_there_are_notebooks_for_binder() -> None:
    assert len(RECIPES) >= 4, RECIPES.keys()


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_notebook_runs_within_its_memory(name: str, lab: Lab) -> None:
    recipe = RECIPES[name]
    with Memory(lab.pid) as memory:
        begun = time.monotonic()
        executed(recipe, lab)
        took = time.monotonic() - begun
    print(f"{name}: {memory.peak_gib:.2f} GiB of PSS with JupyterLab, {took:.0f} s")
    most = MOST_GIB if recipe.tier == "binder" else recipe.budget["binder"]["peak_rss_gib"]
    assert 0.2 < memory.peak_gib < most


def executed(recipe: Recipe, lab: Lab) -> None:
    """Run a notebook cell by cell on a kernel that JupyterLab started, as somebody who opened it does."""
    from jupyter_client.blocking.client import BlockingKernelClient

    path = f"notebooks/{recipe.notebook.path.name}"
    size = "binder" if "binder" in recipe.sizes else "laptop"
    plain = load_notebook_node(str(lab.work / path))
    notebook = parameterize_notebook(plain, dict(recipe.sizes[size]), kernel_name="python3", language="python")
    wanted = {"path": path, "name": path, "type": "notebook", "kernel": {"name": "python3"}}
    session = lab.ask("POST", "sessions", wanted)
    client = BlockingKernelClient(connection_file=str(lab.runtime / f"kernel-{session['kernel']['id']}.json"))
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                reply = client.execute_interactive(cell.source, timeout=LIMIT_S, output_hook=lambda _: None)
                said = reply["content"]
                assert said["status"] == "ok", "\n".join([cell.source, *said.get("traceback", [])[-3:]])
    finally:
        client.stop_channels()
        lab.ask("DELETE", f"sessions/{session['id']}")

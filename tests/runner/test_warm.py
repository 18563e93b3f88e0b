"""Warm kernels: isolated, the same as cold ones, cold where they would not be, and gone when anybody is gone."""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest

from kit.errors import RunError
from kit.runner.execute import NotebookStoppedError, execute
from kit.runner.library import find
from kit.runner.notebook import read_notebook
from kit.runner.plan import make_plan
from kit.runner.run import Run, run
from kit.runner.warm_owner import can_fork, shared_address, warm_kernels
from kit.runner.warm_server import Server
from kit.runner.watch import Cost

LIGHT = ("ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "numpy", "matplotlib.pyplot")
SPECS = Path(__file__).resolve().parents[2] / "kit" / "runner"

pytestmark = pytest.mark.skipif(not can_fork(), reason="only Linux forks safely")


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A preloaded process of this test's own."""
    monkeypatch.delenv("KIT_WARM", raising=False)
    with warm_kernels(preload=LIGHT) as address:
        yield address
    assert not Path(address).parent.exists()


def notebook(folder: Path, *cells: str) -> Path:
    path = folder / "own.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), path)
    return path


def carried_out(folder: Path, *cells: str, **settings: Any) -> tuple[Cost, list[str]]:
    """Execute a notebook of these cells; return its cost and the text that each printed."""
    into = folder / f"run-{time.monotonic_ns()}"
    into.mkdir()
    cost = execute(read_notebook(notebook(folder, *cells)), {}, into=into, cwd=folder, **{"limit_s": 120.0, **settings})
    done = json.loads((into / "executed.ipynb").read_text())["cells"]
    return cost, ["".join("".join(output.get("text", "")) for output in cell["outputs"]) for cell in done]


def do(target: Path, out: Path, given: dict[str, Any] | None = None, **settings: Any) -> Run:
    return run(make_plan(find(str(target)), target=str(target), given=given), out=out, **settings)


def gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_kernels_are_isolated_and_draw_their_own_numbers(warm: str, tmp_path: Path) -> None:
    drawn = "import numpy, random; print(numpy.random.rand(), random.random(), 'leak' in globals()); leak = 1"
    alone = "import os; print(os.getpid() == os.getpgid(0) == os.getsid(0), os.getcwd(), os.environ['KIT_RUN_DIR'])"
    found = [carried_out(tmp_path, drawn, alone) for _ in range(3)]
    assert [cost.cold for cost, _ in found] == ["", "", ""]
    numbers = [printed[0].split() for _, printed in found]
    assert len({one for one, _, _ in numbers}) == len({two for _, two, _ in numbers}) == 3
    assert {leaked for _, _, leaked in numbers} == {"False"}
    assert all(printed[1].startswith(f"True {tmp_path} {tmp_path}/run-") for _, printed in found)


def test_a_figure_is_shown_and_kit_is_not_preloaded(warm: str, tmp_path: Path) -> None:
    path = notebook(
        tmp_path, "import sys; print([name for name in sys.modules if name.startswith('kit.')])",
        "import matplotlib.pyplot as plt; plt.plot([1, 2]);",
    )  # fmt: skip
    first, second = json.loads((do(path, tmp_path / "runs").path / "executed.ipynb").read_text())["cells"]
    assert first["outputs"][0]["text"] == ["[]\n"]
    assert any("image/png" in output.get("data", {}) for output in second["outputs"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("raises", "raised ZeroDivisionError"),
        ("sys_exit_code", r"called sys\.exit\(3\)"),
        ("kills_kernel", "its kernel died: SIGKILL ended it"),
        ("os_exit", "its kernel died: the process ended with exit code 7"),
    ],
)
def test_it_ends_as_a_cold_one_does(warm: str, notebooks: Path, tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(RunError, match=words):
        do(notebooks / f"{name}.ipynb", tmp_path)


def test_its_exit_handlers_run(warm: str, tmp_path: Path) -> None:
    carried_out(tmp_path, f"import atexit, pathlib; atexit.register(pathlib.Path({str(tmp_path / 'bye')!r}).touch)")
    assert (tmp_path / "bye").exists()


def test_the_run_says_which_kernel_it_had(
    warm: str, notebooks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert do(notebooks / "simple.ipynb", tmp_path).record["kernel"] == "warm"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    told = do(notebooks / "simple.ipynb", tmp_path, force=True).record["kernel"]
    assert told == "cold: libraries read HF_HUB_OFFLINE at the preload, with another value"
    monkeypatch.setenv("KIT_WARM", "0")
    told = do(notebooks / "simple.ipynb", tmp_path, force=True).record["kernel"]
    assert told == "cold: no preloaded process was there"


def test_a_package_installed_meanwhile_makes_kernels_cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = tmp_path / "site-packages"
    packages.mkdir()
    monkeypatch.delenv("KIT_WARM", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(packages), os.environ.get("PYTHONPATH", "")]))
    with warm_kernels(preload=LIGHT):
        assert carried_out(tmp_path, "1")[0].cold == ""
        (packages / "new-1.0.dist-info").mkdir()
        assert carried_out(tmp_path, "1")[0].cold == "packages were installed or removed since the preload"


def test_a_preloaded_process_that_died_leaves_cold_kernels(warm: str, tmp_path: Path) -> None:
    server = server_of(warm)
    server.kill()
    wait_until(lambda: gone([server.pid]))
    cost, printed = carried_out(tmp_path, "print(1 + 1)")
    assert cost.cold.startswith("no preloaded process answers at")
    assert printed == ["2\n"]


def test_with_the_preloaded_process_its_kernels_die(warm: str, notebooks: Path, tmp_path: Path) -> None:
    process, pids = begin(notebooks, tmp_path)
    server_of(warm).kill()
    _, errors = process.communicate(timeout=60)
    assert "its kernel died: SIGKILL ended it" in errors
    wait_until(lambda: gone(pids[:1]))


def test_with_a_killed_run_its_kernel_and_its_children_die(warm: str, notebooks: Path, tmp_path: Path) -> None:
    process, pids = begin(notebooks, tmp_path)
    process.kill()
    process.communicate()
    wait_until(lambda: gone(pids))
    assert list(Path(tempfile.gettempdir()).glob(f"kit-kernel-{process.pid}-*"))
    assert carried_out(tmp_path, "1")[0].cold == ""  # the preloaded process lives on
    assert not list(Path(tempfile.gettempdir()).glob(f"kit-kernel-{process.pid}-*"))


def test_with_a_killed_owner_everything_goes(notebooks: Path, tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "from kit.runner.warm_owner import warm_kernels\n"
        f"with warm_kernels(preload={LIGHT!r}) as address:\n"
        "    print(address, flush=True)\n"
        "    time.sleep(600)\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "KIT_WARM"}
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
    address = owner.stdout.readline().strip()
    process, pids = begin(notebooks, tmp_path, KIT_WARM=address)
    server = server_of(address)
    owner.kill()
    owner.communicate()
    process.communicate(timeout=60)
    wait_until(lambda: gone([*pids, server.pid]))
    assert not Path(address).parent.exists()


def test_memory_above_the_limit_ends_it(tmp_path: Path, warm: str) -> None:
    path = notebook(tmp_path, "import time; held = b'x' * 2**29; time.sleep(60)")
    with pytest.raises(RunError, match=r"cell 1 of 1: took 0\.\d+ GiB, more than its limit of 0\.3 and was stopped"):
        do(path, tmp_path / "runs", limit_gib=0.3)


def test_twenty_runs_leave_nothing(warm: str, tmp_path: Path) -> None:
    server = server_of(warm)
    carried_out(tmp_path, "1")
    before = left(server)
    for _ in range(20):
        assert carried_out(tmp_path, "1")[0].cold == ""
    assert left(server) == before


@pytest.mark.parametrize("cell", ["1 / 0", "import os; os._exit(7)"])
def test_a_run_that_ends_badly_leaves_no_file_open(warm: str, tmp_path: Path, cell: str) -> None:
    carried_out(tmp_path, "1")
    before = left(server_of(warm))
    for _ in range(3):
        with pytest.raises(NotebookStoppedError):
            carried_out(tmp_path, cell)
    wait_until(lambda: left(server_of(warm)) == before)


def test_torch_draws_other_numbers_in_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KIT_WARM", raising=False)
    with warm_kernels(preload=(*LIGHT, "torch")):
        drawn = [carried_out(tmp_path, "import torch; print(torch.rand(1).item())") for _ in range(2)]
    assert [cost.cold for cost, _ in drawn] == ["", ""]
    assert drawn[0][1] != drawn[1][1]


def test_the_kernelspec_serves_plain_papermill(warm: str, notebooks: Path, tmp_path: Path) -> None:
    told = papermill(tmp_path, notebooks / "where_am_i.ipynb")
    assert told.returncode == 0, told.stderr
    assert "a cold kernel" not in told.stderr
    died = papermill(tmp_path, notebooks / "os_exit.ipynb")
    assert died.returncode != 0
    cold = papermill(tmp_path, notebooks / "simple.ipynb", KIT_WARM=str(tmp_path / "nobody"))
    assert cold.returncode == 0, cold.stderr
    assert "kit-warm: a cold kernel, because no preloaded process answers" in cold.stderr
    assert gone([one.pid for one in server_of(warm).children()])


def test_kernels_of_the_kernelspec_share_a_process_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("kit.runner.warm_owner.PRELOAD", LIGHT)
    first, second = shared_address(), shared_address()
    assert first == second
    server = server_of(first)
    try:
        assert server not in psutil.Process().children(recursive=True)  # it outlives whoever came first
        assert Path(first).stat().st_mode & 0o077 == 0
        monkeypatch.setenv("KIT_WARM", first)
        assert carried_out(tmp_path, "1")[0].cold == ""
    finally:
        server.kill()


def test_two_ends_in_one_moment_end_no_server(tmp_path: Path) -> None:
    """A kernel ends while who asked for it does: that killed the process, and with it the kernels of all others."""
    before = signal.getsignal(signal.SIGCHLD)
    with socket.socket(socket.AF_UNIX) as door, socket.socket(socket.AF_UNIX) as client:

        class AtOnce(Server):
            def _accept(self, waiting: selectors.BaseSelector) -> None:
                super()._accept(waiting)
                ((_, asked),) = self.links.items()
                asked.pid = os.fork()
                if not asked.pid:
                    os._exit(0)
                wait_until(lambda: psutil.Process(asked.pid).status() == psutil.STATUS_ZOMBIE)
                client.close()

        door.bind(str(tmp_path / "s"))
        door.listen()
        client.connect(str(tmp_path / "s"))
        try:
            assert AtOnce(door, {}, idle_s=0.2).serve() is None
        finally:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, before)


def test_kernels_side_by_side_end_no_server(warm: str, notebooks: Path, tmp_path: Path) -> None:
    """Files that were closed twice were another kernel's link by then, and after six kernels it was over."""
    target = str(notebooks / "simple.ipynb")
    plan = make_plan(find(target), target=target)

    def one(number: int) -> str:
        return str(run(plan, out=tmp_path / f"runs-{number}").record["kernel"])

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(one, range(12))) == ["warm"] * 12
    assert server_of(warm).is_running()


def papermill(folder: Path, path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "papermill", "-k", "kit-warm", "--no-progress-bar", str(path), "out.ipynb"]
    env = {**os.environ, "JUPYTER_PATH": str(SPECS), **env}
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


def server_of(address: str) -> psutil.Process:
    """Return the preloaded process; forks of it have its words too, and are younger."""
    found = [one for one in psutil.process_iter(["cmdline"]) if address in (one.info["cmdline"] or ())]
    return min(found, key=lambda one: one.create_time())


def left(server: psutil.Process) -> tuple[int, int, int, list[str]]:
    """Return a server's children, its and our open files (sockets among them), and kit's temporary folders."""
    folders = sorted(path.name for path in Path("/tmp").glob("kit-kernel-*"))
    return len(server.children()), server.num_fds(), psutil.Process().num_fds(), folders


def begin(notebooks: Path, folder: Path, **env: str) -> tuple[subprocess.Popen[str], list[int]]:
    """Start a run of the notebook that never ends; return it and the pids of kernel and kernel's child."""
    started = folder / "started"
    words = ["run", str(notebooks / "never_ends.ipynb"), "-p", f"started={started}"]
    process = subprocess.Popen(
        [sys.executable, "-c", "from kit.cli import main; main()", *words], cwd=folder, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, env={**os.environ, **env},
    )  # fmt: skip
    wait_until(lambda: started.exists() and len(started.read_text().split()) == 2)
    return process, [int(pid) for pid in started.read_text().split()]

"""Trials of a sweep on a Ray cluster: each is a task that any node may take, and another takes when that node dies.

A node needs kit and whatever folders the recipe's inputs name; the notebook travels with the task, and the finished run
comes back whole. Only finished trials are written, so a killed driver loses none of those.
"""

from __future__ import annotations

import atexit
import dataclasses
import io
import os
import socket
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import kit
from kit.errors import KitError, RunError
from kit.runner import ledger
from kit.runner.digest import of_sources
from kit.runner.plan import Plan
from kit.runner.run import run
from kit.runner.sweep import Trial
from kit.runner.warm_owner import warm_kernels

RETRIES = 5  # of a trial whose node died; a notebook that raises is not tried again


@dataclasses.dataclass(frozen=True)
class Share:
    """What each trial takes of a node.

    Args:
        cpus: Cores.
        gpus: GPUs; a part of one is allowed.
    """

    cpus: float = 1.0
    gpus: float = 0.0


@contextmanager
def cluster(address: str) -> Iterator[None]:
    """Connect to a Ray cluster and leave it afterwards.

    Args:
        address: "auto" for the one that runs here, or its address.

    Raises:
        RunError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError as error:
        raise RunError.of("--ray", "Ray is not installed", "pip install 'multimodal-kit[ray]'") from error
    try:
        if address != "auto":
            _knock(address)  # ray.init itself waits for minutes and then ends the process
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError, RuntimeError) as error:  # ConnectionError is an OSError
        first = str(error).strip().splitlines()[0]
        raise RunError.of(f"--ray {address}", f"no cluster answers: {first}", "ray start --head") from error
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise an OSError when nobody listens at ``[ray://]HOST:PORT``."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10):
        pass


def carry_out(
    plans: Sequence[tuple[Mapping[str, Any], Plan]],
    *,
    out: Path,
    share: Share,
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> list[Trial]:
    """Run the plans on the cluster that this process is connected to; return their trials in the same order.

    Args:
        plans: The swept values and the plan of each trial.
        out: The folder of runs, here.
        share: What each trial takes of a node.
        on_trial: Called with each trial as it ends.
    """
    import ray

    task = ray.remote(num_cpus=share.cpus, num_gpus=share.gpus, max_retries=RETRIES, scheduling_strategy="SPREAD")(
        _task
    )
    done: dict[int, Trial] = {}
    waiting: dict[Any, int] = {}
    for number, (given, plan) in enumerate(plans):
        if ledger.is_whole(ledger.folder_of(out, plan.recipe.name, plan.digest)):
            done[number] = Trial(given, run(plan, out=out))
            on_trial(done[number])
        else:
            text = plan.recipe.notebook.path.read_text(encoding="utf-8")
            waiting[task.remote(plan, text, os.getcwd())] = number  # noqa: PTH109 - text for another machine
    while waiting:
        (ready,), _ = ray.wait(list(waiting), num_returns=1)
        number = waiting.pop(ready)
        given, plan = plans[number]
        done[number] = _received(given, plan, ready, out)
        on_trial(done[number])
    return [done[number] for number in range(len(plans))]


def _received(given: Mapping[str, Any], plan: Plan, ready: Any, out: Path) -> Trial:
    """Put a run that came back into the folder of runs, and return its trial."""
    import ray

    try:
        packed, error = ray.get(ready)
    except ray.exceptions.RayError as lost:  # its node died once too often
        return Trial(given, None, f"{plan.recipe.shown}: {type(lost).__name__}: {str(lost).splitlines()[0]}")
    if error:
        return Trial(given, None, error)
    final = ledger.folder_of(out, plan.recipe.name, plan.digest)
    with (
        ledger.locked(out.absolute(), plan.recipe.name, plan.digest, on_wait=lambda: None),
        ledger.partial(final) as folder,
    ):
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
        ledger.settle(folder, final)
    return Trial(given, run(plan, out=out))


def _task(plan: Plan, notebook: str, cwd: str) -> tuple[bytes, str]:
    """Run a plan on the node that took it; return its folder as a tar archive, or why there is none."""
    try:
        if of_sources(Path(kit.__file__).parent) != plan.digests["kit"]:
            raise RunError.of(
                os.uname().nodename, "this node has another kit than the driver", "install the same there"
            )
        with suppress(OSError):
            os.chdir(cwd)
        _preloaded()
        with tempfile.TemporaryDirectory(prefix="kit-trial-") as scratch:
            path = Path(scratch) / plan.recipe.notebook.path.name
            path.write_text(notebook, encoding="utf-8")
            own = dataclasses.replace(plan.recipe, notebook=dataclasses.replace(plan.recipe.notebook, path=path))
            done = run(dataclasses.replace(plan, recipe=own), out=Path(scratch) / "runs")
            return _packed(done.path), ""
    except KitError as error:
        return b"", str(error)


@cache
def _preloaded() -> str:
    """Start this worker's own preloaded process, once; it ends with the worker.

    When a worker ends Ray kills what it started: one process for all of a node's workers would take the kernels of the
    others' trials along.
    """
    kept = ExitStack()
    atexit.register(kept.close)
    return kept.enter_context(warm_kernels())


def _packed(folder: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(folder, arcname=".")
    return stream.getvalue()

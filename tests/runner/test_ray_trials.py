"""A sweep on a Ray cluster of three local nodes, of which one is killed in the middle: the same table."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from kit.errors import RunError
from kit.runner import ray_trials, sweep
from kit.runner.library import find
from kit.runner.plan import make_plan

BODY = """
import time
from kit.result import Measurement, save_result
time.sleep(wait_s)
if rank == 13:
    raise ValueError("unlucky")
save_result({"accuracy": Measurement(rank / 100, "share", 10)});
"""

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A head without cores for trials, and three nodes of one core each."""
    pytest.importorskip("ray", reason="Ray is missing: pip install -e '.[test]'")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    workers = [cluster.add_node(num_cpus=1) for _ in range(3)]
    cluster.wait_for_nodes()
    yield cluster, workers
    cluster.shutdown()


def plans(folder: Path, ranks: list[int]) -> list[Any]:
    parameters = "rank: int = 4  # rank\nwait_s: float = 2.0  # pause"
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(BODY)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "own.ipynb")
    recipe = find(str(folder / "own.ipynb"))
    return [({"rank": rank}, make_plan(recipe, target="own.ipynb", given={"rank": rank})) for rank in ranks]


def test_a_killed_node_changes_no_number(nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, workers = nodes
    monkeypatch.setenv("KIT_WARM", "0")
    asked = plans(tmp_path, list(range(1, 10)))
    ended: list[float] = []
    kill = threading.Timer(0, lambda: cluster.remove_node(workers[0], allow_graceful=False))

    def on_trial(_: sweep.Trial) -> None:
        ended.append(time.monotonic())
        if len(ended) == 2:
            kill.start()

    with ray_trials.cluster(cluster.address):
        found = ray_trials.carry_out(asked, out=tmp_path / "runs", share=ray_trials.Share(1), on_trial=on_trial)
        kill.join()
        again = ray_trials.carry_out(asked, out=tmp_path / "runs", share=ray_trials.Share(1))
    assert len(ended) == 9
    assert [one.error for one in found] == [""] * 9
    assert [one.measured("accuracy").value for one in found] == [rank / 100 for rank in range(1, 10)]
    assert all(one.run.reused for one in again)
    here = sweep.carry_out(asked, out=tmp_path / "local", workers=2)
    table = [[(dict(row.given), row.value) for row in sweep.ranked(trials, "accuracy")] for trials in (found, here)]
    assert table[0] == table[1]
    assert sorted(path.name for path in found[0].run.path.iterdir()) == sorted(
        path.name for path in here[0].run.path.iterdir()
    )


def test_a_notebook_that_raises_says_so(nodes: Any, tmp_path: Path) -> None:
    with ray_trials.cluster(nodes[0].address):
        (found,) = ray_trials.carry_out(plans(tmp_path, [13]), out=tmp_path / "runs", share=ray_trials.Share(1))
    assert "raised ValueError: unlucky" in found.error


def test_where_no_cluster_answers() -> None:
    pytest.importorskip("ray", reason="Ray is missing: pip install -e '.[test]'")
    assert "RAY_ADDRESS" not in os.environ
    with pytest.raises(RunError, match="no cluster answers"), ray_trials.cluster("127.0.0.1:1"):
        pass

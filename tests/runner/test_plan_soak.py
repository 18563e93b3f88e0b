"""Cheap recipes planned and really run, three times each from an empty store: predicted against the median measured."""

from __future__ import annotations

import shutil
from pathlib import Path
from statistics import median

import pytest

from kit.parts.pull import kit_home
from kit.runner.library import find
from kit.runner.machines import this_machine
from kit.runner.plan import make_plan
from kit.runner.predict import predict
from kit.runner.run import run

RUNS = [
    ("stitch-clip", {}),
    ("human-eval", {}),
    ("start-here", {}),
    ("stitch-clip", {"limit": 700, "seeds": 2}),  # a size that nothing was fitted to
]

pytestmark = [pytest.mark.soak, pytest.mark.weights]


@pytest.mark.parametrize(("name", "given"), RUNS, ids=str)
def test_a_plan_is_near_the_median_of_three_runs(
    name: str, given: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for shared in ("parts", "derived"):
        (kit_home() / shared).mkdir(parents=True, exist_ok=True)
        (home / shared).symlink_to(kit_home() / shared)
    monkeypatch.setenv("KIT_HOME", str(home))
    plan = make_plan(find(name), target=name, given=given)
    predicted = predict(plan, this_machine(home / "plans", tmp_path, again=True))
    records = []
    for turn in range(3):
        shutil.rmtree(home / "activations", ignore_errors=True)
        records.append(run(plan, out=tmp_path / f"runs-{turn}").record)
    wall_s, peak_gib = (median(one[what] for one in records) for what in ("wall_s", "peak_rss_gib"))
    busy = predicted.machine.speed.busy
    print(f"{name}: {predicted.wall_s:.0f} s, {predicted.peak_gib:.2f} GiB; measured {wall_s:.0f}, {peak_gib:.2f}")
    assert predicted.peak_gib == pytest.approx(peak_gib, rel=0.25)
    if busy > 0.15:
        pytest.skip(f"others used {busy:.0%} of these cores: times tell nothing")
    assert predicted.wall_s == pytest.approx(wall_s, rel=0.40)

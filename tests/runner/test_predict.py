"""What a plan says before anything starts: against measured runs, on other machines, and where nothing fits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kit.errors import RunError
from kit.runner import calibrate
from kit.runner.calibrate import Speed, here, measure
from kit.runner.library import recipe_paths
from kit.runner.machines import NAMED, REFERENCE, Machine, find_machine, saved, this_machine
from kit.runner.plan import make_plan
from kit.runner.predict import note_kept, predict, smaller, why_not
from kit.runner.recipe import read_recipe

MEASURED = json.loads((Path(__file__).parent / "measured_runs.json").read_text(encoding="utf-8"))
RUNS = [pytest.param(run, id=f"{run['recipe']}-{number}") for number, run in enumerate(MEASURED["runs"])]
HERE = Machine("here", memory_gib=16, disk_gib=50, speed=REFERENCE)


def planned(name, size="laptop", **given):
    recipe = read_recipe(recipe_paths()[name])
    return make_plan(recipe, target=name, size=size, given=given)


@pytest.mark.parametrize("run", RUNS)
def test_a_plan_is_near_what_was_measured(run):
    speed = Speed(**run["speed"]) if "speed" in run else REFERENCE
    plan = planned(run["recipe"], run["size"], **run.get("values", {}))
    found = predict(plan, replace(HERE, speed=speed), cached=False)
    if "peak_rss_gib" in run:
        assert found.peak_gib == pytest.approx(run["peak_rss_gib"], rel=0.25)
    if "wall_s" in run:
        wall_s = sum(seconds for name, seconds in found.seconds.items() if name not in run.get("kept", ()))
        assert wall_s == pytest.approx(run["wall_s"], rel=0.40)


def test_every_recipe_names_its_costs():
    for path in recipe_paths().values():
        recipe = read_recipe(path)
        assert recipe.cost is not None, f"{recipe.name}: no costs"
        for size in recipe.sizes:
            assert all(term.amounts for term in recipe.cost.terms)
            values = {**recipe.notebook.defaults(), **recipe.sizes[size]}
            assert recipe.cost.peak_gib.value(values) > 0.1, f"{recipe.name}: {size}"


def test_more_work_takes_longer_and_more_batch_more_memory():
    half, whole = planned("vision-language", steps=250), planned("vision-language", steps=500)
    assert predict(half, HERE).wall_s < predict(whole, HERE).wall_s
    assert predict(whole, HERE).peak_gib < predict(planned("vision-language", batch_size=64), HERE).peak_gib


def test_a_slower_machine_takes_longer_and_the_clock_stays_the_clock():
    slow = replace(HERE, speed=replace(REFERENCE, gflops=REFERENCE.gflops / 2))
    plan = planned("shootout")
    before, after = predict(plan, HERE).seconds, predict(plan, slow).seconds
    assert after["answers"] == pytest.approx(2 * before["answers"])
    assert after["training"] - before["training"] == pytest.approx(30)  # 324 s of it are by the clock
    assert after["start"] == before["start"]


def test_other_inputs_than_those_measured_have_no_figures():
    assert why_not(planned("stitch-clip")) == ""
    assert "data=openmoji" in why_not(planned("stitch-clip", data="easy-vqa"))


def test_money_is_hours_times_the_price():
    found = predict(planned("qlora"), replace(HERE, price_per_hour=0.5))
    assert found.money == pytest.approx(found.wall_s / 7200)
    assert predict(planned("qlora"), HERE).money is None


def test_what_cannot_fit_is_told_and_something_smaller_is_proposed():
    plan = planned("instruct")
    found = predict(plan, replace(HERE, memory_gib=3.0, disk_gib=1.0))
    assert set(found.shortages) == {"memory", "disk"}
    lower = smaller(plan.recipe.cost, plan.effective, 3.0)
    assert lower
    assert predict(planned("instruct", **lower), HERE).peak_gib <= 3.0
    assert smaller(plan.recipe.cost, plan.effective, 1.0) is None, "the weights alone take more"
    assert smaller(plan.recipe.cost, plan.effective, 16.0) == {}


def test_rank_is_lowered_too_where_the_batch_alone_does_not_do():
    plan = planned("vision-language", rank=512, batch_size=1)
    found = smaller(plan.recipe.cost, plan.effective, 2.0)
    assert found is not None
    assert found["rank"] < 512


def test_what_is_kept_is_not_counted_twice(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_HOME", str(tmp_path))
    plan, log = planned("stitch-clip"), tmp_path / "log"
    first = predict(plan, HERE)
    assert first.seconds["pictures"] > 5
    (tmp_path / "activations" / "ab").mkdir(parents=True)
    log.write_text('{"key": "ab", "inputs": 3, "computed": 3}\n')
    note_kept(plan, log)
    assert predict(plan, HERE).kept == ("pictures",)
    assert predict(planned("stitch-clip", epochs=3), HERE).kept == ("pictures",), "passes are no part of it"
    assert predict(planned("stitch-clip", limit=50), HERE).kept == (), "other rows may be other pictures"
    assert predict(plan, HERE, cached=False).kept == ()
    (tmp_path / "activations" / "ab").rmdir()
    assert predict(plan, HERE).kept == (), "the store made room"


def test_parts_that_are_not_here_are_downloads(tmp_path, monkeypatch):
    monkeypatch.setenv("KIT_HOME", str(tmp_path))
    found = predict(planned("stitch-clip"), HERE)
    assert 0.05 < found.download_gib < 0.3


def test_a_speed_is_measured_once_and_again_after_a_busy_time(tmp_path, monkeypatch):
    given = [Speed(100, 10, 0.1, 2.0, busy=0.5), Speed(150, 9, 0.09, 2.5, busy=0.0), Speed(1, 1, 1, 1)]
    monkeypatch.setattr(calibrate, "measure", lambda: given.pop(0))
    assert here(tmp_path).gflops == 100
    assert here(tmp_path, kept=True).gflops == 100, "a run does not wait for a better moment"
    assert here(tmp_path) == Speed(150, 10, 0.09, 2.0, busy=0.0)
    assert here(tmp_path).gflops == 150
    assert here(tmp_path, again=True).gflops == 1


def test_this_machine_is_measured():
    found = measure()
    assert found.gflops > 1
    assert found.gib_per_s > 0.1
    assert 0 <= found.busy <= 1


def test_machines_by_name_and_by_file(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "measure", lambda: REFERENCE)
    assert find_machine("binder").memory_gib < 2 < NAMED["m7i.xlarge"].memory_gib
    with pytest.raises(RunError, match="Did you mean 'binder'"):
        find_machine("bindr")
    file = tmp_path / "office.json"
    file.write_text(saved(this_machine(tmp_path, tmp_path), file))
    assert find_machine(str(file)).name == "office"
    file.write_text("{}")
    with pytest.raises(RunError, match="is no machine's file"):
        find_machine(str(file))

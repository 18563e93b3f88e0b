"""``kit plan``: a table, JSON, a refusal, and a foreign notebook run small."""

from __future__ import annotations

import json
import sys

import pytest


def test_a_recipe_is_planned_without_running_it(kit, tmp_path):
    done = kit("plan", "vision-language", "--price", "0.5")
    assert done.returncode == 0, done.stderr
    for words in ("seconds", "peak memory", "disk", "downloads", "money", "By the recipe's figures"):
        assert words in done.stdout
    assert not (tmp_path / "runs").exists()


def test_json_for_another_machine(kit):
    done = kit("plan", "stitch-clip", "--machine", "binder", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0
    assert found["fits"]
    assert found["machine"] == "binder"
    assert found["wall_s"] == pytest.approx(sum(found["seconds"].values()), rel=0.02)
    assert found["dials"]["epochs"] == 60


def test_what_does_not_fit_ends_with_one_and_a_proposal(kit):
    done = kit("plan", "instruct", "--memory", "3")
    assert done.returncode == 1
    assert "Does not fit: memory" in done.stdout
    assert "It would with: -p batch_size=" in done.stdout
    assert "No batch size or rank" in kit("plan", "instruct", "--memory", "1").stdout


def test_what_is_wrong_ends_with_two(kit):
    assert "Did you mean 'epochs'" in kit("plan", "stitch-clip", "-p", "epoch=3").stderr
    done = kit("plan", "stitch-clip", "-p", "data=easy-vqa", "--machine", "binder")
    assert done.returncode == 2
    assert "small runs tell of this machine alone" in done.stderr


def test_a_foreign_notebook_is_run_small_and_says_so(kit, notebooks):
    refused = kit("plan", notebooks / "simple.ipynb", "-p", "x=8")
    assert refused.returncode == 2
    assert "--smoke" in refused.stderr
    done = kit("plan", notebooks / "simple.ipynb", "-p", "x=8", "--smoke", "x=1")
    assert done.returncode == 0, done.stderr
    assert "By extrapolated from 2 small runs" in done.stdout or "extrapolated from 2 small runs" in done.stdout


def test_a_plan_needs_no_torch(kit):
    lines = "import sys; from kit.cli import main\ntry: main()\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    import subprocess

    words = ["plan", "stitch-clip", "--machine", "binder"]
    done = subprocess.run([sys.executable, "-c", lines, *words], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1] == "False"

"""Curves: read back by trackio alone, on this machine alone, and only when asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kit.errors import ModelError
from kit.training import curves
from kit.training.fit import fit


def trained(label="training"):
    torch.manual_seed(0)
    inputs, model = torch.randn(40, 3), torch.nn.Linear(3, 1)
    return fit(model, lambda model, rows: model(rows).square().mean(), [inputs], steps=12, batch_size=8, label=label)


def test_nothing_is_written_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv(curves.PROJECT, raising=False)
    monkeypatch.setitem(sys.modules, "trackio", None)
    trained()
    monkeypatch.setenv(curves.PROJECT, "shapes")
    with pytest.raises(ModelError, match=r"pip install 'multimodal-kit\[curves\]'"):
        trained()


def test_trackio_alone_reads_the_curve(tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason="trackio is missing: pip install -e '.[test]'")
    env = {"TRACKIO_DIR": tmp_path, "KIT_RUN_DIR": "/runs/shapes/.partial-0123abcd-77", curves.PROJECT: "shapes"}
    for name, value in (env | {"TRACKIO_SERVER_URL": "http://127.0.0.1:9"}).items():  # nobody is asked there
        monkeypatch.setenv(name, str(value))
    code = "from test_curves import trained; import json; print(json.dumps(trained('two arms').losses))"
    losses = json.loads(said("-c", code, PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), *sys.path[1:]])))
    monkeypatch.delenv("TRACKIO_SERVER_URL")
    words = ["-m", "trackio.cli", "get", "metric", "--project", "shapes", "--json"]
    found = json.loads(said(*words, "--run", "0123abcd two arms", "--metric", "loss"))
    assert [one["value"] for one in found["values"]] == pytest.approx(losses)


def said(*words, **env):
    """Return what a process of its own writes: trackio fixes its folder when it is imported."""
    told = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=os.environ | env)
    assert told.returncode == 0, told.stderr
    return told.stdout

"""``kit doctor`` shows folders by the names they have."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from kit.cli.doctor import doctor


def test_brackets_in_a_folder_are_no_markup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KIT_HOME", str(tmp_path / "[word]" / "[" / "x]"))
    (tmp_path / "[word]").mkdir()
    monkeypatch.chdir(tmp_path / "[word]")
    doctor()
    shown = "".join(capsys.readouterr().out.split())  # the table folds long paths
    assert "[word]/[/x]" in shown
    assert shown.count("[word]") == 2


def test_packages_for_smaller_copies_are_named_and_not_essential(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torchao" else real(name))
    doctor()
    shown = " ".join(capsys.readouterr().out.split())
    assert "bitsandbytes, onnxruntime, onnx, onnxscript here; torchao not: pip install" in shown

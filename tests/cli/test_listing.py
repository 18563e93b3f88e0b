"""``kit list`` shows what recipes say as they say it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.cli.listing import show_list
from kit.runner import library


def test_brackets_in_a_recipe_are_no_markup(
    tmp_path: Path, notebooks: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "result.ipynb").write_bytes((notebooks / "result.ipynb").read_bytes())
    (tmp_path / "recipes" / "mine.yaml").write_text(
        "notebook: ../result.ipynb\nabout: Ends [/here] with a [word]\nsizes:\n  smoke: {}\n", encoding="utf-8"
    )
    monkeypatch.setattr(library, "share", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    show_list()
    shown = capsys.readouterr().out
    assert "mine" in shown
    assert "Ends [/here] with a [word]" in shown

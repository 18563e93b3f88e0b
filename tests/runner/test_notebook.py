"""Notebooks read without nbformat."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.errors import RecipeError
from kit.runner.notebook import declared, read_notebook


def test_types_defaults_and_help_are_read(notebooks: Path) -> None:
    found = read_notebook(notebooks / "typed.ipynb").parameters
    kinds = {name: parameter.kind for name, parameter in found.items()}
    assert kinds == {
        "epochs": "int", "lr": "float", "name": "str", "flag": "bool", "sizes": "list", "limit": "int", "table": "dict",
        "plain": "int",
    }  # fmt: skip
    assert found["limit"].optional
    assert not found["epochs"].optional
    assert found["epochs"].help == "passes"
    assert found["sizes"].default == [1, 2]


def test_several_lines_and_non_literals() -> None:
    found = declared("table = {\n  'a': 1,\n}\nhome: str = str(1)\nseed: Optional[int] = None", where="n")
    assert found["table"].default == {"a": 1}
    assert (found["home"].kind, found["home"].literal) == ("str", False)
    assert (found["seed"].kind, found["seed"].optional) == ("int", True)


def test_another_language_declares_nothing_known(notebooks: Path) -> None:
    assert read_notebook(notebooks / "not_python.ipynb").parameters is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cells": [1]}', "\x00"])
def test_what_is_no_notebook(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.ipynb"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"bad\.ipynb"):
        read_notebook(path)


def test_a_broken_parameters_cell_names_the_line() -> None:
    with pytest.raises(RecipeError, match="line 2"):
        declared("a = 1\nb = = 2", where="n.ipynb")

"""Values against declared types, and values from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.errors import RecipeError
from kit.runner.notebook import read_notebook
from kit.runner.parameters import from_command_line, looks_secret, value_faults


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("lr=3e-4", 3e-4), ("lr=1", 1.0), ("epochs=7", 7), ("epochs=1e3", 1000), ("name=3", "3"), ("name=a=b", "a=b"),
        ("flag=true", True),
        ("sizes=[3, 4]", [3, 4]), ("limit=null", None), ("limit=None", None), ("table={a: 1}", {"a": 1}),
    ],
)  # fmt: skip
def test_the_command_line_is_read_towards_the_type(notebooks: Path, pair: str, value: object) -> None:
    notebook = read_notebook(notebooks / "typed.ipynb")
    found = from_command_line([pair], notebook)
    assert list(found.values()) == [value]
    assert type(next(iter(found.values()))) is type(value)
    assert value_faults(notebook, found, where="-p ", shown="n") == []


@pytest.mark.parametrize("pair", ["epochs=2.5", "flag=1", "lr=fast", "sizes=3", "epochs=true", "table=[1]", "epochs="])
def test_a_wrong_type_is_a_fault(notebooks: Path, pair: str) -> None:
    notebook = read_notebook(notebooks / "typed.ipynb")
    faults = value_faults(notebook, from_command_line([pair], notebook), where="-p ", shown="n")
    assert [fault.where for fault in faults] == [f"-p {pair.partition('=')[0]}"]


def test_all_bad_pairs_at_once(notebooks: Path) -> None:
    notebook = read_notebook(notebooks / "typed.ipynb")
    with pytest.raises(RecipeError) as caught:
        from_command_line(["epochs", "=3", "lr=1", "lr=2", "sizes=[1"], notebook)
    assert len(caught.value.faults) == 4


def test_yaml_numbers_without_a_dot_say_how_to_write_them(notebooks: Path) -> None:
    notebook = read_notebook(notebooks / "typed.ipynb")
    (fault,) = value_faults(notebook, {"lr": "3e-4"}, where="r.yaml: sizes.laptop", shown="typed.ipynb")
    assert str(fault) == (
        "r.yaml: sizes.laptop.lr: must be float, got '3e-4' (a string)\n  Fix: write 3.0e-4, without quotes"
    )


def test_secrets_are_refused_and_the_words_of_the_field_are_not(notebooks: Path) -> None:
    notebook = read_notebook(notebooks / "typed.ipynb")
    (fault,) = value_faults(notebook, {"hf_token": "x"}, where="-p ", shown="n")
    assert "secret" in fault.what
    assert "HF_TOKEN" in fault.fix
    assert not any(map(looks_secret, ["max_tokens", "pad_token", "tokenizer", "keys", "token_limit"]))
    assert all(map(looks_secret, ["token", "PASSWORD", "openai_api_key", "client_secret", "aws_secret_access_key"]))

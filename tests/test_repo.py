"""What the repository says about itself is true: notebooks obey the rules, and the README matches the code."""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import typer.main

from kit.cli.app import app
from kit.parts.catalog import PARTS
from kit.runner.library import recipe_paths
from kit.runner.notebook import read_notebook
from kit.runner.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
assert NOTEBOOKS, f"{ROOT / 'notebooks'}: no notebooks"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HOME = PROJECT["urls"]["Homepage"]
SLUG = HOME.removeprefix("https://github.com/")


def _cells(path: Path) -> list[dict[str, object]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells]


def _code(path: Path) -> list[str]:
    return [str(cell["source"]) for cell in _cells(path) if cell["cell_type"] == "code"]


def test_every_notebook_has_a_recipe_and_every_recipe_can_be_read() -> None:
    recipes = [read_recipe(path) for path in recipe_paths().values()]
    assert recipes, "no recipes"
    assert {recipe.notebook.path.resolve() for recipe in recipes} == {path.resolve() for path in NOTEBOOKS}
    for recipe in recipes:
        assert recipe.about, f"{recipe.name}: about is missing"
        assert {"smoke", "laptop"} <= set(recipe.sizes), f"{recipe.name}: sizes smoke and laptop are needed"
        assert recipe.expect.get("laptop"), f"{recipe.name}: its laptop size claims nothing"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_obeys_the_rules(path: Path) -> None:
    cells, code = _cells(path), _code(path)
    assert len(code) <= 16, "at most fifteen code cells and the Colab one"  # style: a notebook teaches one idea
    assert cells[0]["cell_type"] == "markdown"
    assert "?" in str(cells[0]["source"]).splitlines()[0] or path.name.startswith("00_"), "begin with the question"
    assert f"https://mybinder.org/v2/gh/{SLUG}/main?labpath=notebooks%2F{path.name}" in str(cells[0]["source"])
    assert f"https://colab.research.google.com/github/{SLUG}/blob/main/notebooks/{path.name}" in str(cells[0]["source"])
    installs = [cell for cell in code if "pip" in cell]
    assert installs == [code[0]], "the Colab cell is the only one that installs"
    assert f'"multimodal-kit @ git+{HOME}"' in code[0]
    assert 'if "google.colab" in sys.modules:' in code[0]
    assert "save_result(" in code[-1], "end with kit.save_result(...)"
    assert not any(cell.get("outputs") for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_parameters_are_typed_literals_with_help(path: Path) -> None:
    (cell,) = [cell for cell in _cells(path) if "parameters" in cell["metadata"].get("tags", ())]
    lines = [line for line in str(cell["source"]).splitlines() if line.strip()]
    for line in lines:
        (statement,) = ast.parse(line).body
        assert isinstance(statement, ast.AnnAssign), f"{line}: no type"
        ast.literal_eval(statement.value)
        assert "  # " in line, f"{line}: no help"
    assert set(read_notebook(path).defaults()) == {line.split(":")[0] for line in lines}


def _commands() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", README, flags=re.DOTALL)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    parts = [part.strip() for line in lines for part in line.split("&&")]
    return [shlex.split(part) for part in parts if part.startswith("kit ")]


def test_every_kit_command_of_the_readme_exists() -> None:
    commands = _commands()
    assert len(commands) > 5, "the README shows hardly any command"
    group = typer.main.get_command(app)
    for _, *words in commands:
        command = group
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert command is not group or words[0].startswith("-"), f"kit {words[0]}: no such command"
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        for word in words:
            assert not word.startswith("-") or word.split("=")[0] in options, (
                f"{word}: no such option of {command.name}"
            )
        if command.name in {"run", "copy"} and not words[0].endswith((".ipynb", ".yaml")):
            assert words[0] in recipe_paths(), f"{words[0]}: no such recipe"


def test_every_command_is_in_the_readme() -> None:
    shown = {words[1] for words in _commands()}
    assert set(typer.main.get_command(app).commands) <= shown


def test_the_readmes_tree_is_true() -> None:
    tree = re.search(r"```text\n(kit/\n.*?)```", README, flags=re.DOTALL)
    assert tree, "the README has no tree of kit/"
    rooms: dict[str, set[str]] = {"": set()}
    room = ""
    for line in tree.group(1).splitlines()[1:]:
        names = line.split("  #")[0]
        if found := re.match(r"  (\w+)/", names):
            room = found.group(1)
            rooms[room] = set()
            names = names[found.end() :]
        elif re.match(r"  \w", names):
            room = ""
        rooms[room] |= set(re.findall(r"\w+\.py", names))
    ignored = {"__init__.py", "__main__.py"}
    real = {"": {path.name for path in (ROOT / "kit").glob("*.py")} - ignored}
    for folder in (ROOT / "kit").iterdir():
        if files := {path.name for path in folder.glob("*.py")} - ignored:
            real[folder.name] = files
    assert rooms == real


def test_the_readme_names_every_part_with_its_licence() -> None:
    for part in PARTS.values():
        assert re.search(rf"\| `{part.name}` \|.*\| {re.escape(part.licence)} \|", README), part.name


def test_links_and_pictures_of_the_readme_are_there() -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", README)
    local = [link.split("#")[0] for link in links if not link.startswith(("http", "#", "mailto"))]
    assert local, "no picture"
    for link in local:
        assert (ROOT / link).exists(), link


def test_files_are_short() -> None:
    long = {str(path): n for path in (ROOT / "kit").rglob("*.py") if (n := len(path.read_text().splitlines())) > 300}
    assert not long


def test_nothing_of_the_authors_machine_is_in_the_tree() -> None:
    paths = [path for path in ROOT.rglob("*.*") if path.suffix in {".py", ".md", ".ipynb", ".yaml", ".toml", ".txt"}]
    mine = [path for path in paths if not {"runs", ".venv", "build", "dist"} & set(path.relative_to(ROOT).parts)]
    assert len(mine) > 50
    for path in mine:
        assert not re.search(r"/(root|home/\w+|work)/\w", path.read_text(encoding="utf-8", errors="replace")), path

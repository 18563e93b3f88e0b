"""What mybinder.org and Google Colab are given fits them: Python, torch's source, the notebooks' parts, versions."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from kit.parts.catalog import PARTS
from kit.parts.grammar import looks_like_reference, parse
from kit.runner.library import recipe_paths
from kit.runner.recipe import read_recipe

ROOT = Path(__file__).resolve().parents[1]
BINDER = ROOT / "binder"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What Colab had in August 2026: installing kit there must replace none of these.
COLAB = {
    "python": "3.13", "torch": "2.11.0", "torchvision": "0.26.0", "transformers": "5.15.0", "peft": "0.20.0",
    "ipywidgets": "7.7.1", "ipykernel": "6.17.1", "gradio": "6.24.0", "anywidget": "0.9.21",
}  # fmt: skip


def lines(name: str) -> list[str]:
    text = (BINDER / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_python_is_one_that_kit_runs_on() -> None:
    (runtime,) = lines("runtime.txt")
    assert (found := re.fullmatch(r"python-(3\.\d+)", runtime)), runtime
    assert f"{found[1]}.0" in SpecifierSet(PROJECT["requires-python"])


def test_torch_and_torchvision_are_from_one_place_without_cuda() -> None:
    found = lines("requirements.txt")
    assert found[0] == "--extra-index-url https://download.pytorch.org/whl/cpu"
    # Files of the root are ignored where there is a binder/, so kit itself must be named.
    assert "-e ." in found
    names = {Requirement(line).name for line in found if not line.startswith("-")}
    assert {"torch", "torchvision"} <= names


def binder_parts() -> set[str]:
    """Return the parts that recipes of the tier binder name in any parameter of theirs."""
    recipes = [read_recipe(path) for path in recipe_paths().values()]
    binder = [recipe for recipe in recipes if recipe.tier == "binder"]
    assert len(binder) >= 3, "hardly any recipe is of the tier binder"
    found = set()
    for recipe in binder:
        values = [
            *recipe.notebook.defaults().values(),
            *(one for size in recipe.sizes.values() for one in size.values()),
        ]
        for value in values:
            for kind in ("model", "data"):
                if looks_like_reference(value):
                    try:
                        found |= set(parse(value, kind=kind).parts)
                    except Exception:  # noqa: BLE001 - it names something of the other kind
                        continue
    return found


def test_post_build_pulls_what_the_notebooks_use() -> None:
    script = BINDER / "postBuild"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    (pulled,) = [line.split()[3:] for line in lines("postBuild") if line.startswith("kit parts pull ")]
    assert set(pulled) <= PARTS.keys()
    assert binder_parts() <= set(pulled)
    assert len(binder_parts()) >= 3


def test_repo2docker_reads_it(need: Callable[[bool, str], None]) -> None:
    # Beside the Python that runs this: what is on the PATH may be another environment's.
    program = shutil.which("jupyter-repo2docker", path=str(Path(sys.executable).parent))
    need(program is not None, "repo2docker is missing: pip install jupyter-repo2docker")
    words = [program, "--no-build", "--debug", "--Repo2Docker.default_buildpack=None", "."]
    done = subprocess.run(list(map(str, words)), cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    said = done.stdout + done.stderr
    assert 'pip install --no-cache-dir -r "binder/requirements.txt"' in said, said[-2000:]
    assert "RUN ./binder/postBuild" in said
    (runtime,) = lines("runtime.txt")
    assert f"python={runtime.removeprefix('python-')}" in said, "another Python than runtime.txt's"


def test_colab_keeps_what_it_has() -> None:
    assert f"{COLAB['python']}.0" in SpecifierSet(PROJECT["requires-python"])
    needed = {(one := Requirement(line)).name: one.specifier for line in PROJECT["dependencies"]}
    replaced = {name: str(needed[name]) for name in COLAB.keys() & needed.keys() if COLAB[name] not in needed[name]}
    assert not replaced, "installing kit on Colab would replace these"
    assert len(COLAB.keys() & needed.keys()) >= 6
    for name, specifier in needed.items():
        assert not [one for one in specifier if one.operator in {"==", "<", "<=", "~="}], f"{name}: no upper bounds"

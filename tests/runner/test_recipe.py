"""Recipes, and everything that can be wrong in one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kit.errors import RecipeError
from kit.runner.library import find
from kit.runner.plan import make_plan
from kit.runner.recipe import read_recipe

GOOD = """
notebook: {nb}/result.ipynb
about: It measures
sizes: {smoke: {value: 0.4}, laptop: {value: 1}}
expect: {laptop: {recall_at_1: {at_least: 0.15, above_baseline: true}}}
budget: {laptop: {wall_s: 60, limit_s: 100}}
tier: binder
"""


def test_a_good_recipe(recipe: Callable[..., Path]) -> None:
    found = read_recipe(recipe(GOOD))
    assert (found.name, found.tier, found.sizes["smoke"]) == ("mine", "binder", {"value": 0.4})
    assert [str(claim) for claim in found.expect["laptop"]] == ["recall_at_1 ≥ 0.15", "recall_at_1 above its baseline"]


def test_the_notebook_may_lie_beside_or_in_the_parent(tmp_path: Path, notebooks: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "a.ipynb").write_bytes((notebooks / "simple.ipynb").read_bytes())
    path = tmp_path / "recipes" / "r.yaml"
    path.write_text("notebook: notebooks/a.ipynb")
    assert read_recipe(path).notebook.path.samefile(tmp_path / "notebooks" / "a.ipynb")


def test_all_faults_at_once_with_the_nearest_names(recipe: Callable[..., Path]) -> None:
    path = recipe("""
notebook: {nb}/typed.ipynb
abuot: x
sizes: {laptop: {epoch: 3, lr: 3e-4, flag: 1}, smoke: 3}
expect: {labtop: {r: {at_least: 0.1}}, laptop: {r: {at_leats: 1}, s: {above_baseline: 0.2}, t: 3}}
budget: {laptop: {wall: 3, peak_rss_gib: big}}
inputs: {dta: data, name: picture}
""")
    with pytest.raises(RecipeError) as caught:
        read_recipe(path)
    text = str(caught.value)
    for wanted in (
        "abuot: not a key of a recipe. Did you mean 'about'?",
        "sizes.laptop.epoch: not a parameter of",
        "Did you mean 'epochs'?",
        "sizes.laptop.lr: must be float, got '3e-4' (a string)",
        "write 3.0e-4",
        "sizes.laptop.flag: must be bool, got 1",
        "sizes.smoke: must be a mapping of parameters, got 3",
        "expect.labtop: not a size of this recipe. Did you mean 'laptop'?",
        "Did you mean 'at_least'?",
        "expect.laptop.s.above_baseline: must be true, got 0.2",
        "expect.laptop.t: must say what is claimed",
        "budget.laptop.wall: not a budget. Did you mean 'wall_s'?",
        "budget.laptop.peak_rss_gib: must be a number, got 'big'",
        "inputs.dta: not a parameter",
        "inputs.name: must be data or model",
    ):
        assert wanted in text, wanted
    assert len(caught.value.faults) == 13


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("- a\n- b", "this is a list"), ("", "this is empty"), ("just words", "this is a str"),
        ("a: 1\nb: [", "line 2"), ("about: x", "notebook: is missing"), ("notebook: 3", "must be a path, got 3"),
        ("notebook: nope.ipynb", "no such notebook: nope.ipynb"), ("notebook: {nb}/simpel.ipynb", "'simple.ipynb'"),
    ],
)  # fmt: skip
def test_what_is_no_recipe(recipe: Callable[..., Path], text: str, wanted: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_recipe(recipe(text))
    assert wanted in str(caught.value)
    assert "mine.yaml" in str(caught.value)


def test_a_name_a_file_and_a_notebook_are_found(recipe: Callable[..., Path], notebooks: Path) -> None:
    assert find(str(recipe(GOOD))).about == "It measures"
    assert find(str(notebooks / "simple.ipynb")).name == "simple"
    for target in ("no-such-recipe", "nope.yaml", str(notebooks / "simpel.ipynb")):
        with pytest.raises(RecipeError, match="no such"):
            find(target)


def test_a_plan_knows_which_parameters_are_not_the_recipes_own(recipe: Callable[..., Path]) -> None:
    path = recipe("notebook: '{nb}/uses_part.ipynb'\ninputs: {data: data}")
    own = make_plan(read_recipe(path), target=str(path), given={"data": "openmoji"})
    other = make_plan(read_recipe(path), target=str(path), given={"data": "easy-vqa"})
    assert own.changed == ()
    assert other.changed == ("data",)

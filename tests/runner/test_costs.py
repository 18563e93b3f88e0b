"""What a recipe says its runs cost, and what of it is refused."""

from __future__ import annotations

import pytest

from kit.errors import RecipeError
from kit.runner.arithmetic import Formula
from kit.runner.recipe import read_recipe

TEXT = """
notebook: {{nb}}/simple.ipynb
cost:
{cost}
"""


def faults(recipe, cost):
    with pytest.raises(RecipeError) as caught:
        read_recipe(recipe(TEXT.format(cost=cost)))
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "values", "wanted"),
    [
        ("2 * min(rows, 10) + 1", {"rows": 50}, 21),
        ("-rows // 4 % 5", {"rows": 8}, 3),
        ("words(names)", {"names": "float32, bitsandbytes-int8"}, 2),
        ("words(names)", {"names": ["en", "de", "fr"]}, 3),
        ("words(names)", {"names": ""}, 0),
        ("total(sizes)", {"sizes": [1000, 2.5]}, 1002.5),
        ("total(sizes)", {"sizes": "12,6,2"}, 20),
        ("0.5 * has(dtype, 'bfloat16')", {"dtype": "bfloat16"}, 0.5),
        ("0.5 * has(dtype, 'bfloat16')", {"dtype": "float32"}, 0),
        ("10 * pack", {"pack": True}, 10),
    ],
)
def test_formulas_are_plain_arithmetic(text, values, wanted):
    assert Formula.read(text).value(values) == wanted


@pytest.mark.parametrize("text", ["__import__('os')", "rows.real", "[1][0]", "rows if rows else 1", "open('x')", "2 *"])
def test_nothing_else_is_read(text):
    with pytest.raises(ValueError, match="arithmetic"):
        Formula.read(text)


@pytest.mark.parametrize("values", [{}, {"rows": 0}, {"rows": "many"}])
def test_a_formula_says_what_it_cannot_compute(values):
    with pytest.raises(ValueError, match="10 / rows"):
        Formula.read("10 / rows").value(values)


def test_every_fault_is_told_at_once(recipe):
    told = faults(recipe, "  seconds: {start: {import: 3}, work: {python: 'x +', shares: 2}}\n  peak_gib: epoch * 2")
    assert "cost.seconds.start: must say what bounds it" in told
    assert "cost.seconds.work.python: is no arithmetic" in told
    assert "cost.seconds.work.shares: not a key of a term. Did you mean 'share'?" in told


def test_names_are_the_notebooks_parameters(recipe):
    told = faults(recipe, "  seconds: {work: {python: 'n * zz'}}\n  peak_gib: 1\n  lower: [batch]")
    assert "'zz' is no parameter of the notebook" in told
    assert "'batch' is no parameter of the notebook" in told


@pytest.mark.parametrize(
    "cost", ["  - 3", "  peak_gib: 2", "  seconds: {}\n  peak_gib: 1", "  seconds: {a: {python: 1}}\n  gib: 1"]
)
def test_both_seconds_and_memory_are_needed(recipe, cost):
    assert "cost" in faults(recipe, cost)

"""What small runs tell of a large one, cell by cell."""

from __future__ import annotations

import pytest

from kit.errors import RecipeError
from kit.runner.extrapolate import Trial, doubled, extrapolate, growing
from kit.runner.machines import REFERENCE, Machine

HERE = Machine("here", 16, 50, REFERENCE)
SMALL = {"rows": 100, "epochs": 2, "lr": 0.1, "seed": 1, "name": "x", "flag": True}
WANTED = {**SMALL, "rows": 1000, "epochs": 20, "lr": 0.5, "seed": 9, "flag": False}


def run_of(rows, epochs):
    """A notebook of a fixed start, a load that grows with rows, and a training that grows with both."""
    cells = (1.0, 0.5 + 0.001 * rows, 0.2 + 0.002 * rows * epochs)
    return Trial({**SMALL, "rows": rows, "epochs": epochs}, cells, sum(cells) + 0.7, 0.3 + 0.0001 * rows)


def test_whole_numbers_that_differ_are_dials_and_rates_and_seeds_are_none():
    assert growing(SMALL, WANTED) == ("epochs", "rows")
    assert doubled(SMALL, WANTED, "rows") == {"rows": 200}
    assert doubled(SMALL, {**WANTED, "rows": 150}, "rows") == {"rows": 150}
    assert doubled(SMALL, {**WANTED, "rows": 10}, "rows") == {"rows": 50}


def test_sums_and_products_are_found_from_three_runs():
    others = {"rows": run_of(200, 2), "epochs": run_of(100, 4)}
    found = extrapolate(run_of(100, 2), others, WANTED, HERE)
    real = run_of(1000, 20)
    assert found.wall_s == pytest.approx(real.wall_s, rel=0.25)
    assert found.peak_gib == pytest.approx(real.peak_gib)
    assert "extrapolated from 3 small runs" in found.basis


def test_one_run_alone_tells_itself():
    found = extrapolate(run_of(100, 2), {}, SMALL, HERE)
    assert found.wall_s == pytest.approx(run_of(100, 2).wall_s)


def test_cells_that_shrink_do_not_end_below_nothing():
    others = {"rows": Trial({**SMALL, "rows": 200}, (1.0, 0.1, 0.1), 1.5, 0.2)}
    assert extrapolate(run_of(100, 2), others, WANTED, HERE).wall_s > 0


def test_a_notebook_that_changed_meanwhile_is_refused():
    with pytest.raises(RecipeError, match="different cells"):
        extrapolate(run_of(100, 2), {"rows": Trial(SMALL, (1.0,), 2.0, 0.1)}, WANTED, HERE)

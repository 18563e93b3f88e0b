"""The checks: each drops what was planted, names its reason, and leaves the rest."""

import io

import numpy as np
import pytest
from dual_encoders import noise_pictures
from PIL import Image

from kit.data.curate import (
    class_balance,
    exact_duplicates,
    label_noise,
    leakage,
    look_duplicates,
    low_agreement,
    near_duplicates,
)
from kit.data.folds import folds
from kit.data.looks import looks
from kit.data.picture import Picture
from kit.data.two_groups import two_groups
from kit.errors import DataError


def names(n):
    return [f"r{number}" for number in range(n)]


def gone(decisions):
    return {one.row for one in decisions}


def saved(picture, kind, **options):
    file = io.BytesIO()
    picture.open().save(file, kind, **options)
    return Picture("again", reader=file.getvalue)


def test_exact_duplicates_name_the_first_of_their_kind():
    found = exact_duplicates(names(5), ["a", "b", "a", "c", "a"])
    assert [(one.row, one.other) for one in found] == [("r2", "r0"), ("r4", "r0")]
    assert found[0].reason == "holds what r0 holds"
    with pytest.raises(DataError, match="contents: 1 for 2 rows"):
        exact_duplicates(names(2), ["a"])


def test_near_duplicates_keep_the_row_of_more_priority():
    vectors = np.array([[1, 0], [0.99, 0.14], [0, 1]])
    (one,) = near_duplicates(names(3), vectors, at_least=0.98, priority=[0.1, 0.9, 0.5])
    assert (one.row, one.other, one.check) == ("r0", "r1", "near duplicate")
    assert one.reason == "cosine 0.990 to r1, which stays"


def test_look_alikes_are_found_in_another_format_and_a_change_of_colour_is_none():
    pictures = noise_pictures(6, size=96)
    again = [saved(pictures[0], "JPEG", quality=70), saved(pictures[3], "PNG")]
    red, black = (Picture("flat", reader=_flat(colour)) for colour in ("red", "black"))
    found = look_duplicates(names(10), looks([*pictures, *again, red, black]))
    assert {(one.row, one.other) for one in found} == {("r6", "r0"), ("r7", "r3")}
    assert "of 192 bits from r0" in found[0].reason
    swapped = look_duplicates(names(8), looks([*pictures, *again]), priority=[0] * 6 + [1, 0])
    assert {(one.row, one.other) for one in swapped} == {("r0", "r6"), ("r7", "r3")}


def _flat(colour):
    file = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(file, "PNG")
    return file.getvalue


def test_low_agreement_finds_the_lower_of_two_groups_or_what_is_below_a_number():
    rng = np.random.default_rng(0)
    bad = rng.random(2000) < 0.3
    scores = np.where(bad, rng.normal(0.1, 0.1, 2000), rng.normal(0.6, 0.1, 2000))
    found = low_agreement(names(2000), scores)
    planted = {f"r{number}" for number in np.flatnonzero(bad)}
    assert len(gone(found) ^ planted) < 40
    assert found[0].reason.endswith("the border of two groups")
    assert found[0].score == pytest.approx(scores[int(found[0].row[1:])])
    few = low_agreement(names(2000), scores, surest=0.99)
    assert gone(few) < gone(found)
    fixed = low_agreement(names(2000), scores, below=0.0)
    assert gone(fixed) == {f"r{number}" for number in np.flatnonzero(scores < 0)}
    assert fixed[0].reason.endswith("below 0")


def test_label_noise_compares_losses_within_the_class():
    rng = np.random.default_rng(1)
    classes = ["easy"] * 300 + ["hard"] * 300
    losses = np.r_[rng.normal(0.2, 0.05, 300), rng.normal(3.0, 0.05, 300)]
    bad = rng.choice(600, 60, replace=False)
    losses[bad] += 1.5
    within = label_noise(names(600), losses, classes=classes)
    assert gone(within) == {f"r{number}" for number in bad}
    assert "beside its class" in within[0].reason
    assert "above " in within[0].reason
    assert gone(label_noise(names(600), losses, above=2.0)) == {f"r{one}" for one in np.flatnonzero(losses > 2)}
    assert {f"r{number}" for number in range(300, 600)} <= gone(label_noise(names(600), losses)), "hard is not wrong"


def test_class_balance_keeps_so_many_of_a_class_and_the_same_ones_again():
    classes = ["a"] * 6 + ["b"] * 2
    found = class_balance(names(8), classes, at_most=3)
    assert len(found) == 3
    assert gone(found) <= set(names(6))
    assert found == class_balance(names(8), classes, at_most=3)
    assert found[0].reason == "'a' has 6 rows, and 3 stay"
    best = class_balance(names(8), classes, at_most=2, priority=[0, 5, 1, 4, 2, 3, 0, 0])
    assert gone(best) == {"r0", "r2", "r4", "r5"}
    with pytest.raises(DataError, match="at_most: must be at least 1"):
        class_balance(names(8), classes, at_most=0)


def test_leakage_drops_training_rows_beside_a_test_row():
    rng = np.random.default_rng(2)
    train, test = rng.normal(size=(50, 16)), rng.normal(size=(10, 16))
    train[[4, 30]] = 3 * test[7] + 0.01, test[2]
    found = leakage(names(50), train, [f"t{number}" for number in range(10)], test)
    assert [(one.row, one.other) for one in found] == [("r4", "t7"), ("r30", "t2")]
    assert found[1].reason == "cosine 1.000 to test row t2"


def test_two_groups_are_those_that_were_drawn():
    rng = np.random.default_rng(3)
    values = np.r_[rng.normal(-1, 0.5, 3000), rng.normal(2, 0.8, 7000)]
    found = two_groups(values)
    assert found.means == pytest.approx((-1, 2), abs=0.06)
    assert found.deviations == pytest.approx((0.5, 0.8), abs=0.04)
    assert found.low_share == pytest.approx(0.3, abs=0.015)
    assert found.low([found.border()])[0] == pytest.approx(0.5, abs=1e-6)
    assert (np.diff(found.low(np.linspace(-9, 9, 200))) <= 1e-12).all(), "more is never lower"
    for wrong in (np.ones(50), np.arange(5.0), np.r_[np.arange(40.0), np.inf]):
        with pytest.raises(DataError, match="two groups"):
            two_groups(wrong)


def test_folds_are_even_and_keep_groups_together():
    groups = [f"g{number // 3}" for number in range(90)]
    found = folds(groups, 5, seed=1)
    assert np.bincount(found).tolist() == [18] * 5
    assert all(len(set(found[start : start + 3])) == 1 for start in range(0, 90, 3))
    assert (found == folds(groups, 5, seed=1)).all()
    assert (found != folds(groups, 5, seed=2)).any()
    with pytest.raises(DataError, match="must be 2 to 30"):
        folds(groups, 31)

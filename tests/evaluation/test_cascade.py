"""Cascades: each point of the curve is what doing it row by row gives, and the threshold comes from other rows."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from kit.errors import DataError
from kit.evaluation.cascade import cascade, cascade_at, cascade_figure

COSTS = (1.0, 4.0)


def answers(n=300, seed=0):
    rng = np.random.default_rng(seed)
    sure = np.round(rng.random(n), 2)  # with ties
    return sure, (rng.random(n) < sure).astype(float), (rng.random(n) < 0.9).astype(float)


def by_hand(threshold, sure, first, second):
    right, cost = [], []
    for s, one, other in zip(sure, first, second, strict=True):
        right.append(other if s < threshold else one)
        cost.append(COSTS[0] + (COSTS[1] if s < threshold else 0))
    return np.mean(right), np.mean(cost)


def test_every_point_is_what_doing_it_gives():
    rows = answers()
    curve = cascade(*rows, costs=COSTS)
    assert len(curve.threshold) == len(np.unique(rows[0])) + 1
    for threshold, accuracy, cost in zip(curve.threshold, curve.accuracy, curve.cost, strict=True):
        assert (accuracy, cost) == pytest.approx(by_hand(threshold, *rows))
    assert (curve.handed[0], curve.handed[-1]) == (0, 1)


def test_the_cheapest_threshold_of_an_accuracy_or_the_best_there_is():
    curve = cascade(*answers(), costs=COSTS)
    chosen = curve.cheapest(0.8)
    at = np.flatnonzero(curve.threshold == chosen)[0]
    assert curve.accuracy[at] >= 0.8
    assert (curve.accuracy[:at] < 0.8).all()
    assert curve.cheapest(1.1) == curve.threshold[curve.accuracy.argmax()]


def test_what_it_does_on_other_rows_is_measured_in_pairs():
    threshold = cascade(*answers(seed=1), costs=COSTS).cheapest(0.85)
    rows = answers(seed=2)
    found = cascade_at(threshold, *rows, costs=COSTS, split="test", clusters=[n // 3 for n in range(300)])
    accuracy, cost = by_hand(threshold, *rows)
    assert found["cascade_accuracy"].value == pytest.approx(accuracy)
    assert found["cascade_cost"].value == pytest.approx(cost / 4)
    assert found["cascade_loss"].value == pytest.approx(rows[2].mean() - accuracy)
    assert found["cascade_handed"].value == pytest.approx((rows[0] < threshold).mean())
    assert all(one.low <= one.value <= one.high for one in found.values())


def test_the_figure_has_both_ends_and_what_was_chosen():
    curve = cascade(*answers(), costs=COSTS)
    figure = cascade_figure(curve, chosen=curve.cheapest(0.8), title="Small first")
    (axis,) = figure.axes
    assert axis.get_title() == "Small first"
    assert {text.get_text() for text in axis.get_legend().get_texts()} == {
        "handing over by lot", "handing over when unsure", "chosen on validation",
    }  # fmt: skip
    assert {text.get_text() for text in axis.texts} == {"first alone", "both, always"}
    plt.close(figure)


def test_what_makes_no_cascade_is_said():
    with pytest.raises(DataError, match=r"(?s)three numbers per row.*costs: must be above 0"):
        cascade([0.1], [1, 1], [1], costs=(0, 1))
    with pytest.raises(DataError, match="not finite"):
        cascade([np.nan], [1], [1], costs=COSTS)

"""Captions among strangers: shares by counting, probabilities that mean what they say."""

import numpy as np
import pytest

from kit.data.curate import low_agreement
from kit.data.strangers import beyond, stranger_probability
from kit.errors import DataError


def planted(n=4000, mixed=0.3, seed=0):
    """Own captions fit two deviations better than strangers'; mixed-up ones are strangers."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < mixed
    own = np.where(wrong, rng.normal(0, 1, n), rng.normal(2, 1, n))
    return own, wrong, rng.normal(0, 1, 100_000)


def test_shares_are_counted():
    found = beyond([3.0, 1.0, -9.0], [0, 1, 2, 3])
    assert found == pytest.approx([(1 + 1) / 5, (3 + 1) / 5, 1.0])


@pytest.mark.parametrize("mixed", [0.05, 0.3, 0.6])
def test_the_share_of_wrong_captions_is_told_and_probabilities_hold(mixed):
    own, wrong, strangers = planted(n=40_000, mixed=mixed)
    found = stranger_probability(beyond(own, strangers))
    assert found.share == pytest.approx(mixed, abs=0.05)
    for low, high in ((0.2, 0.5), (0.5, 0.8), (0.8, 1.01)):
        inside = (found.probability >= low) & (found.probability < high)
        if inside.sum() > 500:
            assert wrong[inside].mean() == pytest.approx(found.probability[inside].mean(), abs=0.1)


def test_it_is_the_true_posterior_of_the_two_normals():
    own, _, strangers = planted(n=40_000)
    found = stranger_probability(beyond(own, strangers)).probability
    true = 0.3 * np.exp(-(own**2) / 2) / (0.3 * np.exp(-(own**2) / 2) + 0.7 * np.exp(-((own - 2) ** 2) / 2))
    inside = (own > 0) & (own < 2)
    assert np.abs(found - true)[inside].mean() < 0.03


def test_more_strangers_reached_is_never_less_probable_and_clean_rows_stay():
    own, _, strangers = planted(mixed=0.0)
    shares = beyond(own, strangers)
    found = stranger_probability(shares)
    assert (np.diff(found.probability[np.argsort(shares, kind="stable")]) >= -1e-12).all()
    assert found.share < 0.06
    assert (found.probability > 0.9).mean() < 0.03


def test_rows_that_are_probably_strangers_are_dropped_with_their_number():
    own, wrong, strangers = planted(n=2000)
    ids = [f"r{number}" for number in range(2000)]
    found = low_agreement(ids, own, reached=beyond(own, strangers))
    gone = np.array([int(one.row[1:]) for one in found])
    assert wrong[gone].mean() > 0.75
    assert wrong[gone].sum() / wrong.sum() > 0.6
    assert all(one.score > 0.5 for one in found)
    assert "% of other rows' captions agree as well: one of them with probability 0." in found[0].reason
    surer = low_agreement(ids, own, reached=beyond(own, strangers), surest=0.9)
    assert {one.row for one in surer} < {one.row for one in found}
    with pytest.raises(DataError, match="surest"):
        low_agreement(ids, own, reached=beyond(own, strangers), surest=1)
    with pytest.raises(DataError, match="at least 50 shares"):
        stranger_probability([0.5] * 10)

"""Routing: the nearest centroid by definition, how sure that is, and what is none of them."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from kit.adapters.route import Router, calibration_error, joined
from kit.errors import DataError

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(3, 16))
OFFSET = 5 * RNG.normal(size=16)  # the cone that a CLIP's embeddings lie in


def inputs(which, n, spread=0.6, seed=0):
    return OFFSET + CENTRES[which] + spread * np.random.default_rng([seed, which]).normal(size=(n, 16))


def some(n, seed):
    return {name: inputs(place, n, seed=seed) for place, name in enumerate(("shapes", "colours", "counts"))}


@pytest.fixture
def router():
    return Router.fit(some(200, 1), some(200, 2))


def test_an_input_goes_to_the_nearest_centroid(router):
    found = {name: router.choose(one) for name, one in some(300, 3).items()}
    for name, routes in found.items():
        sent = [one for one in routes.names if one is not None]
        assert np.mean([one == name for one in sent]) > 0.97
        assert len(sent) >= 0.96 * 300, "a hundredth of its own is refused"


def test_what_is_far_from_all_is_none_of_these(router):
    far = OFFSET + 3 * np.random.default_rng(9).normal(size=(200, 16))
    assert np.mean([one is None for one in router.choose(far).names]) > 0.8


def test_the_temperature_is_that_of_least_cross_entropy(router):
    held = some(200, 2)
    cosines, labels = [], []
    for place, one in enumerate(held.values()):
        moved = one.astype(np.float32) - router.centre
        cosines.append(moved / np.linalg.norm(moved, axis=1, keepdims=True) @ router.centroids.T)
        labels += [place] * len(one)
    logits = np.concatenate(cosines)

    def nats(t):
        return np.mean(logsumexp(logits / t, axis=1) - logits[np.arange(len(labels)), labels] / t)

    best = minimize_scalar(nats, bounds=(1e-3, 10), method="bounded")
    assert best.x <= router.temperature
    assert best.fun + 5e-4 < nats(router.temperature) <= best.fun + 1e-3


def test_how_sure_it_is_is_how_often_it_is_right():
    hard = {name: inputs(place, 2000, spread=3.0, seed=4) for place, name in enumerate(("a", "b", "c"))}
    router = Router.fit(
        {name: one[:500] for name, one in hard.items()}, {name: one[500:1000] for name, one in hard.items()}
    )
    sure, right = [], []
    for name, one in hard.items():
        found = router.choose(one[1000:])
        sure += found.probability.tolist()
        right += [chosen == name for chosen, _ in zip(_nearest(router, one[1000:]), one, strict=False)]
    assert 0.5 < np.mean(right) < 0.95
    assert calibration_error(sure, right) < 0.05


def _nearest(router, vectors):
    loose = Router(router.names, router.centre, router.centroids, router.temperature, np.full(3, -2.0))
    return loose.choose(vectors).names


def test_calibration_error_is_the_mean_gap():
    assert calibration_error([0.6] * 10, [1] * 6 + [0] * 4, bins=1) == pytest.approx(0)
    assert calibration_error([0.9] * 10, [1] * 6 + [0] * 4, bins=1) == pytest.approx(0.3)
    assert calibration_error([0.1] * 5 + [0.9] * 5, [1] * 5 + [0] * 5, bins=2) == pytest.approx(0.9)


def test_picture_and_prompt_count_alike():
    pictures, prompts = RNG.normal(size=(2, 4, 8))
    found = joined(pictures, 7 * prompts)
    assert np.linalg.norm(found, axis=1) == pytest.approx(np.ones(4), rel=1e-5)
    cosines = [
        one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        for one, other in ((pictures[0], pictures[1]), (prompts[0], prompts[1]))
    ]
    assert found[0] @ found[1] == pytest.approx(np.mean(cosines), rel=1e-4)


def test_what_makes_no_router_is_said_at_once():
    with pytest.raises(DataError, match=r"(?s)router: b: has 3 held-out.*refused: must be"):
        Router.fit(
            {"a": np.ones((30, 4)), "b": np.ones((30, 4))}, {"a": np.ones((30, 4)), "b": np.ones((3, 4))}, refused=1
        )
    with pytest.raises(DataError, match=r"(?s)examples of \['a'\], held-out inputs of \['b'\].*one width"):
        Router.fit({"a": np.ones((30, 4))}, {"b": np.ones((30, 5))})

"""Alpha against the krippendorff package and Krippendorff's own example; its interval by simulation."""

import krippendorff
import numpy as np
import pytest

from kit.humaneval.agreement import agreement, krippendorff_alpha
from kit.humaneval.errors import StudyError
from kit.humaneval.simulate import simulated_votes
from kit.humaneval.table import VoteTable

GONE = np.nan
# Krippendorff (2011), section C: four observers, twelve units.
EXAMPLE = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, GONE, GONE, GONE],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, GONE, 3],
        [GONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, GONE],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, GONE],
    ]
)


def listed(matrix):
    rater, unit = np.nonzero(~np.isnan(matrix))
    return matrix[rater, unit], unit


@pytest.mark.parametrize(("metric", "printed"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorffs_example(metric, printed):
    assert krippendorff_alpha(*listed(EXAMPLE), metric=metric).value == pytest.approx(printed, abs=6e-4)


@pytest.mark.parametrize("metric", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("seed", range(5))
def test_the_same_as_the_package(metric, seed):
    generator = np.random.default_rng(seed)
    truth = generator.integers(1, 6, size=40)
    matrix = np.where(generator.random((5, 40)) < 0.6, truth, generator.integers(1, 6, size=(5, 40))).astype(float)
    matrix[generator.random((5, 40)) < 0.3] = GONE
    theirs = krippendorff.alpha(matrix, level_of_measurement=metric)
    assert krippendorff_alpha(*listed(matrix), metric=metric, rounds=10).value == pytest.approx(theirs, abs=1e-12)


def test_the_interval_covers():
    hits, trials = 0, 200
    generator = np.random.default_rng(0)

    def sample(n):
        truth = generator.integers(0, 3, size=n)
        matrix = np.where(generator.random((3, n)) < 0.6, truth, generator.integers(0, 3, size=(3, n)))
        return matrix.ravel(), np.tile(np.arange(n), 3)

    true = krippendorff_alpha(*sample(20_000), rounds=2).value
    for seed in range(trials):
        found = krippendorff_alpha(*sample(60), rounds=300, seed=seed)
        hits += found.low <= true <= found.high
    assert 0.90 <= hits / trials <= 0.98  # nominal 0.95, standard error of the simulation 0.015


def test_sides_do_not_matter_and_taste_does():
    same = VoteTable.of(
        list("abab"), list("baba"), ["left", "right", "tie", "tie"], raters=list("xyxy"), items=list("iijj")
    )
    assert agreement(same, rounds=10).value == 1.0
    calm = simulated_votes([1.0, -1.0], raters=6, items=100, item_sd=1.5, seed=0)
    wild = simulated_votes([1.0, -1.0], raters=6, items=100, item_sd=0.0, rater_sd=1.5, seed=0)
    assert agreement(calm).value > agreement(wild).value > -0.2
    assert agreement(calm).n == 100


@pytest.mark.parametrize(
    ("values", "units", "options", "said"),
    [
        ([1, 2], [1, 2], {}, "nothing was judged by two raters"),
        ([], [], {}, "nothing was judged by two raters"),
        ([1, 1, 2], [1, 1, 2], {}, "all answers are alike"),
        ([1, 2], [1, 1], {"metric": "nominl"}, "no such metric: 'nominl'. Did you mean 'nominal'"),
    ],
)
def test_what_cannot_be_told(values, units, options, said):
    with pytest.raises(StudyError) as caught:
        krippendorff_alpha(values, units, **options)
    assert said in str(caught.value)

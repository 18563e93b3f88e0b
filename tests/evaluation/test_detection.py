"""Finding planted faults: AUROC and average precision by counting, intervals that cover."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from kit.errors import DataError
from kit.evaluation.detection import auroc, average_precision, found_faults, precision_recall, precision_recall_figure


def drawn(n=300, seed=0, apart=1.5):
    rng = np.random.default_rng(seed)
    bad = rng.random(n) < 0.3
    return np.round(rng.normal(size=n) + apart * bad, 1), bad  # with ties


def test_auroc_counts_pairs():
    scores, bad = drawn()
    pairs = [(a > b) + (a == b) / 2 for a in scores[bad] for b in scores[~bad]]
    assert auroc(scores, bad) == pytest.approx(np.mean(pairs))
    assert auroc(-scores, bad) == pytest.approx(1 - np.mean(pairs))


def test_precision_and_recall_are_counted_at_every_threshold():
    scores, bad = drawn()
    precision, recall = precision_recall(scores, bad)
    thresholds = np.unique(scores)[::-1]
    assert precision == pytest.approx([bad[scores >= t].mean() for t in thresholds])
    assert recall == pytest.approx([bad[scores >= t].sum() / bad.sum() for t in thresholds])
    by_hand = sum((r - before) * p for p, r, before in zip(precision, recall, [0, *recall[:-1]], strict=True))
    assert average_precision(scores, bad) == pytest.approx(by_hand)
    assert average_precision([3, 2, 1], [True, False, True]) == pytest.approx((1 + 2 / 3) / 2)


def test_seeds_are_averaged_and_the_interval_covers():
    from scipy.stats import norm

    true, covered = norm.cdf(1.5 / np.sqrt(2)), 0
    for trial in range(60):
        rows = drawn(200, seed=trial)
        found = found_faults([rows[0]], [rows[1]], split="train")["auroc"]
        covered += found.low <= true <= found.high
    assert covered >= 51
    several = [drawn(seed=seed) for seed in range(3)]
    found = found_faults([one for one, _ in several], [bad for _, bad in several], split="train", prefix="mixed_")
    assert found["mixed_auroc"].value == pytest.approx(np.mean([auroc(*one) for one in several]))
    assert found["mixed_average_precision"].baseline == pytest.approx(np.mean([bad.mean() for _, bad in several]))


def test_the_figure_says_what_it_shows():
    figure = precision_recall_figure({"agreement": drawn()}, marks={"dropped": (0.5, 0.7)}, title="Wrong captions")
    (axis,) = figure.axes
    words = [text.get_text() for text in axis.get_legend().get_texts()]
    assert words[0].startswith("agreement, AUROC 0.8")
    assert words[1:] == ["by lot", "dropped"]
    plt.close(figure)


def test_what_has_no_faults_or_no_good_rows_is_refused():
    for scores, bad in (([1.0, 2.0], [True, True]), ([1.0], [True, False]), ([np.nan, 1.0], [True, False])):
        with pytest.raises(DataError, match="one finite score per row"):
            auroc(scores, bad)
    with pytest.raises(DataError, match="same rows for each seed"):
        found_faults([[1.0, 2.0], [1.0, 2.0, 3.0]], [[True, False], [True, False, False]], split="train")

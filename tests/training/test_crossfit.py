"""Cross-fitting: no row is scored by a model that saw its group, and captions that were mixed up score low."""

import numpy as np
import pytest
import torch
from dual_encoders import fresh

from kit.data.folds import folds
from kit.errors import DataError
from kit.models.cut import DualEncoderTail
from kit.training import crossfit
from kit.training.crossfit import cross_fitted


@pytest.fixture
def pairs():
    """Pictures below the cut, and captions that a linear map of them finds."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(120, 8, generator=generator)
    images = hidden @ torch.randn(8, 1280, generator=generator)
    texts = hidden @ torch.randn(8, 384, generator=generator)
    return images, texts


def test_mixed_up_captions_score_low(stitched, pairs):
    images, texts = pairs
    wrong = np.arange(120) % 4 == 0
    order = np.arange(120)
    order[wrong] = np.roll(order[wrong], 1)
    groups = [f"g{number // 2}" for number in range(120)]
    found = cross_fitted(
        lambda seed: fresh(stitched), images, texts[order], groups, k=3, epochs=25, batch_size=40, lr=1e-2
    )
    assert found.score.shape == found.beyond.shape == (120,)
    assert np.median(found.score[wrong]) < np.median(found.score[~wrong]) - 1
    assert np.median(found.beyond[wrong]) > 0.3 > 0.1 > np.median(found.beyond[~wrong])


def test_a_row_is_scored_by_models_that_never_saw_its_group(stitched, pairs, monkeypatch):
    images, texts = pairs
    groups = [f"g{number // 2}" for number in range(120)]
    fold, seen = folds(groups, 4, seed=7), []

    def spy(tail, objective, columns, **options):
        assert isinstance(tail, DualEncoderTail)
        seen.append({int((images == row).all(1).nonzero()) for row in columns[0]})

    monkeypatch.setattr(crossfit, "fit", spy)
    use = np.arange(120) % 10 != 0
    cross_fitted(lambda seed: fresh(stitched), images, texts, groups, k=4, models=2, use=use, seed=7)
    assert len(seen) == 8
    for number in range(4):
        expected = set(np.flatnonzero((fold != number) & use).tolist())
        assert seen[2 * number] == seen[2 * number + 1] == expected
        assert not {groups[row] for row in expected} & {groups[row] for row in np.flatnonzero(fold == number)}


def test_what_does_not_fit_is_said(stitched, pairs):
    images, texts = pairs
    with pytest.raises(DataError, match="120 pictures, 119 captions"):
        cross_fitted(lambda seed: fresh(stitched), images, texts[1:], ["a"] * 120)
    with pytest.raises(DataError, match="and 0 to train on"):
        cross_fitted(
            lambda seed: fresh(stitched),
            images,
            texts,
            [str(n) for n in range(120)],
            k=2,
            use=np.zeros(120, dtype=bool),
        )

"""Ranks, recall and zero-shot arithmetic against loops and by hand."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from kit.evaluation.metrics import class_vectors, median_rank, predictions, ranks, recall_at_k


def slow_rank(row, own):
    return 1 + sum(1 for place, score in enumerate(row) if place != own and score >= row[own])


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_ranks_against_a_loop_with_ties(n):
    similarity = torch.randint(0, 4, (n, n), generator=torch.Generator().manual_seed(n)).float()
    assert ranks(similarity).tolist() == [slow_rank(row, own) for own, row in enumerate(similarity.tolist())]


def test_ties_count_against_the_query():
    assert ranks(torch.zeros(5, 5)).tolist() == [5] * 5
    assert recall_at_k(torch.zeros(5, 5), 4) == 0
    assert recall_at_k(torch.zeros(5, 5), 5) == 1


def test_a_model_that_gives_no_numbers_finds_nothing():
    assert ranks(torch.full((4, 4), torch.nan)).tolist() == [4] * 4
    broken = torch.eye(4)
    broken[1] = torch.nan
    assert ranks(broken).tolist() == [1, 4, 1, 1]
    assert recall_at_k(torch.full((4, 4), torch.nan), 1) == 0


def test_recall_and_median_by_hand():
    similarity = torch.tensor([[0.9, 0.1, 0.2], [0.8, 0.5, 0.1], [0.7, 0.6, 0.1]])  # ranks 1, 2, 3
    assert [recall_at_k(similarity, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert median_rank(similarity) == 2
    assert median_rank(similarity[:2, :2]) == 1.5
    assert recall_at_k(similarity.T, 1) == pytest.approx(1 / 3)


def test_median_is_numpys():
    similarity = torch.randn(50, 50, generator=torch.Generator().manual_seed(0))
    assert median_rank(similarity) == np.median(ranks(similarity).numpy())


@pytest.mark.parametrize("bad", [torch.zeros(2, 3), torch.zeros(3), torch.zeros(0, 0)])
def test_a_matrix_that_is_not_square(bad):
    with pytest.raises(ValueError, match="a square matrix is needed"):
        ranks(bad)


@pytest.mark.parametrize("k", [0, 4, -1])
def test_k_out_of_range(k):
    with pytest.raises(ValueError, match="at least 1 and at most 3"):
        recall_at_k(torch.eye(3), k)


def test_a_class_is_the_mean_of_its_prompts():
    texts = F.normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    found = class_vectors(texts, 2)
    for number in range(3):
        mean = (texts[2 * number] + texts[2 * number + 1]) / 2
        assert torch.allclose(found[number], mean / mean.norm(), atol=1e-6)


def test_the_nearest_class():
    assert predictions(torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.eye(2)).tolist() == [0, 1]

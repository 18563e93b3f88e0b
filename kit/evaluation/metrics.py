"""What is measured on matrices of similarities: pure functions of tensors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def ranks(similarity: Tensor) -> Tensor:
    """Return the rank of each query's own item, 1 being the best.

    Args:
        similarity: Query-by-item scores, shape (n, n); row i's own item is column i. Higher is closer.

    Returns:
        Whole numbers in [1, n], shape (n,). Ties and values that are no number count against the query.

    Raises:
        ValueError: similarity is not square, or empty.
    """
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1] or not len(similarity):
        raise ValueError(f"similarity: a square matrix is needed, got shape {tuple(similarity.shape)}")
    # "not below" instead of "at least": a similarity that is no number counts against the query as well.
    return (~(similarity < similarity.diagonal().unsqueeze(1))).sum(1)


def recall_at_k(similarity: Tensor, k: int) -> float:
    """Return the share of queries whose own item is among the k most similar.

    Args:
        similarity: Query-by-item scores, shape (n, n); row i's own item is column i. Higher is closer.
        k: How many items count as found, 1 <= k <= n.

    Returns:
        A share in [0, 1], unitless. Ties count against the query.

    Raises:
        ValueError: similarity is not square, or k is out of range.

    Source:
        Karpathy and Fei-Fei (2015), section 4.2, arXiv:1412.2306.
    """
    if not 1 <= k <= len(similarity):
        raise ValueError(f"k: must be at least 1 and at most {len(similarity)}, got {k}")
    return float((ranks(similarity) <= k).double().mean())


def median_rank(similarity: Tensor) -> float:
    """Return the median rank of the queries' own items, 1 being the best; the mean of both middle ones where n is even.

    Source:
        Karpathy and Fei-Fei (2015), section 4.2, arXiv:1412.2306.
    """
    return float(ranks(similarity).double().quantile(0.5))


def class_vectors(texts: Tensor, templates: int) -> Tensor:
    """Return one unit vector per class: the mean over its prompts.

    Args:
        texts: Unit vectors of the prompts, shape (classes * templates, d), all templates of a class together.
        templates: Prompts per class.

    Returns:
        Shape (classes, d).

    Source:
        Radford et al. (2021), section 3.1.4, arXiv:2103.00020.
    """
    return F.normalize(texts.reshape(-1, templates, texts.shape[-1]).mean(1), dim=-1)


def predictions(images: Tensor, classes: Tensor) -> Tensor:
    """Return the nearest class of each image, shape (n,), from unit vectors (n, d) and (classes, d)."""
    return torch.argmax(images @ classes.T, dim=1)

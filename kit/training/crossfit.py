"""How well rows' own captions fit their pictures, by models that were trained without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kit.data.folds import folds
from kit.data.strangers import beyond
from kit.errors import DataError
from kit.models.cut import DualEncoderTail
from kit.models.dual_encoder import ClipEncoder
from kit.training.fit import fit
from kit.training.objectives import Contrastive


@dataclass(frozen=True)
class Agreement:
    """Cross-fitted agreement of rows' pictures and captions.

    Args:
        score: The mean log-probability of a picture's own caption among those of its fold, and the other way round, in
            nats; shape (n,).
        beyond: The share of strangers' captions in the fold that fit at least as well, shape (n,).
    """

    score: NDArray[np.float64]
    beyond: NDArray[np.float64]


def cross_fitted(
    fresh: Callable[[int], ClipEncoder],
    images: Tensor,
    texts: Tensor,
    groups: Sequence[str],
    *,
    k: int = 5,
    models: int = 1,
    use: NDArray[np.bool_] | None = None,
    epochs: int = 20,
    seed: int = 0,
    **options: float,
) -> Agreement:
    """Return how well each row's caption fits, by models trained on the other folds.

    Args:
        fresh: Returns a dual encoder to train, by a seed.
        images: Pictures below the cut, shape (n, image width).
        texts: Their captions below the cut, shape (n, text width).
        groups: What must not be on both sides: concepts, or the rows' pictures; shape (n,).
        k: Folds.
        models: Trained per fold, whose logits are averaged.
        use: Rows that may be trained on, shape (n,); all by default. A second round may leave out what the first
            doubts; every row is scored all the same.
        epochs: Passes over the rows of the other folds. Few are better: what a model learns first is right.
        seed: Of folds and models.
        options: batch_size, lr and others of ``fit``.

    Raises:
        DataError: shapes that do not fit, or a fold that nothing is left to train for.

    Source:
        Arpit et al. (2017), arXiv:1706.05394, for what is learnt first.
    """
    if not len(images) == len(texts) == len(groups):
        raise DataError.of("cross-fit", f"{len(images)} pictures, {len(texts)} captions, {len(groups)} groups")
    fold = folds(groups, k, seed=seed)
    allowed = np.ones(len(fold), dtype=bool) if use is None else np.asarray(use, dtype=bool)
    score, reached = np.empty(len(fold)), np.empty(len(fold))
    for number in range(k):
        held = np.flatnonzero(fold == number)
        train = np.flatnonzero((fold != number) & allowed)
        if len(train) < 2 or len(held) < 2:
            raise DataError.of("cross-fit", f"fold {number} has {len(held)} rows and {len(train)} to train on")
        logits = torch.stack(
            [
                _logits(
                    fresh(seed + 1000 * one),
                    images,
                    texts,
                    train,
                    held,
                    epochs=epochs,
                    seed=seed + 1000 * one,
                    **options,
                )
                for one in range(models)
            ]
        ).mean(0)
        fits = (logits.log_softmax(1) + logits.log_softmax(0)).double().numpy() / 2
        score[held] = fits.diagonal()
        reached[held] = beyond(score[held], fits[~np.eye(len(held), dtype=bool)])
    return Agreement(score, reached)


def _logits(
    encoder: ClipEncoder,
    images: Tensor,
    texts: Tensor,
    train: NDArray[np.int64],
    held: NDArray[np.int64],
    **options: float,
) -> Tensor:
    """Return the held rows' logits, pictures by captions, after training on others."""
    tail = DualEncoderTail(encoder)
    fit(tail, Contrastive("clip"), [images[train], texts[train]], label="cross-fitting", **options)  # type: ignore[arg-type]
    device = next(tail.parameters()).device
    with torch.no_grad():
        pairs = tail.eval()(images[held].to(device), texts[held].to(device))
        logits: Tensor = (pairs.scale * pairs.image @ pairs.text.T).cpu()
    return logits

"""Several answers to one question, and which to give: the surest one, or the one that a CLIP finds in the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kit.errors import DataError

# (row, its distinct proposals) -> how well each fits, higher is better.
Fit = Callable[[int, Sequence[str]], ArrayLike]


def surest(answers: Sequence[Sequence[str]], probability: ArrayLike) -> list[str]:
    """Return for each question the answer that most of the models' sureness is for.

    Models that agree add up what they are sure of; of equals the earlier model's answer is given.

    Args:
        answers: One list per model, each of shape (n,).
        probability: How sure each is, shape (models, n).

    Raises:
        DataError: shapes that do not fit.
    """
    sure = np.asarray(probability, dtype=np.float64)
    if not answers or sure.shape != (len(answers), len(answers[0])) or len({len(one) for one in answers}) > 1:
        shapes = [len(one) for one in answers]
        raise DataError.of("surest", f"answers of lengths {shapes}, sureness of shape {sure.shape}")
    given = []
    for row in range(sure.shape[1]):
        total: dict[str, float] = {}
        for model, said in enumerate(answers):
            total[said[row]] = total.get(said[row], 0.0) + float(sure[model, row])
        given.append(max(total, key=total.__getitem__))
    return given


def best_of_n(proposals: Sequence[Sequence[str]], fit: Fit, *, prior: Sequence[ArrayLike] | None = None) -> list[str]:
    """Return for each question the proposal that fits best: a language model proposes and a CLIP disposes.

    Args:
        proposals: Of each question, the answers that were proposed; at least one.
        fit: Returns how well each of a question's proposals fits, such as a CLIP's cosine of picture and statement.
        prior: Of each question, what is added to the fit, one number per proposal; such as the language model's own
            log-probability, weighted.

    Raises:
        DataError: a question without proposals, or fits of another number.

    Source:
        Cobbe et al. (2021), arXiv:2110.14168, for a verifier that ranks what was sampled.
    """
    chosen = []
    for row, said in enumerate(proposals):
        distinct = list(dict.fromkeys(said))
        if not distinct:
            raise DataError.of("best of n", f"question {row} has no proposal", "propose at least one answer")
        scores = _scores(row, distinct, fit)
        if prior is not None:
            own = np.asarray(prior[row], dtype=np.float64)
            if len(own) != len(said):
                raise DataError.of(
                    "best of n: prior", f"{len(own)} numbers for {len(said)} proposals of question {row}"
                )
            scores = scores + np.array([own[[one == each for each in said]].max() for one in distinct])
        chosen.append(distinct[int(scores.argmax())])
    return chosen


def _scores(row: int, distinct: Sequence[str], fit: Fit) -> NDArray[np.float64]:
    scores = np.asarray(fit(row, distinct), dtype=np.float64)
    if scores.shape != (len(distinct),) or not np.isfinite(scores).all():
        raise DataError.of(
            "best of n: fit", f"question {row}: one finite number per proposal, got shape {scores.shape}"
        )
    return scores

"""What preference tuning minimises: small functions of log-probabilities, and one objective for ``kit.fit``.

Everywhere ``policy`` and ``reference`` are log-probabilities of the chosen and of the rejected answer, summed over an
answer's tokens, in nats, shape (n, 2): of the model in training, and of the one that it must not leave far behind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from torch.nn import functional as F

from kit.errors import DataError, Fault, ModelError, did_you_mean, listed, raise_faults
from kit.models.preference_packs import Likelihood

KINDS = ("dpo", "ipo", "kto")


class Preferences(Protocol):
    """What a column of preference rows draws: ``PreferenceBatch``, or ``WholeBatch`` for a model that is not cut."""

    margins: Tensor
    reference: Tensor | None

    def likelihood(self, model: Any) -> Likelihood:
        """Return how likely the model finds the answers."""


def dpo(
    policy: Tensor, reference: Tensor, *, beta: float, smoothing: float = 0.0, offset: Tensor | float = 0.0
) -> Tensor:
    """Return the loss of direct preference optimisation for each row, shape (n,), nats.

    Args:
        policy: Shape (n, 2), nats.
        reference: Shape (n, 2), nats.
        beta: How closely the reference is held to, per nat; above 0.
        smoothing: The share of votes that are taken to be wrong, 0 <= smoothing < 0.5.
        offset: By how much the implicit reward of the chosen answer must be ahead, scalar or shape (n,), unitless.

    Source:
        Rafailov et al. (2023), arXiv:2305.18290, equation 7; smoothing as in its authors' conservative DPO (Mitchell,
        2023); offset as in Amini et al. (2024), arXiv:2402.10571, growing with the margin itself.
    """
    gained = policy - reference
    ahead = beta * (gained[:, 0] - gained[:, 1]) - offset
    return -(1 - smoothing) * F.logsigmoid(ahead) - smoothing * F.logsigmoid(-ahead)


def ipo(policy: Tensor, reference: Tensor, tokens: Tensor, *, beta: float) -> Tensor:
    """Return the loss of identity preference optimisation for each row, shape (n,), squared nats.

    Log-probabilities are taken per token, as the paper's authors do and TRL does; else long answers, whose sums
    differ by more, would weigh most.

    Args:
        policy: Shape (n, 2), nats.
        reference: Shape (n, 2), nats.
        tokens: Tokens of each answer, shape (n, 2).
        beta: The paper's tau: the chosen answer is to be ahead by 1 / (2 beta) nats a token; above 0.

    Source:
        Azar et al. (2023), arXiv:2310.12036, equation 17.
    """
    each = (policy - reference) / tokens
    return (each[:, 0] - each[:, 1] - 1 / (2 * beta)) ** 2


def kto(policy: Tensor, reference: Tensor, divergence: Tensor, *, beta: float) -> Tensor:
    """Return the loss of Kahneman-Tversky optimisation for each row, shape (n,), between 0 and 1.

    The mean of its two answers' losses: here votes come in pairs, so desirable and undesirable weigh the same.

    Args:
        policy: Shape (n, 2), nats.
        reference: Shape (n, 2), nats.
        divergence: How far the policy is from the reference in general, a scalar of at least 0 without gradient,
            nats; see ``drift``.
        beta: How soon gains and losses saturate, per nat; above 0.

    Source:
        Ethayarajh et al. (2024), arXiv:2402.01306, equation 7.
    """
    gained = beta * (policy - reference - divergence)
    return (1 - F.sigmoid(gained[:, 0]) + F.sigmoid(gained[:, 1])) / 2


def drift(policy: Tensor, reference: Tensor) -> Tensor:
    """Return the mean log-ratio on mismatched answers, at least 0: KTO's estimate of the divergence, a scalar, nats.

    Args:
        policy: Log-probabilities of answers that belong to other questions, nats, shape (n,).
        reference: The same by the reference, shape (n,).
    """
    return (policy - reference).mean().clamp(min=0).detach()


@dataclass(frozen=True)
class Preferring:
    """Raise the preferred answers' probability over the others', staying near the reference; for ``kit.fit``.

    Args:
        kind: "dpo", "ipo", or "kto", which asks for a column with mismatched answers and whose estimate of the
            divergence is that of the rows drawn together.
        beta: How closely the reference is held to; above 0. DPO and KTO take 0.1 as their papers do; IPO's is per
            token.
        smoothing: For "dpo": the share of votes that are taken to be wrong, 0 <= smoothing < 0.5.
        offset: For "dpo": a vote's margin times this is how far ahead the chosen answer must be (ODPO); at least 0.

    Raises:
        ModelError: all that is wrong with them at once.
    """

    kind: str = "dpo"
    beta: float = 0.1
    smoothing: float = 0.0
    offset: float = 0.0

    def __post_init__(self) -> None:
        faults = []
        if self.kind not in KINDS:
            what = f"{self.kind!r} is unknown.{did_you_mean(self.kind, KINDS)}"
            faults.append(Fault("objective", what, allowed=f"Allowed: {listed(KINDS)}."))
        if not (math.isfinite(self.beta) and self.beta > 0):
            faults.append(Fault("objective: beta", f"must be a number above 0, got {self.beta!r}"))
        if not 0 <= self.smoothing < 0.5:
            what = f"must be a share of at least 0 and below 0.5, got {self.smoothing!r}"
            faults.append(Fault("objective: smoothing", what))
        if not (math.isfinite(self.offset) and self.offset >= 0):
            faults.append(Fault("objective: offset", f"must be a number of at least 0, got {self.offset!r}"))
        faults += [
            Fault(f"objective: {name}", f"{self.kind!r} has none", "leave it at 0, or take 'dpo'")
            for name in ("smoothing", "offset")
            if self.kind in {"ipo", "kto"} and getattr(self, name)
        ]
        raise_faults(faults, ModelError)

    def __call__(self, model: Any, batch: Preferences) -> Tensor:
        """Return the mean loss of a batch's rows, a scalar.

        Raises:
            DataError: a column without reference, or for "kto" without mismatched answers.
        """
        if batch.reference is None:
            fix = "train on column.with_reference(model)"
            raise DataError.of("preferences", "what the reference makes of them was not computed", fix)
        found, reference = batch.likelihood(model), batch.reference[:, :2]
        if self.kind == "dpo":
            options = {"beta": self.beta, "smoothing": self.smoothing, "offset": self.offset * batch.margins}
            return dpo(found.answers, reference, **options).mean()
        if self.kind == "ipo":
            return ipo(found.answers, reference, found.tokens, beta=self.beta).mean()
        if found.mismatched is None:
            raise DataError.of("preferences", "'kto' asks for mismatched answers", "make the column with mismatch=True")
        divergence = drift(found.mismatched, batch.reference[:, 2])
        return kto(found.answers, reference, divergence, beta=self.beta).mean()

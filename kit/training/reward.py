"""What a reward model minimises: by the Bradley-Terry model, that the preferred answer has the higher reward."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from kit.models.preference_packs import PreferenceBatch


@dataclass(frozen=True)
class BradleyTerry:
    """Negative log-likelihood of the preferences under a Bradley-Terry model of rewards, for ``kit.fit``.

    Source:
        Ouyang et al. (2022), arXiv:2203.02155, equation 1; Bradley and Terry (1952).
    """

    def __call__(self, model: Any, batch: PreferenceBatch) -> Tensor:
        """Return the mean over the batch's rows, a scalar in nats; ln 2 where nothing is told apart.

        Args:
            model: A ``RewardTail``, as it is or as accelerate wraps it.
            batch: What ``PreferencePacks`` draws, with a reference or without.
        """
        rewards = model(batch.texts).view(-1, 2)
        return -F.logsigmoid(rewards[:, 0] - rewards[:, 1]).mean()

"""How adapters' changes stand to each other and to what a merge makes of them, weight by weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from kit.result import Measurement


@dataclass
class Interference:
    """Sums over the adapted matrices, taken one matrix at a time.

    Args:
        parents: How many.
        density: Share of each parent's largest entries that signs are compared on.
    """

    parents: int
    density: float = 0.2
    _dots: dict[tuple[int, int], float] = field(default_factory=dict)
    _onto: list[float] = field(default_factory=list)
    _both: int = 0
    _unlike: int = 0
    _error: float = 0.0
    _wanted: float = 0.0
    _matrices: int = 0

    def add(self, deltas: Sequence[Tensor], child: Tensor, wanted: Tensor) -> None:
        """Take one adapted matrix into account.

        Args:
            deltas: Each parent's change of it, all of one shape.
            child: The merged adapter's change.
            wanted: What the method would make of the parents' changes at full rank.
        """
        flat = [delta.double().flatten() for delta in deltas]
        for i in range(len(flat)):
            for j in range(i, len(flat)):
                self._dots[i, j] = self._dots.get((i, j), 0.0) + float(flat[i] @ flat[j])
        own = child.double().flatten()
        self._onto = self._onto or [0.0] * len(flat)
        self._onto = [before + float(own @ one) for before, one in zip(self._onto, flat, strict=True)]
        self._error += float((own - wanted.double().flatten()).square().sum())
        self._wanted += float(wanted.double().square().sum())
        self._signs(flat)
        self._matrices += 1

    def _signs(self, flat: Sequence[Tensor]) -> None:
        """Count entries that are among the largest of two parents, and those of unlike sign."""
        kept = []
        for one in flat:
            largest = one.abs().kthvalue(max(1, round((1 - self.density) * len(one)))).values
            kept.append(torch.where(one.abs() > largest, one.sign(), torch.zeros_like(one)))
        for left, right in combinations(kept, 2):
            product = left * right
            self._both += int((product != 0).sum())
            self._unlike += int((product < 0).sum())

    def measurements(self) -> dict[str, Measurement]:
        """Return what was found.

        Returns:
            ``interference_cosine``: of the parents' changes, the largest in size of all pairs; 0 for changes that have
            nothing to do with each other. ``sign_conflict``: of entries that are among the largest of two parents, the
            share whose signs differ; a half by chance. ``kept_of_parent_N``: the child's change along a parent's, 1
            where all of it is there. ``parity_error``: how far the child is from what its method would make at full
            rank (of DARE: on average over its draws), relative.

        Source:
            Yadav et al. (2023), section 3, arXiv:2306.01708; Ilharco et al. (2023), section 5, arXiv:2212.04089.
        """
        n, found = self._matrices, {}
        cosines = [
            self._dots[i, j] / math.sqrt(self._dots[i, i] * self._dots[j, j])
            for i, j in combinations(range(self.parents), 2)
            if self._dots[i, i] * self._dots[j, j] > 0
        ]
        if cosines:
            value = max(cosines, key=abs)
            found["interference_cosine"] = Measurement(
                value, "cosine", n, method=f"largest of {len(cosines)} pairs, all adapted matrices", better="neither"
            )
        if self._both:
            found["sign_conflict"] = Measurement(
                self._unlike / self._both, "share", self._both, baseline=0.5, better="lower",
                method=f"of entries among the largest {self.density:.0%} of two parents",
            )  # fmt: skip
        for number, onto in enumerate(self._onto, 1):
            own = self._dots[number - 1, number - 1]
            if own > 0:
                found[f"kept_of_parent_{number}"] = Measurement(
                    onto / own, "x", n, method="the child's change along the parent's", better="neither"
                )
        error = math.sqrt(self._error / self._wanted) if self._wanted else 0.0
        found["parity_error"] = Measurement(
            error, "x", n, method="relative to the method's change at full rank", better="lower"
        )
        return found


def lora_layers(adapter: Any) -> list[tuple[str, Any]]:
    """Return the layers that a PEFT model has LoRA on, in the model's order, by name."""
    return [(name, module) for name, module in adapter.named_modules() if hasattr(module, "lora_A")]

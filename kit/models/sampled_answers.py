"""Several answers of a cut model to each question, drawn by lot: what people can then choose between."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kit.data.picture import Picture
from kit.errors import Fault, ModelError, raise_faults
from kit.models import products
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail
from kit.models.packed_answers import PackedAnswers


class SampledAnswers(PackedAnswers):
    """Free answers, each next token drawn with the probability that the model gives it.

    Args:
        cut: The cut model.
        tail: What is above the cut; shares the model's parameters.
        temperature: Logits are divided by it: 1 draws as the model was trained, less comes nearer to greedy answers;
            above 0.
        max_new_tokens: Where an answer that does not end by itself is cut.
        seed: Each call begins with the same luck.

    Raises:
        ModelError: a temperature that is not above 0.
    """

    pictures = 32  # a batch: few texts about each, where questions come by the dozen

    def __init__(
        self, cut: LanguageCut, tail: LanguageTail, *, temperature: float = 1.0, max_new_tokens: int = 24, seed: int = 0
    ) -> None:
        if not temperature > 0:
            raise ModelError.of("temperature", f"must be above 0, got {temperature!r}", "use PackedAnswers for 0")
        super().__init__(cut, tail, max_new_tokens=max_new_tokens)
        self.temperature, self.seed = temperature, seed
        self._luck = torch.Generator()

    def __call__(self, pictures: Sequence[Picture | None], questions: Sequence[str]) -> list[str]:
        """Return one answer per question; a picture may be None. Equal questions about one picture get one answer."""
        return [said for (said,) in self.several(pictures, questions, times=1)]

    def several(
        self, pictures: Sequence[Picture | None], questions: Sequence[str], *, times: int
    ) -> list[tuple[str, ...]]:
        """Return ``times`` answers per question, equal ones and all; a picture's prefix is computed once for them.

        Raises:
            ModelError: times < 1.
        """
        raise_faults([Fault("times", f"must be at least 1, got {times!r}")] if times < 1 else [], ModelError)
        if not questions:
            return []
        asked, distinct, about, prompts = self._distinct(pictures, questions)
        self._luck.manual_seed(self.seed)
        each, every = ([one for one in many for _ in range(times)] for many in (about, prompts))
        luck = (self.temperature, self.seed, times)
        said = products.kept("samples", lambda: self._identity([luck, *distinct]), lambda: self._written(each, every))
        found = {key: tuple(said[place * times : (place + 1) * times]) for place, key in enumerate(distinct)}
        return [found[key] for key in asked]

    def _pick(self, hidden: Tensor, head: Tensor) -> Tensor:
        chance = (self._logits(hidden, head).float() / self.temperature).softmax(-1).cpu()
        return torch.multinomial(chance, 1, generator=self._luck)

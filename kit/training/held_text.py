"""Tuning that leaves plain English alone: the model is held to its parent on texts that the new rows say nothing of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kit.errors import DataError, Fault, ModelError, raise_faults
from kit.models.dual_encoder import tensors_digest
from kit.models.language_cut import LanguageCut
from kit.models.packs import Batch, Packs
from kit.training.columns import Indices

PIECES = 512  # 60 steps of 16 draw each twice; 238 of 16 tokens were read in 9 s on one core, once for all seeds
BLOCK = 128  # positions whose logits are made at a time: 25 MB for a vocabulary of 49,152
READ = 32  # pieces at a time


@dataclass(frozen=True)
class HeldBatch:
    """Pieces of plain text of k tokens together, and the parent's last hidden states on them, shape (k, width)."""

    texts: Batch
    reference: Tensor

    def to(self, device: torch.device | str) -> HeldBatch:
        """Return the batch on a device."""
        return HeldBatch(self.texts.to(device), self.reference.to(device))

    def divergence(self, model: Any) -> Tensor:
        """Return the mean divergence of a model's next token from the parent's, a scalar, nats a token.

        Args:
            model: A ``LanguageTail``, as it is or as accelerate wraps it.
        """
        head = getattr(model, "module", model).head  # accelerate wraps what several processes train
        nats: Tensor = Divergence.apply(model(self.texts), self.reference, head)
        return nats.mean()


@dataclass(frozen=True)
class HeldText:
    """A column of plain text beside another column: for each row drawn there, one piece drawn here by lot.

    Args:
        packs: The pieces, m of t tokens each, none about a picture.
        rows: How many rows the other column has.
        reference: The parent's last hidden states on them, shape (m, t, width); None where they were not computed.
            Far smaller than its probabilities, which follow from them by one product.
    """

    packs: Packs
    rows: int
    reference: Tensor | None = None

    @classmethod
    def of(cls, cut: LanguageCut, texts: Sequence[str], *, rows: int, tokens: int = 16, seed: int = 0) -> HeldText:
        """Return pieces of these texts, at most ``PIECES`` of them, drawn by lot.

        Args:
            cut: The cut model.
            texts: Any plain texts; not those by which forgetting is measured.
            rows: How many rows the column beside it has.
            tokens: Of a piece, each of which is held; a rest is left out.
            seed: Of the lot.

        Raises:
            DataError: no text of more than ``tokens`` tokens, or sizes below 1; all at once.
        """
        sizes = {"rows": rows, "tokens": tokens}
        faults = [Fault(f"held text: {name}", f"must be at least 1, got {n}") for name, n in sizes.items() if n < 1]
        raise_faults(faults, DataError)
        read = cut.model.processor.tokenizer
        pieces: dict[tuple[int, ...], None] = {}
        for text in texts:
            ids = read(text, add_special_tokens=False)["input_ids"]
            pieces |= dict.fromkeys(tuple(ids[at : at + tokens + 1]) for at in range(0, len(ids) - tokens, tokens))
        if not pieces:
            what = f"none of {len(texts)} texts has more than {tokens} tokens"
            raise DataError.of("held text", what, "give longer texts, or fewer tokens")
        some = np.random.default_rng(seed).permutation(len(pieces))[:PIECES]
        kept = [list(pieces)[place] for place in some]
        return cls(cut.entries([None] * len(kept), [[(ids[:-1], ids[1:])] for ids in kept]), rows)

    def __len__(self) -> int:
        return self.rows

    def with_reference(self, model: Any) -> HeldText:
        """Return the column with what a ``LanguageTail`` makes of its pieces now, before it is trained."""
        device, training = next(model.parameters()).device, model.training
        model.eval()
        with torch.no_grad():
            places = np.split(np.arange(len(self.packs)), range(READ, len(self.packs), READ))
            found = torch.cat([model(self.packs.draw(some).to(device)).cpu() for some in places])
        model.train(training)
        return replace(self, reference=found.view(len(self.packs), -1, found.shape[1]))

    def draw(self, indices: Indices, generator: np.random.Generator) -> HeldBatch:
        """Return as many pieces as there are indices, or all of them where they are fewer.

        Raises:
            DataError: the reference was not computed.
        """
        if self.reference is None:
            raise DataError.of("held text", "what the parent makes of it was not computed", "use with_reference(model)")
        some = generator.choice(len(self.packs), min(len(indices), len(self.packs)), replace=False)
        return HeldBatch(self.packs.draw(some), self.reference[torch.from_numpy(some)].flatten(0, 1))

    def digest(self) -> str:
        """Return the identity of the content, the reference's numbers included."""
        own = "" if self.reference is None else tensors_digest({"reference": self.reference})
        return hashlib.sha256(f"{self.packs.digest()}|{self.rows}|{own}".encode()).hexdigest()


@dataclass(frozen=True)
class Held:
    """An objective of one column, and beside it the divergence from the parent on a column of ``HeldText``.

    What is tuned on a few hundred votes with nothing else in sight forgets other things first; mixing in text is how
    InstructGPT kept its benchmarks. Here every token's whole distribution is held, which says more than the token.

    Args:
        objective: From (model, one batch) to a scalar loss, such as ``Preferring``.
        weight: What a nat a token weighs against it; at least 0.

    Raises:
        ModelError: a weight below 0.

    Source:
        Ouyang et al. (2022), arXiv:2203.02155, section 3.5 (PPO-ptx); Li and Hoiem (2016), arXiv:1606.09282, for
        holding what the network said before.
    """

    objective: Callable[[Any, Any], Tensor]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ModelError.of("objective: weight", f"must be a number of at least 0, got {self.weight!r}")

    def __call__(self, model: Any, batch: Any, text: HeldBatch) -> Tensor:
        """Return the sum of both, a scalar."""
        return self.objective(model, batch) + self.weight * text.divergence(model)


class Divergence(torch.autograd.Function):
    """KL(parent || model) of the next token under a frozen output layer, without holding logits for the backward pass.

    As in ``FrozenHead``, the gradient with respect to the hidden states is computed on the way forward.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, reference: Tensor, weight: Tensor) -> Tensor:
        """Return nats, shape (n,), float32, for hidden and reference (n, width) and weight (vocabulary, width)."""
        nats, gradient = [], []
        for at in range(0, len(hidden), BLOCK):
            own, parent = hidden[at : at + BLOCK], reference[at : at + BLOCK]
            ours = (own @ weight.T).float().log_softmax(-1)
            theirs = (parent @ weight.T).float().log_softmax(-1)
            chance = theirs.exp()
            nats.append(torch.linalg.vecdot(chance, theirs.sub_(ours)))
            gradient.append(ours.exp_().sub_(chance).to(hidden.dtype) @ weight)
        ctx.save_for_backward(torch.cat(gradient))
        return torch.cat(nats)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient with respect to the hidden states: each row's, times what comes in for its token."""
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0][:, None].to(gradient.dtype), None, None

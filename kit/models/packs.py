"""Rows as a cut language model is trained on them: questions about one picture beside each other, prefixes shared."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kit.models.activations import Activations
from kit.models.dual_encoder import tensors_digest
from kit.models.quick_layers import Shared
from kit.models.turns import IGNORED

NO_PICTURE = -1
# Token ids, and for each the next one, where it is asked.
Text = tuple[tuple[int, ...], tuple[int, ...]]
# Rows of a batch, and their tokens, are padded to multiples of these: see ``quick_layers.STEP``.
MANY, LONG = 16, 4


@dataclass(frozen=True)
class Texts:
    """Distinct texts at the cut.

    Args:
        opening: Hidden states of what stands before every picture, shape (s, width).
        hidden: Of what follows it, padded, shape (n, t, width).
        lengths: Tokens of each text, shape (n,).
        wanted: For each token the next one, where it is asked; -100 elsewhere and in the padding; shape (n, t).
    """

    opening: Tensor
    hidden: Activations
    lengths: Tensor
    wanted: Tensor

    @classmethod
    def of(cls, opening: Tensor, hidden: Activations, texts: Sequence[Text]) -> Texts:
        """Return the texts whose token ids and wanted tokens are given."""
        wanted = torch.full((len(texts), hidden.shards[0].shape[1]), IGNORED)
        for row, (_, asked) in enumerate(texts):
            wanted[row, : len(asked)] = torch.tensor(asked)
        return cls(opening, hidden, torch.tensor([len(ids) for ids, _ in texts]), wanted)


@dataclass(frozen=True)
class Batch:
    """What a tail reads: p pictures (or none) and q texts about them, of n tokens together.

    Args:
        opening: See ``Texts``.
        features: Of each picture, shape (p, m, vision width); zeros where there is none.
        pictured: Whether there is one, shape (p,).
        hidden: Hidden states of the texts' tokens at the cut, shape (n, width).
        prefix: Which picture each text is about, shape (q,); texts of no tokens come last, as padding.
        places: Each text's tokens among all, padded, shape (q, t).
        valid: Which of these are tokens, shape (q, t).
        kept: Tokens after which another is asked, as places among all, shape (k,).
        labels: Which one, shape (k,).
    """

    opening: Tensor
    features: Tensor
    pictured: Tensor
    hidden: Tensor
    prefix: Tensor
    places: Tensor
    valid: Tensor
    kept: Tensor
    labels: Tensor

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on a device."""
        return Batch(*(getattr(self, spec.name).to(device) for spec in dataclasses.fields(self)))

    def per_text(self, values: Tensor) -> Tensor:
        """Return the sum over each text's asked tokens of one value per token: from shape (k,) to shape (q,).

        Nothing is added to one place by two threads, so that a resumed run gives the numbers of one that was not.
        """
        spread = values.new_zeros(self.valid.numel())
        spread = spread.index_put((self.valid.flatten().nonzero()[:, 0][self.kept],), values)
        return spread.view(self.valid.shape).sum(1)

    def last_asked(self) -> Tensor:
        """Return which of the asked tokens is the last of each text, shape (q,) without the padding texts."""
        text = self.valid.nonzero()[:, 0][self.kept]
        return (torch.cat([text, text.new_full((1,), -1)]).diff() != 0).nonzero()[:, 0]

    def shared(self, slots: int) -> Shared:
        """Return where tokens lie when each picture's prefix is the opening and ``slots`` tokens of the picture."""
        before = len(self.opening)
        held = torch.ones(len(self.pictured), before + slots, dtype=torch.bool, device=self.pictured.device)
        held[:, before:] &= self.pictured[:, None]
        tokens = self.valid.flatten().nonzero()[:, 0]
        start = held.sum(1)[self.prefix]
        own = start[:, None] + torch.arange(self.valid.shape[1], device=start.device)
        ahead = torch.arange(before + slots, device=start.device).repeat(len(held))
        return Shared(held, self.prefix, self.places, self.valid, tokens, torch.cat([ahead, own.flatten()[tokens]]))


@dataclass(frozen=True)
class Packs:
    """A column of training: each entry is a picture with the texts about it.

    Args:
        texts: All distinct texts.
        features: All distinct pictures; None where no row has one.
        groups: For each entry, its picture (-1 for none) and its texts.
        slots: Tokens of a picture.
    """

    texts: Texts
    features: Activations | None
    groups: tuple[tuple[int, tuple[int, ...]], ...]
    slots: int

    def __len__(self) -> int:
        return len(self.groups)

    def draw(self, indices: NDArray[np.int64], generator: np.random.Generator | None = None) -> Batch:  # noqa: ARG002
        """Return the entries at ``indices`` as a batch; nothing in it is left to chance."""
        drawn = [self.groups[index] for index in indices]
        prefix = [place for place, (_, texts) in enumerate(drawn) for _ in texts]
        return self.batch([picture for picture, _ in drawn], prefix, [text for _, texts in drawn for text in texts])

    def batch(self, pictures: Sequence[int], about: Sequence[int], texts: Sequence[int]) -> Batch:
        """Return texts about pictures as a batch.

        Args:
            pictures: Numbers of pictures, p of them; -1 for none.
            about: Which of these each text is about, as a place in ``pictures``.
            texts: Numbers of texts, q of them; the batch keeps their order.
        """
        numbers, prefix = torch.tensor(texts), torch.tensor(about)
        lengths = self.texts.lengths[numbers]
        longest = -(-int(lengths.max()) // LONG) * LONG
        more = -len(numbers) % MANY
        valid = torch.arange(longest)[None] < F.pad(lengths, (0, more))[:, None]
        tokens = valid.flatten().nonzero()[:, 0]
        places = torch.zeros(valid.numel(), dtype=torch.long)
        places[tokens] = torch.arange(len(tokens))
        wanted = self.texts.wanted[numbers, :longest].flatten()[tokens]
        kept = (wanted != IGNORED).nonzero()[:, 0]
        unique, back = torch.unique(numbers, return_inverse=True)
        hidden = self.texts.hidden.take(unique.numpy())[:, :longest][back].flatten(0, 1)[tokens]
        pictured = torch.tensor([picture != NO_PICTURE for picture in pictures])
        return Batch(
            opening=self.texts.opening, features=self._features(pictures), pictured=pictured, hidden=hidden,
            prefix=F.pad(prefix, (0, more)), places=places.view(valid.shape), valid=valid, kept=kept,
            labels=wanted[kept],
        )  # fmt: skip

    def _features(self, pictures: Sequence[int]) -> Tensor:
        if self.features is None:
            return torch.zeros(len(pictures), self.slots, 1)
        taken = self.features.take([max(picture, 0) for picture in pictures])
        taken[[place for place, picture in enumerate(pictures) if picture == NO_PICTURE]] = 0
        return taken

    def digest(self) -> str:
        """Return the identity of the content."""
        own = tensors_digest({"lengths": self.texts.lengths, "wanted": self.texts.wanted, "o": self.texts.opening})
        seen = self.features.digest if self.features is not None else ""
        return hashlib.sha256(f"{own}|{self.texts.hidden.digest}|{seen}|{self.groups}".encode()).hexdigest()


def grouped(pictures: Sequence[int], texts: Sequence[int], most: int) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """Return rows by picture, at most so many texts each, in the order in which pictures first appear.

    >>> grouped([0, 1, 0, 0], [5, 6, 7, 8], 2)
    ((0, (5, 7)), (1, (6,)), (0, (8,)))
    """
    open_groups: dict[int, list[int]] = {}
    groups: list[tuple[int, list[int]]] = []
    for picture, text in zip(pictures, texts, strict=True):
        own = open_groups.get(picture)
        if own is None or len(own) >= most:
            own = open_groups[picture] = []
            groups.append((picture, own))
        own.append(text)
    return tuple((picture, tuple(own)) for picture, own in groups)

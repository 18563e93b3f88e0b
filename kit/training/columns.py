"""What a training loop draws its batches from: columns of equal length."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kit.errors import DataError
from kit.models.activations import Activations
from kit.models.dual_encoder import tensors_digest

Indices = NDArray[np.int64]


class Batch(Protocol):
    """What a column draws: a tensor, or several under names (transformers' BatchFeature)."""

    def to(self, device: torch.device, /) -> Any:
        """Return the same on a device."""


class Column(Protocol):
    """One of the things that a batch is made of."""

    def __len__(self) -> int: ...

    def draw(self, indices: Indices, generator: np.random.Generator) -> Batch:
        """Return the rows at ``indices``; chance, where there is any, comes from ``generator``."""

    def digest(self) -> str:
        """Return the identity of the content."""


@dataclass(frozen=True)
class Fixed:
    """A column that is what it is: a tensor, or activations on disk."""

    values: Tensor | Activations

    def __len__(self) -> int:
        return len(self.values)

    def draw(self, indices: Indices, generator: np.random.Generator) -> Tensor:  # noqa: ARG002
        """Return the rows at ``indices``."""
        if isinstance(self.values, Activations):
            return self.values.take(indices)
        return self.values[torch.from_numpy(indices)]

    def digest(self) -> str:
        """Return the identity of the content."""
        if isinstance(self.values, Activations):
            return self.values.digest
        return tensors_digest({"values": self.values})


@dataclass(frozen=True)
class OneOf:
    """A column with several variants of each row, one of which is drawn at each step.

    A picture's names in four languages, for example: were all four in one batch, three of them would count as
    wrong answers for their own picture.

    Args:
        variants: Columns of equal length.
    """

    variants: tuple[Column, ...]

    @classmethod
    def of(cls, variants: Sequence[Tensor | Activations | Column]) -> OneOf:
        """Return the column of these variants.

        Raises:
            DataError: none, or unequal lengths.
        """
        return cls(as_columns(variants))

    def __len__(self) -> int:
        return len(self.variants[0])

    def draw(self, indices: Indices, generator: np.random.Generator) -> Tensor:
        """Return, for each row at ``indices``, one of its variants."""
        chosen = generator.integers(len(self.variants), size=len(indices))
        out: Tensor | None = None
        for number, variant in enumerate(self.variants):
            here = np.flatnonzero(chosen == number)
            if not len(here):
                continue
            drawn = variant.draw(indices[here], generator)
            out = drawn.new_empty((len(indices), *drawn.shape[1:])) if out is None else out
            out[torch.from_numpy(here)] = drawn
        if out is None:
            raise DataError.of("OneOf", "was asked for no rows")
        return out

    def digest(self) -> str:
        """Return the identity of all variants."""
        return hashlib.sha256("|".join(variant.digest() for variant in self.variants).encode()).hexdigest()


def as_columns(values: Sequence[Tensor | Activations | Column]) -> tuple[Column, ...]:
    """Return ``values`` as columns.

    Raises:
        DataError: none, an empty one, or unequal lengths.
    """
    columns = tuple(Fixed(value) if isinstance(value, Tensor | Activations) else value for value in values)
    lengths = [len(column) for column in columns]
    if not lengths or not min(lengths):
        raise DataError.of("columns", "there is nothing to train on", "check the data source and limit")
    if len(set(lengths)) > 1:
        raise DataError.of("columns", f"have different lengths: {lengths}", "give one entry per row in each")
    return columns

"""Rows through a dual encoder's frozen towers, each distinct picture and text once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from kit.data.picture import Picture
from kit.models.activations import Activations, ActivationStore, Array
from kit.models.cut import DualEncoderTail, Prefix, frozen_settings
from kit.models.deep_cut import DeepCut, DeepTail
from kit.models.dual_encoder import ClipEncoder, tensors_digest
from kit.progress import track

TEXT_BATCH = 64
EMBED_BATCH = 256  # what lies above a deep cut is computed so many at a time
SHARD = 512  # inputs written at a time; what a kill can cost
T = TypeVar("T")


@dataclass(frozen=True)
class Prefixes:
    """Both sides of some rows, below the cut.

    Args:
        image: One entry per picture.
        text: One entry per text.
    """

    image: Activations
    text: Activations


class PrefixEncoder:
    """A dual encoder's frozen part, with its store.

    Args:
        encoder: The model; what lies above the cut may change while it is used, what lies below may not.
        store: Where activations are kept; kit's home by default.
        cut: Where its towers are cut; below their projections by default.
    """

    def __init__(
        self, encoder: ClipEncoder, store: ActivationStore | None = None, *, cut: DeepCut | None = None
    ) -> None:
        self.encoder = encoder
        self.store = store or ActivationStore()
        self.prefix = cut or Prefix(encoder)
        # One identity for each side: a new text tower must not throw the pictures away.
        self.keys = {side: self._key(side) for side in ("image", "text")}

    def _key(self, side: str) -> str:
        parts = (
            "dual-encoder",
            side,
            self.prefix.label(side),
            frozen_settings(self.encoder, side),
            tensors_digest(self.prefix.weights(side)),
            self.encoder.preprocess_digest(),
        )
        return hashlib.sha256("|".join(parts).encode()).hexdigest()

    def images(self, pictures: Sequence[Picture]) -> Activations:
        """Return the activations of pictures, in their order; repeats cost nothing."""
        return self.store.fetch(
            self.keys["image"],
            [picture.digest() for picture in pictures],
            lambda positions: self._images([pictures[position] for position in positions]),
        )

    def texts(self, texts: Sequence[str]) -> Activations:
        """Return the activations of texts, in their order; repeats cost nothing."""
        names = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        return self.store.fetch(
            self.keys["text"], names, lambda positions: self._texts([texts[position] for position in positions])
        )

    def _images(self, pictures: Sequence[Picture]) -> Iterator[Array]:
        # Drawn in the tower's own thread: the SVG renderer holds Python's lock, so a drawing thread slowed the tower
        # more than it saved (47 pictures a second instead of 81, measured on two cores).
        with track(total=len(pictures), label="encoding pictures") as bar:

            def encoded() -> Iterator[Array]:
                for batch in _split(pictures, self.prefix.batch):
                    pixels = torch.stack([self.encoder.preprocess(picture.open()) for picture in batch])
                    yield self.prefix.image(pixels.to(self.encoder.device)).float().cpu().numpy()
                    bar.update(len(pixels))

            yield from _gather(encoded(), SHARD)

    def _texts(self, texts: Sequence[str]) -> Iterator[Array]:
        # Texts of like length share a batch, since a batch is padded to its longest; the order is put back at the end.
        order = sorted(range(len(texts)), key=lambda position: len(texts[position]))
        rows: list[Array] = []
        with track(total=len(texts), label="encoding texts") as bar:
            for batch in _split(order, TEXT_BATCH):
                tokens = self.encoder.tokenize([texts[position] for position in batch]).to(self.encoder.device)
                rows.append(self.prefix.text(tokens).float().cpu().numpy())
                bar.update(len(batch))
        together = np.concatenate(rows)
        back = np.empty_like(together)
        back[order] = together
        yield back


@torch.no_grad()
def embed(model: ClipEncoder | DeepTail, prefixes: Prefixes) -> tuple[Tensor, Tensor]:
    """Return unit vectors of both sides, shapes (pictures, d) and (texts, d), from activations below the cut.

    Args:
        model: The model; or its tail, where it is cut deeper than below its projections.
        prefixes: What lies below the cut.
    """
    tail = model.eval() if isinstance(model, DeepTail) else DualEncoderTail(model).eval()
    device = next(tail.parameters()).device
    sides = (prefixes.image, tail.images), (prefixes.text, tail.texts)
    image, text = (
        torch.cat([above(side.take(part).to(device)).cpu() for part in _split(range(len(side)), EMBED_BATCH)])
        for side, above in sides
    )
    return image, text


def _split(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[start:stop] for start, stop in pairwise([*range(0, len(items), size), len(items)])]


def _gather(blocks: Iterator[Array], rows: int) -> Iterator[Array]:
    kept: list[Array] = []
    for block in blocks:
        kept.append(block)
        if sum(map(len, kept)) >= rows:
            yield np.concatenate(kept)
            kept = []
    if kept:
        yield np.concatenate(kept)

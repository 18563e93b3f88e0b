"""What the rest of kit relies on when it says "dual encoder", and the class that keeps that promise for open_clip."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from kit.models.backends import inner_tensors
from kit.parts.reference import Fingerprint

# open_clip's settings for where weights come from; they change when a bundle moves, the model does not.
WHEREABOUTS = frozenset(
    {"hf_model_name", "hf_tokenizer_name", "hf_model_pretrained", "timm_model_pretrained", "custom_text"}
)


@runtime_checkable
class DualEncoder(Protocol):
    """An image tower and a text tower that meet in one space."""

    def preprocess(self, image: Image.Image) -> Tensor:
        """Return the pixels the image tower takes, shape (3, height, width), float32."""

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return token ids, shape (n, length), int64, padded to the longest text."""

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return unit vectors, shape (n, d), for pixels of shape (n, 3, height, width)."""

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return unit vectors, shape (n, d), for token ids of shape (n, length)."""

    def digest(self) -> str:
        """Return the identity of weights and preprocessing, 64 hex digits."""


@dataclass(eq=False)
class ClipEncoder:
    """An open_clip model with what it needs to be used and saved.

    Args:
        clip: ``open_clip.model.CLIP`` or ``CustomTextCLIP``.
        transform: From a PIL image to pixels, as open_clip evaluates.
        tokenizer: An open_clip tokenizer; called with texts it pads to the context length.
        model_cfg: The model's part of ``open_clip_config.json``.
        preprocess_cfg: The preprocessing's part of it.
        bases: What it was built from.
        name: The source string it was loaded by.
        text_folder: Folder of the text tower's Hugging Face config and tokenizer; None for open_clip's own.
    """

    clip: nn.Module
    transform: Any
    tokenizer: Any
    model_cfg: Mapping[str, Any]
    preprocess_cfg: Mapping[str, Any]
    bases: tuple[Fingerprint, ...]
    name: str
    text_folder: Any = None
    _preprocess_digest: str = field(default="", init=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.clip.parameters()).device

    @property
    def embed_dim(self) -> int:
        """How many numbers an embedding has."""
        return int(self.model_cfg["embed_dim"])

    def preprocess(self, image: Image.Image) -> Tensor:
        """Return the pixels the image tower takes, shape (3, height, width), float32."""
        pixels: Tensor = self.transform(image)
        return pixels

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return token ids, shape (n, length), int64, padded to the longest text.

        open_clip pads every text to the context length (77); short captions have some 7 tokens, and a tower
        that masks its padding gives the same vectors for a tenth of the work. Towers that read a fixed
        length (open_clip's own) keep it.
        """
        tokens: Tensor = self.tokenizer(list(texts))
        if self.text_folder is None:
            return tokens
        pad = self.clip.text.config.pad_token_id  # type: ignore[union-attr]
        return tokens[:, : max(1, int((tokens != pad).sum(1).max()))]

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return unit vectors, shape (n, d), for pixels of shape (n, 3, height, width)."""
        return F.normalize(self.clip.encode_image(pixels), dim=-1)  # type: ignore[operator]

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return unit vectors, shape (n, d), for token ids of shape (n, length)."""
        return F.normalize(self.clip.encode_text(tokens), dim=-1)  # type: ignore[operator]

    def preprocess_digest(self) -> str:
        """Return the identity of what happens to a picture or a text before a tower sees it."""
        if not self._preprocess_digest:
            shown = {"preprocess": dict(self.preprocess_cfg), "size": self.clip.visual.image_size}  # type: ignore[union-attr]
            files = (
                []
                if self.text_folder is None
                else sorted(self.text_folder.glob("*token*")) + sorted(self.text_folder.glob("vocab*"))
            )
            total = hashlib.sha256(json.dumps(shown, sort_keys=True).encode())
            for file in files:
                total.update(file.name.encode() + file.read_bytes())
            self._preprocess_digest = total.hexdigest()
        return self._preprocess_digest

    def digest(self) -> str:
        """Return the identity of weights, architecture and preprocessing, 64 hex digits."""
        shown = json.dumps(architecture(self.model_cfg), sort_keys=True)
        return hashlib.sha256((weights_digest(self.clip) + shown + self.preprocess_digest()).encode()).hexdigest()


def architecture(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's settings without those that say where its weights once came from.

    Settings belong to a model's identity: the same weights with GELU and with QuickGELU give other vectors.
    """
    return {
        name: architecture(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if name not in WHEREABOUTS
    }


def weights_digest(module: nn.Module) -> str:
    """Return a SHA-256 over a module's parameters and buffers: names, types, shapes and bytes.

    Costs about half a second per gigabyte.
    """
    return tensors_digest(module.state_dict())


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 over named tensors: names, types, shapes and bytes."""
    total = hashlib.sha256()
    plain = dict(part for name in tensors for part in inner_tensors(name, tensors[name].detach()))
    for name in sorted(plain):
        tensor = plain[name].contiguous().cpu()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()

"""Where a dual encoder is cut: the prefix below the projections is frozen, the tail above it is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit.errors import ModelError
from kit.models.dual_encoder import ClipEncoder, architecture
from kit.models.frozen import quick

_ABOVE = frozenset(
    {"embed_dim", "init_logit_scale", "init_logit_bias", "timm_proj", "timm_proj_bias", "timm_drop", "hf_proj_type"}
)


class Pairs(NamedTuple):
    """Both sides of a batch in the shared space, and how their products become logits.

    Args:
        image: Unit vectors, shape (n, d).
        text: Unit vectors, shape (n, d); row i belongs to image i.
        scale: Factor on their products, at most 100 as in CLIP; a scalar.
        bias: Added to the logits, for the sigmoid loss; a scalar, or None.
    """

    image: Tensor
    text: Tensor
    scale: Tensor
    bias: Tensor | None


class DualEncoderTail(nn.Module):
    """What is trained above the cut: two projections and the temperature.

    Args:
        encoder: The whole model; the tail shares its parameters, so training the tail trains the model.

    Raises:
        ModelError: a tower without a projection to cut at (attention pooling, as in open_clip's ResNets).
    """

    def __init__(self, encoder: ClipEncoder) -> None:
        super().__init__()
        clip: Any = encoder.clip
        self.image = _projection(clip.visual, "head", "proj")
        self.text = (
            _projection(clip.text, "proj", "text_projection")
            if hasattr(clip, "text")
            else _Product(clip.text_projection)
        )
        self.logit_scale = clip.logit_scale
        self.logit_bias = getattr(clip, "logit_bias", None)

    def forward(self, image: Tensor, text: Tensor) -> Pairs:
        """Return both sides in the shared space.

        Args:
            image: Prefix outputs of the image tower, shape (n, image width).
            text: Prefix outputs of the text tower, shape (n, text width).
        """
        scale = self.logit_scale.exp().clamp(max=100)
        return Pairs(self.images(image), self.texts(text), scale, self.logit_bias)

    def images(self, image: Tensor) -> Tensor:
        """Return pictures' unit vectors, shape (n, d), from the prefix's outputs."""
        return F.normalize(self.image(image), dim=-1)

    def texts(self, text: Tensor) -> Tensor:
        """Return texts' unit vectors, shape (n, d), from the prefix's outputs."""
        return F.normalize(self.text(text), dim=-1)


class WholeDualEncoder(nn.Module):
    """The same model uncut: frozen towers run at every step. What the cut is measured and tested against.

    Args:
        encoder: The whole model.
    """

    def __init__(self, encoder: ClipEncoder) -> None:
        super().__init__()
        self.tail = DualEncoderTail(encoder)
        self._prefix = [Prefix(encoder)]  # in a list: the frozen towers are no submodules, and fit trains what it sees

    def forward(self, pixels: Tensor, tokens: Tensor) -> Pairs:
        """Return what the tail returns, from pixels (n, 3, h, w) and tokens (n, length)."""
        (prefix,) = self._prefix
        image = torch.cat([prefix.image(part) for part in pixels.split(prefix.batch)])
        result: Pairs = self.tail(image, prefix.text(tokens))
        return result


class Prefix:
    """The frozen towers up to the cut.

    Args:
        encoder: The whole model. Its convolutional tower is copied and made quick; the rest is shared.
    """

    def __init__(self, encoder: ClipEncoder) -> None:
        clip: Any = encoder.clip
        self.encoder, self.clip = encoder, clip
        self.trunk = quick(clip.visual.trunk, probe(encoder)) if hasattr(clip.visual, "trunk") else None
        # Four pictures at a time stay in a CPU's cache (see frozen.py); a GPU wants to be filled.
        self.batch = 4 if encoder.device.type == "cpu" else 64

    @torch.no_grad()
    def image(self, pixels: Tensor) -> Tensor:
        """Return the image tower's output below its projection, shape (n, width), for pixels (n, 3, h, w)."""
        return image_features(self.clip.visual, self.trunk, pixels)

    @torch.no_grad()
    def text(self, tokens: Tensor) -> Tensor:
        """Return the text tower's output below its projection, shape (n, width), for tokens (n, length)."""
        return text_features(self.clip, tokens)

    def label(self, side: str) -> str:  # noqa: ARG002  # deeper cuts lie elsewhere on each side
        """Return where a side is cut; part of what its activations are kept under."""
        return "below the projection"

    def weights(self, side: str) -> dict[str, Tensor]:
        """Return a side's weights below the cut, by name."""
        return {name: one for name, one in frozen_prefix(self.encoder).items() if _is_on(side, name)}


def image_features(visual: Any, trunk: nn.Module | None, pixels: Tensor) -> Tensor:
    """Return an image tower's output below its projection, shape (n, width).

    Args:
        visual: open_clip's image tower.
        trunk: timm's network in it, or its quick copy; None for open_clip's own towers.
        pixels: Shape (n, 3, h, w).
    """
    if trunk is not None:
        features: Tensor = trunk(pixels.contiguous(memory_format=torch.channels_last))
        return features
    with _without(visual, "proj"):
        output = visual(pixels)
    return output[0] if isinstance(output, tuple) else output


def text_features(clip: Any, tokens: Tensor) -> Tensor:
    """Return the text tower's output below its projection, shape (n, width), for tokens (n, length)."""
    if not hasattr(clip, "text"):
        with _without(clip, "text_projection"):
            features: Tensor = clip.encode_text(tokens)
        return features
    hugging_face = hasattr(clip.text, "pooler")
    name, instead = ("proj", nn.Identity()) if hugging_face else ("text_projection", None)
    with _without(clip.text, name, instead):
        output = clip.text(tokens)
    return output[0] if isinstance(output, tuple) else output


def _is_on(side: str, name: str) -> bool:
    return name.startswith("visual.") == (side == "image")


def frozen_prefix(encoder: ClipEncoder) -> dict[str, Tensor]:
    """Return the weights below the cut, by name; their hash is the prefix's identity."""
    trained = {id(parameter) for parameter in DualEncoderTail(encoder).parameters()}
    state = encoder.clip.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if id(tensor) not in trained}


def frozen_settings(encoder: ClipEncoder, side: str) -> str:
    """Return how a side is computed below the cut, as JSON: activation functions, heads, pooling.

    The same weights mean something else under other settings (GELU and QuickGELU; mean and CLS pooling), so these
    are part of a prefix's identity. What only shapes the projections above the cut is not.

    Args:
        encoder: The whole model.
        side: "image" or "text".
    """
    whole = architecture(encoder.model_cfg)
    own = {"image": "vision_cfg", "text": "text_cfg"}[side]
    shown = {name: value for name, value in whole.items() if name not in {*_ABOVE, "vision_cfg", "text_cfg"}}
    shown[own] = {name: value for name, value in whole.get(own, {}).items() if name not in _ABOVE}
    if side == "text" and encoder.text_folder is not None:
        shown["config.json"] = (encoder.text_folder / "config.json").read_text(encoding="utf-8")
    return json.dumps(shown, sort_keys=True)


def probe(encoder: ClipEncoder) -> Tensor:
    """Return a picture of noise to try an image tower on, shape (1, 3, h, w)."""
    size = encoder.clip.visual.image_size  # type: ignore[union-attr]
    height, width = (size, size) if isinstance(size, int) else size  # type: ignore[misc]
    noise = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
    return noise.to(encoder.device, memory_format=torch.channels_last)


class _Product(nn.Module):
    """A projection that open_clip keeps as a bare matrix, or as a layer."""

    def __init__(self, projection: Any) -> None:
        super().__init__()
        self.projection = projection

    def forward(self, features: Tensor) -> Tensor:
        """Return the features, projected."""
        if isinstance(self.projection, nn.Module):
            projected: Tensor = self.projection(features)
            return projected
        return features @ self.projection


def _projection(tower: Any, *names: str) -> nn.Module:
    for name in names:
        found = getattr(tower, name, None)
        if isinstance(found, nn.Module):
            return found
        if isinstance(found, nn.Parameter):
            return _Product(found)
    raise ModelError.of(
        type(tower).__name__,
        "has no projection to cut at",
        "take a model with a projection above its towers, such as open_clip:ViT-B-32/laion2b_s34b_b79k",
    )


@contextmanager
def _without(module: Any, name: str, instead: Any = None) -> Iterator[None]:
    """Take a projection out for one forward pass."""
    kept = getattr(module, name)
    setattr(module, name, instead)
    try:
        yield
    finally:
        setattr(module, name, kept)

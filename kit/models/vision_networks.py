"""The networks that can be a vision tower, each giving a picture's features on a square grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit.errors import ModelError
from kit.models.frozen import folded


class Stages(nn.Module):
    """A timm network of several stages, read at several depths: low stages hold the colours, high ones the shapes.

    Args:
        name: timm's name of it; one built like its EfficientNets.
        stages: Which stages are read, from 0; the head (its last feature map) is read too.
        fold: Whether batch norms are part of the convolutions before them; see ``kit.models.frozen``.
        trunk: The network with its weights; a fresh one by default.
    """

    def __init__(self, *, name: str, stages: list[int], fold: bool, trunk: nn.Module | None = None) -> None:
        super().__init__()
        if trunk is None:
            import timm

            trunk = timm.create_model(name, pretrained=False, num_classes=0)
            trunk = folded(trunk) if fold else trunk
        self.trunk = trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.stages = frozenset(stages)

    def forward(self, pixels: Tensor, grid: int) -> Tensor:
        """Return features, shape (n, channels of all stages, grid, grid), for pixels (n, 3, h, w)."""
        trunk: Any = self.trunk
        hidden = trunk.bn1(trunk.conv_stem(pixels.contiguous(memory_format=torch.channels_last)))
        found = []
        for number, stage in enumerate(trunk.blocks):
            hidden = stage(hidden)
            if number in self.stages:
                found.append(F.adaptive_avg_pool2d(hidden, grid))
        found.append(F.adaptive_avg_pool2d(trunk.bn2(trunk.conv_head(hidden)), grid))
        return torch.cat(found, 1)


class OpenClipPatches(nn.Module):
    """The image tower of an open_clip model, read before it is pooled.

    Args:
        embed_dim: Of the model's shared space.
        vision_cfg: The tower's part of the model's configuration.
        quick_gelu: The model's own setting.
        visual: The tower with its weights; a fresh one by default.
    """

    def __init__(
        self, *, embed_dim: int, vision_cfg: Mapping[str, Any], quick_gelu: bool = False, visual: Any = None
    ) -> None:
        super().__init__()
        if visual is None:
            from open_clip.model import _build_vision_tower

            visual = _build_vision_tower(embed_dim, {**vision_cfg, "timm_model_pretrained": False}, quick_gelu)
        if not hasattr(visual, "trunk") and (
            not hasattr(visual, "output_tokens") or getattr(visual, "attn_pool", None) is not None
        ):
            what = "has no patch tokens before its pooling"
            raise ModelError.of(type(visual).__name__, what, "take a vision transformer without attention pooling")
        self.visual = visual

    def forward(self, pixels: Tensor, grid: int) -> Tensor:
        """Return features, shape (n, width, grid, grid), for pixels (n, 3, h, w)."""
        visual: Any = self.visual
        if hasattr(visual, "trunk"):
            trunk = visual.trunk
            hidden = trunk.forward_features(pixels)
            patches = getattr(getattr(trunk, "patch_embed", None), "grid_size", None)
            return _pooled(hidden, patches, grid)
        asked, visual.output_tokens = visual.output_tokens, True
        try:
            _, tokens = visual(pixels)
        finally:
            visual.output_tokens = asked
        return _pooled(tokens, visual.grid_size, grid)


class TransformersPatches(nn.Module):
    """A vision model of transformers (CLIP's, SigLIP's, DINOv2, ViT, ResNets and others), read before it is pooled.

    Args:
        config: The model's configuration as JSON values, with its ``model_type``.
        model: The model with its weights; a fresh one by default.
    """

    def __init__(self, *, config: Mapping[str, Any], model: Any = None) -> None:
        super().__init__()
        if model is None:
            from transformers import AutoConfig, AutoModel

            rest = dict(config)
            model = AutoModel.from_config(AutoConfig.for_model(rest.pop("model_type"), **rest))
        self.model = model

    def forward(self, pixels: Tensor, grid: int) -> Tensor:
        """Return features, shape (n, width, grid, grid), for pixels (n, 3, h, w)."""
        hidden = self.model(pixel_values=pixels).last_hidden_state
        size = getattr(self.model.config, "patch_size", None)
        patches = None if size is None else (pixels.shape[-2] // _first(size), pixels.shape[-1] // _first(size))
        return _pooled(hidden, patches, grid)


def _pooled(hidden: Tensor, patches: tuple[int, int] | None, grid: int) -> Tensor:
    """Return feature maps (n, c, h, w), or tokens (n, t, c) with the class token and registers first, on the grid."""
    if hidden.ndim == 3:
        rows, columns = patches or (0, 0)
        extra = hidden.shape[1] - rows * columns
        if not rows or extra < 0:
            what = f"{hidden.shape[1]} tokens of a picture, which are no grid of {rows} by {columns} patches"
            raise ModelError.of("vision tower", what, "take another vision model")
        hidden = hidden[:, extra:].transpose(1, 2).unflatten(2, (rows, columns))
    if grid > min(hidden.shape[-2:]):
        what = f"{grid}, but the tower's features are a grid of {hidden.shape[-2]} by {hidden.shape[-1]}"
        raise ModelError.of("grid", what, f"choose 1 to {min(hidden.shape[-2:])}")
    return F.adaptive_avg_pool2d(hidden, grid)


def _first(size: int | list[int] | tuple[int, ...]) -> int:
    return size if isinstance(size, int) else size[0]


NETWORKS: Mapping[str, type[nn.Module]] = {
    "stages": Stages,
    "open_clip": OpenClipPatches,
    "transformers": TransformersPatches,
}

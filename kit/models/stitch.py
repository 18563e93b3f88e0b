"""Two packaged towers that never met become one open_clip model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kit.errors import Fault, ModelError, did_you_mean, listed, raise_faults
from kit.models.dual_encoder import ClipEncoder
from kit.parts import pull
from kit.parts.reference import Reference, fingerprint, parse

# EfficientNet-Lite was trained on pixels in [-1, 1]; pictures are drawn at this size already, so nothing is cut off.
IMAGE_SIZE = 224
PREPROCESS = {
    "size": [IMAGE_SIZE, IMAGE_SIZE],
    "mode": "RGB",
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "fill_color": 0,
}
PROJECTIONS = ("none", "linear", "mlp")
OBJECTIVES = ("clip", "siglip")
# First block's names differ: it has no expansion convolution.
_FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OTHER = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_AROUND = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}


def stitch(
    reference: Reference,
    *,
    image_projection: str = "linear",
    text_projection: str = "none",
    embed_dim: int = 384,
    dropout: float = 0.0,
    objective: str = "clip",
    seed: int = 0,
) -> ClipEncoder:
    """Return the towers that ``reference`` names as one open_clip ``CustomTextCLIP`` with fresh projections.

    Args:
        reference: A parsed ``stitch:IMAGE+TEXT``.
        image_projection: "linear" or "mlp", as open_clip's timm adapter builds them.
        text_projection: "none" (the text tower's own space, when ``embed_dim`` is its width), "linear" or "mlp".
        embed_dim: Size of the shared space.
        dropout: Dropout before the image projection while training, 0 <= dropout < 1.
        objective: What it will be trained with: "clip", or "siglip", which needs a bias and another temperature
            to start from.
        seed: Seed of the fresh projections.

    Raises:
        ModelError: unknown projection or objective, a dropout that is no share, or ``text_projection="none"`` with
            another ``embed_dim`` than the tower's.
        PartError: a tower cannot be pulled.
    """
    from open_clip.model import CustomTextCLIP

    raise_faults(_faults(image_projection, text_projection, dropout, objective), ModelError)
    image_part, text_part = reference.parts
    text_folder = pull.get(text_part)
    model_cfg = _config(text_folder, image_projection, text_projection, embed_dim, dropout)
    if objective == "siglip":
        model_cfg.update(init_logit_scale=math.log(10), init_logit_bias=-10)  # arXiv:2303.15343, section 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = CustomTextCLIP(**{**model_cfg, "text_cfg": {**model_cfg["text_cfg"], "hf_model_pretrained": False}})
    load_image_tower(clip.visual.trunk, pull.get(image_part))
    _load_text_tower(clip.text.transformer, text_folder)
    bases = tuple(fingerprint(parse(part, kind="model")) for part in reference.parts)
    return assemble(clip, model_cfg, PREPROCESS, text_folder=text_folder, bases=bases, name=reference.text)


def assemble(
    clip: nn.Module,
    model_cfg: dict[str, Any],
    preprocess_cfg: dict[str, Any],
    *,
    text_folder: Path,
    bases: tuple[Any, ...],
    name: str,
) -> ClipEncoder:
    """Return a ClipEncoder around a ``CustomTextCLIP`` whose text tower is a Hugging Face model in ``text_folder``."""
    from open_clip.tokenizer import HFTokenizer
    from open_clip.transform import PreprocessCfg, image_transform_v2

    tokenizer = HFTokenizer(str(text_folder), context_length=model_cfg["text_cfg"].get("context_length", 77))
    clip.eval()
    return ClipEncoder(
        clip=clip.to(memory_format=torch.channels_last),  # type: ignore[call-overload]
        transform=image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False),
        tokenizer=tokenizer,
        model_cfg=model_cfg,
        preprocess_cfg=preprocess_cfg,
        bases=bases,
        name=name,
        text_folder=text_folder,
    )


def _faults(image: str, text: str, dropout: float, objective: str) -> list[Fault]:
    found = [
        Fault(where, f"{value!r} is not known.{did_you_mean(value, allowed)}", allowed=f"Allowed: {listed(allowed)}.")
        for where, value, allowed in (
            ("image_projection", image, PROJECTIONS[1:]),
            ("text_projection", text, PROJECTIONS),
            ("objective", objective, OBJECTIVES),
        )
        if value not in allowed
    ]
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        found.append(Fault("dropout", f"must be a share of at least 0 and below 1, got {dropout!r}"))
    return found


def _config(text_folder: Path, image: str, text: str, embed_dim: int, dropout: float) -> dict[str, Any]:
    from transformers import AutoConfig

    width = AutoConfig.from_pretrained(text_folder).hidden_size
    if text == "none" and embed_dim != width:
        raise ModelError.of(
            "embed_dim",
            f"{embed_dim}, but the text tower's own space has {width} numbers",
            f"use embed_dim={width}, or text_projection='linear'",
        )
    return {
        "embed_dim": embed_dim,
        "vision_cfg": {
            "timm_model_name": "tf_efficientnet_lite0",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": image,
            "timm_proj_bias": True,
            "timm_drop": dropout,
            "image_size": IMAGE_SIZE,
        },
        "text_cfg": {
            "hf_model_name": str(text_folder),
            "hf_tokenizer_name": str(text_folder),
            "hf_proj_type": None if text == "none" else text,
            "hf_pooler_type": "mean_pooler",
            "context_length": 77,
        },
    }


def timm_names(state: dict[str, Tensor], stages: list[int]) -> dict[str, Tensor]:
    """Return weights in efficientnet_pytorch's names under timm's.

    Args:
        state: Weights by efficientnet_pytorch's names; ``_blocks.N`` counts through all stages.
        stages: How many blocks each of timm's stages has.

    Raises:
        ModelError: a name that fits no place.
    """
    places = [(stage, block) for stage, blocks in enumerate(stages) for block in range(blocks)]
    renamed = {}
    for name, tensor in state.items():
        head, _, rest = name.partition(".")
        if head in _AROUND:
            renamed[f"{_AROUND[head]}.{rest}"] = tensor
        elif head == "_blocks":
            number, layer, leaf = rest.split(".", 2)
            stage, block = places[int(number)]
            renamed[f"blocks.{stage}.{block}.{(_OTHER if stage else _FIRST)[layer]}.{leaf}"] = tensor
        elif head != "_fc":  # the classifier; a tower has none
            raise ModelError.of("efficientnet-lite0", f"{name!r} is no layer of this network", "kit parts verify")
    return renamed


def load_image_tower(trunk: nn.Module, folder: Path) -> None:
    """Fill timm's ``tf_efficientnet_lite0`` with the packaged weights in ``folder``."""
    (file,) = sorted(folder.glob("*.pth"))
    # weights_only reads tensors and nothing else, and the part's hash was verified when it was unpacked.
    state = torch.load(file, map_location="cpu", weights_only=True)
    trunk.load_state_dict(timm_names(state, [len(stage) for stage in trunk.blocks]))  # type: ignore[arg-type, union-attr]


def _load_text_tower(transformer: nn.Module, folder: Path) -> None:
    from safetensors.torch import load_file

    state = load_file(folder / "model.safetensors")
    found = transformer.load_state_dict(state, strict=False)
    # The packaged checkpoint also holds a pooler and position ids, which mean pooling does not read.
    extra = [name for name in found.unexpected_keys if not name.startswith(("pooler.", "embeddings.position_ids"))]
    if found.missing_keys or extra:
        raise ModelError.of(
            str(folder),
            f"weights do not fit the text tower: missing {found.missing_keys}, unknown {extra}",
            "kit parts verify",
        )

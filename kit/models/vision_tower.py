"""A frozen vision tower whose features a language model can read: a few tokens a picture, computed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kit.data.picture import Picture
from kit.errors import Fault, ModelError, raise_faults
from kit.models.activations import Activations, ActivationStore, Array
from kit.models.dual_encoder import weights_digest
from kit.models.frozen import quick
from kit.models.hub_folder import AGAIN, model_folder, refused
from kit.models.load import CONFIG, load_dual_encoder
from kit.models.pixels import Pixels
from kit.models.quiet import quiet
from kit.models.stitch import IMAGE_SIZE, PREPROCESS, load_image_tower
from kit.models.vision_networks import NETWORKS
from kit.parts import pull
from kit.parts.reference import TOWERS, Reference, parse
from kit.progress import track

# Features of 24, 40, 112, 320 and, after the head, 1,280 channels. On easy-VQA's pictures a linear probe reads the
# shape off the last ones and the colour off the first.
STAGES = [1, 2, 4, 6]
SHARD = 256  # pictures written at a time; what a kill can cost


class VisionTower(nn.Module):
    """A vision tower: frozen, always in evaluation mode, float32.

    Args:
        settings: As JSON values: ``network`` (a kind and what it is built from), ``pixels``, ``grid`` (features a
            side), ``width`` (numbers in a feature). ``load_vision_tower`` makes them.
        network: The network with its weights; a fresh one by default, for weights that are loaded afterwards.
    """

    def __init__(self, settings: Mapping[str, Any], network: nn.Module | None = None) -> None:
        super().__init__()
        self.settings: dict[str, Any] = json.loads(json.dumps(dict(settings)))
        ((kind, values),) = self.settings["network"].items()
        self.network = (NETWORKS[kind](**values) if network is None else network).eval().requires_grad_(False)
        self.pixels = Pixels(self.settings["pixels"])

    @property
    def grid(self) -> int:
        """Features a side."""
        return int(self.settings["grid"])

    @property
    def tokens(self) -> int:
        """Features a picture."""
        return self.grid**2

    @property
    def width(self) -> int:
        """Numbers in a feature."""
        return int(self.settings["width"])

    @property
    def batch(self) -> int:
        """Pictures at a time: four stay in a CPU's cache (see ``kit.models.frozen``); a GPU wants to be filled."""
        return 4 if next(self.parameters()).device.type == "cpu" else 64

    def train(self, mode: bool = True) -> VisionTower:  # noqa: ARG002 - torch's signature
        """Stay in evaluation mode: batch norms must not move, and nothing drops out of what is computed once."""
        return super().train(False)  # type: ignore[return-value]

    def preprocess(self, image: Image.Image) -> Tensor:
        """Return the pixels that the tower takes, shape (3, height, width), float32."""
        return self.pixels.one(image)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return features row by row of the grid, shape (n, tokens, width), float32, for pixels (n, 3, h, w)."""
        kind = next(self.parameters()).dtype
        maps = torch.cat([self.network(part, self.grid) for part in pixels.to(kind).split(self.batch)])
        return maps.flatten(2).transpose(1, 2).float()

    def digest(self) -> str:
        """Return the identity of weights, settings and preprocessing, 64 hex digits."""
        shown = json.dumps(self.settings, sort_keys=True)
        return hashlib.sha256(f"vision-tower|{shown}|{weights_digest(self)}".encode()).hexdigest()


def load_vision_tower(source: str | Reference, *, grid: int = 2) -> VisionTower:
    """Return a frozen vision tower, on the CPU.

    Args:
        source: ``efficientnet-lite0``; ``open_clip:MODEL/PRETRAINED``; ``hf:ORG/NAME[@REVISION]``; or
            ``local-dir:PATH``, a folder as transformers or open_clip lay it out. Parsed, or as a string.
        grid: Features a side, at least 1: a picture becomes grid² tokens.

    Raises:
        ModelError: no such source, no vision model, weights that are missing or do not fit, a grid that is finer
            than the tower's features.
        PartError: the part cannot be pulled.
    """
    reference = parse(source, kind="model") if isinstance(source, str) else source
    if isinstance(grid, bool) or not isinstance(grid, int) or grid < 1:
        raise ModelError.of("grid", f"must be a whole number of at least 1, got {grid!r}")
    if reference.scheme == "part" and reference.body in TOWERS["image"]:
        return _packaged(reference, grid)
    own_layout = reference.scheme == "local-dir" and reference.path is not None and (reference.path / CONFIG).is_file()
    if reference.scheme == "open_clip" or own_layout:
        return _open_clip(reference, grid)
    if reference.scheme in {"hf", "local-dir"}:
        return _transformers(reference, model_folder(reference), grid)
    forms = [*TOWERS["image"], "open_clip:MODEL/PRETRAINED", "hf:ORG/NAME[@REVISION]", "local-dir:PATH"]
    raise ModelError.of(reference.text, "is no vision tower", "take one of these", f"Allowed: {', '.join(forms)}.")


def _packaged(reference: Reference, grid: int) -> VisionTower:
    import timm

    name = "tf_efficientnet_lite0"
    trunk = timm.create_model(name, pretrained=False, num_classes=0).eval().requires_grad_(False)
    load_image_tower(trunk, pull.get(reference.body))
    trunk = trunk.to(memory_format=torch.channels_last)
    probe = torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
    swift = quick(trunk, probe)
    values = {"name": name, "stages": STAGES, "fold": swift is not trunk}
    settings = {"network": {"stages": values}, "pixels": {"open_clip": PREPROCESS}, "grid": grid}
    return _finished(settings, NETWORKS["stages"](**values, trunk=swift), where=reference.text)


def _open_clip(reference: Reference, grid: int) -> VisionTower:
    encoder = load_dual_encoder(reference.absolute().text, device="cpu")
    values = {
        "embed_dim": encoder.embed_dim,
        "vision_cfg": dict(encoder.model_cfg["vision_cfg"]),
        "quick_gelu": bool(encoder.model_cfg.get("quick_gelu", False)),
    }
    visual: Any = encoder.clip.visual
    settings = {"network": {"open_clip": values}, "pixels": {"open_clip": dict(encoder.preprocess_cfg)}, "grid": grid}
    return _finished(settings, NETWORKS["open_clip"](**values, visual=visual), where=reference.text)


def _transformers(reference: Reference, folder: Path, grid: int) -> VisionTower:
    from transformers import AutoImageProcessor

    with quiet():
        try:
            pictures = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # an image processor is built by one of many classes, each with its errors
            raise refused(reference, "its image processor cannot be loaded", error) from error
        model = _vision_model(reference, folder)
    values = {"config": model.config.to_diff_dict() | {"model_type": model.config.model_type}}
    settings = {
        "network": {"transformers": values},
        "pixels": {"transformers": {**pictures.to_dict(), "image_processor_type": type(pictures).__name__}},
        "grid": grid,
    }
    return _finished(settings, NETWORKS["transformers"](**values, model=model), where=reference.text)


def _vision_model(reference: Reference, folder: Path) -> Any:
    """Return a vision model in evaluation mode; of a model for pictures and text, its vision tower."""
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        model, found = AutoModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, local_files_only=True,
            output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    except Exception as error:  # safetensors' and torch's errors have no common base
        raise refused(reference, "its weights cannot be loaded", error) from error
    inner = getattr(model, "vision_model", None) if hasattr(config, "vision_config") else model
    if not isinstance(inner, nn.Module) or getattr(inner, "main_input_name", "") != "pixel_values":
        what = f"is a {config.model_type!r} model, which has no vision tower that kit can read"
        raise ModelError.of(reference.text, what, "name a vision model, such as hf:openai/clip-vit-base-patch32")
    prefix = "" if inner is model else "vision_model."
    # A pooler is not read; everything else must be there, and transformers would only warn.
    faults = [
        Fault(reference.text, f"its checkpoint lacks {key}, or has it in another shape", AGAIN)
        for key in sorted({*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])})
        if key.startswith(prefix) and "pooler" not in key and "head." not in key
    ]
    raise_faults(faults, ModelError)
    return inner.eval()


def _finished(settings: Mapping[str, Any], network: nn.Module, *, where: str) -> VisionTower:
    """Return the tower around a network with its weights, having tried it on one grey picture.

    Raises:
        ModelError: features that fit no such grid, or are no numbers.
    """
    tower = VisionTower({**settings, "width": 0}, network)
    with torch.no_grad():
        found = tower(tower.preprocess(Image.new("RGB", (64, 64), "grey"))[None])
    if not torch.isfinite(found).all():
        raise ModelError.of(where, "gives features that are no numbers", "check its weights")
    tower.settings["width"] = found.shape[-1]
    return tower


def encode_pictures(tower: Any, pictures: Sequence[Picture], store: ActivationStore | None = None) -> Activations:
    """Return the features of pictures, in their order, each of shape (tokens, width); repeats cost nothing.

    They are kept as float32: float16 would move a feature by up to 5e-4 of itself, more than the 1e-4 by which
    gradients of a cut model may differ from the uncut model's.

    Args:
        tower: A vision tower.
        pictures: What to encode; each distinct picture is encoded once.
        store: Where features are kept; kit's home by default.
    """
    store = store or ActivationStore()
    names = [picture.digest() for picture in pictures]
    return store.fetch(tower.digest(), names, lambda places: _encoded(tower, [pictures[place] for place in places]))


@torch.no_grad()
def _encoded(tower: VisionTower, pictures: Sequence[Picture]) -> Iterator[Array]:
    device = next(tower.parameters()).device
    with track(total=len(pictures), label="encoding pictures") as bar:
        for begin in range(0, len(pictures), SHARD):
            rows = []
            for start in range(begin, min(begin + SHARD, len(pictures)), tower.batch):
                stop = min(start + tower.batch, begin + SHARD)
                pixels = torch.stack([tower.preprocess(picture.open()) for picture in pictures[start:stop]])
                rows.append(tower(pixels.to(device)).cpu().numpy())
                bar.update(len(pixels))
            yield np.concatenate(rows)

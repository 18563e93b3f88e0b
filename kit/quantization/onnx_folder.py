"""A stitched model as a folder of ONNX graphs: the picture's way, the layers below its entry, and those above."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from kit.adapters.bundle import Bundle
from kit.models.halves import trunk
from kit.models.vision_language import VisionLanguage
from kit.quantization.moments import NONE, Moments
from kit.quantization.onnx_graph import EIGHT, MIXED, check_layers, write_layers
from kit.quantization.rounding import quantise
from kit.quantization.runtime import FILE, KIND, LAYOUT
from kit.quantization.sealed import seal

_BITS = MappingProxyType({8: EIGHT, 4: MIXED})


def write_onnx(folder: Path, model: VisionLanguage, bundle: Bundle, *, bits: int = 8, moments: Moments = NONE) -> None:
    """Write a merged stitched model as ONNX graphs: the picture's way, the layers below its entry, and those above.

    The head is always held in 8 bits, and embeddings are read from its rows: one table for both.

    Args:
        folder: An empty or new folder.
        model: From ``merged``.
        bundle: Its bundle, which the export names as its parent.
        bits: 8, or 4: gate and up in 4 bits, the other matrices in 8.
        moments: What its matrices are rounded by; each number to its nearest level without.

    Raises:
        ModelError: layers that are not Llama's.
    """
    language, whole = model.language, model.model
    check_layers(language)
    folder.mkdir(parents=True, exist_ok=True)
    entry = whole.config.entry_layer
    if entry:
        write_layers(language, slice(0, entry), folder / "below.onnx", bits=_BITS[bits], head=False, moments=moments)
    write_layers(language, slice(entry, None), folder / "above.onnx", bits=_BITS[bits], moments=moments)
    _write_eyes(folder / "picture.onnx", model)
    config = trunk(language).config
    said = {
        "layout": LAYOUT, "bits": bits, "entry_layer": entry, "layers": config.num_hidden_layers,
        "heads": config.num_key_value_heads, "size": config.head_dim, "embedding": _table(folder, language),
    }  # fmt: skip
    (folder / FILE).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    whole.config.save_pretrained(folder)
    whole.generation_config.save_pretrained(folder)
    model.processor.save_pretrained(folder)
    seal(folder, KIND, bundle, made=f"ONNX, {bits} bits", parameters={"bits": bits, "calibrated": bool(moments)})


def _table(folder: Path, language: Any) -> dict[str, Any]:
    """Return where the embeddings' rows are: the head's own, or a file of their own where they are others."""
    import onnx

    embedding, head = language.get_input_embeddings().weight, language.get_output_embeddings().weight
    shape = {"vocabulary": embedding.shape[0], "width": embedding.shape[1]}
    if embedding.data_ptr() != head.data_ptr():
        numbers, scales = quantise(embedding)
        (folder / "embedding.data").write_bytes(numbers.tobytes() + scales.tobytes())
        return {**shape, "file": "embedding.data", "weight": 0, "scales": numbers.nbytes}
    graph = onnx.load(str(folder / "above.onnx"), load_external_data=False).graph
    places = {
        one.name: {entry.key: entry.value for entry in one.external_data}
        for one in graph.initializer
        if one.name in {"head.weight", "head.scales"}
    }
    return {
        **shape,
        "file": places["head.weight"]["location"],
        "weight": int(places["head.weight"].get("offset", 0)),
        "scales": int(places["head.scales"].get("offset", 0)),
    }


def _write_eyes(path: Path, model: VisionLanguage) -> None:
    """Write tower and projector, in float32, as one graph from pixels to the tokens that the layers take."""
    import contextlib
    import io

    pixels = torch.zeros(1, 3, *_pixel_size(model))
    with contextlib.redirect_stdout(io.StringIO()):  # the exporter reports each of its steps
        torch.onnx.export(
            _Eyes(model.model).eval(), (pixels,), str(path), input_names=["pixel_values"], output_names=["tokens"],
            dynamo=True, external_data=False,
        )  # fmt: skip


def _pixel_size(model: VisionLanguage) -> tuple[int, int]:
    from PIL import Image

    shown = model.processor(
        text=[model.processor.image_token], images=[Image.new("RGB", (32, 32))], return_tensors="pt"
    )
    height, width = shown["pixel_values"].shape[-2:]
    return int(height), int(width)


class _Eyes(nn.Module):
    """From pixels to the language model's tokens."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tower, self.projector = model.vision_tower, model.projector

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Return tokens, shape (n, m, width)."""
        out: Tensor = self.projector(self.tower(pixel_values))
        return out

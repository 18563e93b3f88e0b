"""A bundle's model for other libraries; kept only where the other library's own run of it passes the parity gate."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from kit.adapters.bundle import Bundle, open_bundle
from kit.data.rows import Conversation
from kit.errors import BundleError
from kit.models.backends import EXTRA
from kit.models.chat import Chat
from kit.models.halves import trunk
from kit.models.quiet import quiet
from kit.models.vision_language import VisionLanguage
from kit.quantization.copies import merged, quantised, save_copy
from kit.quantization.gguf_file import TYPES, write_gguf
from kit.quantization.onnx_clip import Likeness, likeness, open_onnx_clip, write_onnx_clip
from kit.quantization.onnx_graph import EIGHT, MIXED, check_layers, quantise, write_layers
from kit.quantization.parity import TOLERANCES, Logits, Parity, Tolerance, logits_of, parity
from kit.quantization.probes import fixed_probes
from kit.quantization.runtime import FILE, KIND, LAYOUT, open_runtime
from kit.quantization.sealed import seal

_CALIBRATION = 64  # pictures
_HELD_OUT = 400  # pairs that recall@1 is compared on
_NEEDED = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "safetensors": (), "gguf": ("gguf",)}
GGUF = "language.gguf"
_BITS = {8: EIGHT, 4: MIXED}


@dataclass(frozen=True)
class Exported:
    """What came of an export.

    Args:
        folder: Where it is; None where it failed its gate and was not kept.
        gate: How far it is from the bundle, by the other library's own run.
        tolerance: How far it may be.
    """

    folder: Path | None
    gate: Parity
    tolerance: Tolerance


def export(bundle: Bundle, to: str, folder: Path | str, **options: Any) -> Exported:
    """Write a bundle's merged model for another library, open it there, and keep it if it is still the same model.

    Args:
        bundle: A stitched vision-language model's bundle.
        to: "onnx", "gguf" or "safetensors".
        folder: Where to; must not exist.
        options: ``bits``, 8 or 4, for ONNX (see ``write_onnx``) and GGUF.

    Raises:
        BundleError: a folder that is there already, a package that is missing, another kind of bundle.
        ModelError: a model that this format cannot hold.
    """
    target = Path(folder).absolute()
    if target.exists():
        raise BundleError.of(str(target), "is there already", "choose another folder")
    _check_packages(to)
    model = merged(bundle)
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        run, held = FORMATS[to](work / "export", model, bundle, **options)
        probes = [one for one in fixed_probes() if to != "gguf" or one.picture is None]
        gate = parity(logits_of(model), run, probes)
        del run
        kept = not gate.faults(TOLERANCES[held])
        if kept:
            (work / "export").replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Exported(target if kept else None, gate, TOLERANCES[held])


def export_towers(bundle: Bundle, folder: Path | str, rows: Any, held_out: Any) -> tuple[Path | None, Likeness]:
    """Write a CLIP's towers in int8 for onnxruntime, and keep them if they find what the bundle's own find.

    Args:
        bundle: A dual encoder's bundle.
        folder: Where to; must not exist.
        rows: Pairs to calibrate on: the first 64 pictures.
        held_out: Other pairs: the first 400 are compared, recall@1 included.

    Returns:
        The folder, or None where the towers failed and were not kept; and how they compare.

    Raises:
        BundleError: a folder that is there already, a package that is missing, another kind of bundle.
        DataError: no pictures.
    """
    target = Path(folder).absolute()
    if target.exists():
        raise BundleError.of(str(target), "is there already", "choose another folder")
    if bundle.manifest.kind != "dual-encoder":
        raise BundleError.of(str(bundle.folder), f"is a {bundle.manifest.kind}, no dual encoder", "use export")
    _check_packages("onnx")
    encoder, pairs = bundle.load(), [held_out[place] for place in range(min(len(held_out), _HELD_OUT))]
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        calibration = [rows[place].picture for place in range(min(len(rows), _CALIBRATION))]
        write_onnx_clip(work / "export", encoder, calibration, bundle)
        copy = open_onnx_clip(work / "export")
        found = likeness(encoder, copy, [one.picture for one in pairs], [one.text for one in pairs], pairs=True)
        kept = not found.faults()
        if kept:
            (work / "export").replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return (target if kept else None), found


def _check_packages(to: str) -> None:
    import importlib.util

    missing = [name for name in _NEEDED[to] if importlib.util.find_spec(name) is None]
    if missing:
        raise BundleError.of(f"export to {to}", f"needs {', '.join(missing)}", EXTRA)


def _safetensors(folder: Path, model: VisionLanguage, bundle: Bundle) -> tuple[Logits, str]:
    """Write the merged model in bfloat16: a bundle whose folder ``language`` transformers opens alone."""
    saved = save_copy(folder, quantised(model, "bfloat16"), bundle)
    again: VisionLanguage = open_bundle(saved.folder).load(device="cpu")
    from transformers import AutoModelForCausalLM

    # What transformers alone makes of the folder takes kit's place, so that the gate sees that.
    alone = AutoModelForCausalLM.from_pretrained(folder / "language", local_files_only=True)
    again.language.load_state_dict(alone.state_dict())
    return logits_of(again), "bfloat16"


def _onnx(folder: Path, model: VisionLanguage, bundle: Bundle, *, bits: int = 8) -> tuple[Logits, str]:
    """Write tower and layers as graphs for onnxruntime, with everything else that it takes to be asked."""
    write_onnx(folder, model, bundle, bits=bits)
    return logits_of(open_runtime(folder)), "int8" if bits == 8 else "int4"


def _gguf(folder: Path, model: VisionLanguage, bundle: Bundle, *, bits: int = 8) -> tuple[Logits, str]:
    """Write the language tower as one file for llama.cpp; the gate sees what transformers alone reads from it.

    The format holds the text part alone, so only probes without a picture are compared.
    """
    from transformers import AutoModelForCausalLM, GgufConfig

    folder.mkdir()
    tokenizer = model.processor.tokenizer
    template = getattr(model.processor, "chat_template", None) or tokenizer.chat_template or ""
    write_gguf(folder / GGUF, model.language, tokenizer, bits=bits, name=bundle.manifest.name, template=template)
    seal(folder, "gguf-language", bundle, made=f"GGUF, {TYPES[bits]}", parameters={"bits": bits})
    with quiet():
        alone = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=GGUF, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        ).eval()
    chat = Chat.of(model)

    @torch.no_grad()
    def run(probe: Conversation) -> Tensor:
        out: Tensor = alone(input_ids=chat.encode(probe)["input_ids"]).logits[0].float()
        return out

    return run, "int8" if bits == 8 else "int4"


FORMATS: Mapping[str, Callable[..., tuple[Logits, str]]] = MappingProxyType(
    {"gguf": _gguf, "onnx": _onnx, "safetensors": _safetensors}
)


def write_onnx(folder: Path, model: VisionLanguage, bundle: Bundle, *, bits: int = 8) -> None:
    """Write a merged stitched model as ONNX graphs: the picture's way, the layers below its entry, and those above.

    The head is always held in 8 bits, and embeddings are read from its rows: one table for both.

    Args:
        folder: An empty or new folder.
        model: From ``merged``.
        bundle: Its bundle, which the export names as its parent.
        bits: 8, or 4: gate and up in 4 bits, the other matrices in 8.

    Raises:
        ModelError: layers that are not Llama's.
    """
    language, whole = model.language, model.model
    check_layers(language)
    folder.mkdir(parents=True, exist_ok=True)
    entry = whole.config.entry_layer
    if entry:
        write_layers(language, slice(0, entry), folder / "below.onnx", bits=_BITS[bits], head=False)
    write_layers(language, slice(entry, None), folder / "above.onnx", bits=_BITS[bits])
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
    seal(folder, KIND, bundle, made=f"ONNX, {bits} bits", parameters={"bits": bits})


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

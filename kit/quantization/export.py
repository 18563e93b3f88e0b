"""A bundle's model for other libraries; kept only where the other library's own run of it passes the parity gate."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from kit.adapters.bundle import Bundle, open_bundle
from kit.data.rows import Conversation
from kit.data.sources import load_rows
from kit.errors import BundleError
from kit.models import products
from kit.models.backends import EXTRA
from kit.models.chat import Chat
from kit.models.dual_encoder import tensors_digest
from kit.models.quiet import quiet
from kit.models.vision_language import VisionLanguage
from kit.quantization import hub_copies
from kit.quantization.copies import merged, quantised, save_copy
from kit.quantization.gguf_file import TYPES, write_gguf
from kit.quantization.moments import NONE, Moments, Sample, moments, usual_samples
from kit.quantization.onnx_clip import Likeness, likeness, open_onnx_clip, write_onnx_clip
from kit.quantization.onnx_folder import write_onnx
from kit.quantization.onnx_graph import check_layers
from kit.quantization.parity import TOLERANCES, Logits, Parity, Tolerance, logits_of, parity
from kit.quantization.probes import fixed_probes
from kit.quantization.runtime import open_runtime
from kit.quantization.sealed import seal

_CALIBRATION = 64  # pictures
_HELD_OUT = 400  # pairs that recall@1 is compared on
_NEEDED = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "safetensors": (), "gguf": ("gguf",)}
GGUF = "language.gguf"


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
        bundle: A vision-language model's bundle; a Hub model's goes to safetensors alone.
        to: "onnx", "gguf" or "safetensors".
        folder: Where to; must not exist.
        options: ``bits``, 8 or 4, for ONNX (see ``write_onnx``) and GGUF. For ONNX ``samples``, what rounding is
            calibrated on (see ``usual_samples``), none for each number to its nearest level; or ``read``, the moments
            of such samples.

    Raises:
        BundleError: a folder that is there already, a package that is missing, another kind of bundle.
        ModelError: a model that this format cannot hold.
    """
    target = Path(folder).absolute()
    if target.exists():
        raise BundleError.of(str(target), "is there already", "choose another folder")
    _check_packages(to)

    def identity() -> str:
        said = [(name, _said(value)) for name, value in sorted(options.items())]
        return f"{bundle.manifest.digest()}|{to}|{said}"

    found = products.kept("export", identity, lambda: _exported(bundle, to, target, options), target)
    gate = Parity(**found["gate"])
    return Exported(target if target.is_dir() else None, gate, TOLERANCES[found["held"]])


def _said(option: Any) -> str:
    """Return what an option of an export says: bits, moments by their numbers, samples by their texts."""
    if isinstance(option, Mapping):
        return tensors_digest({f"{layer} {kind}": one for (layer, kind), one in option.items()})
    if isinstance(option, list | tuple):
        return repr([getattr(one, "text", None) or getattr(one, "id", None) or str(one) for one in option])
    return repr(option)


def _exported(bundle: Bundle, to: str, target: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Write the export, and leave the folder there if it passes its gate; return gate and tolerance as JSON values."""
    model = merged(bundle)
    if not hasattr(model.model, "project") and to != "safetensors":
        what = f"is a model of the Hub, and only stitched ones are written as {to}"
        raise BundleError.of(str(bundle.folder), what, "kit export --format safetensors")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        run, held = FORMATS[to](work / "export", model, bundle, **options)
        probes = [one for one in fixed_probes() if to != "gguf" or one.picture is None]
        gate = parity(logits_of(model), run, probes)
        del run
        if not gate.faults(TOLERANCES[held]):
            (work / "export").replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return {"gate": asdict(gate), "held": held}


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


def export_pairs(bundle: Bundle, folder: Path | str, source: str = "") -> tuple[Path | None, Likeness]:
    """Do as ``export_towers`` with the pairs of a data source.

    Args:
        bundle: A dual encoder's bundle.
        folder: Where to; must not exist.
        source: Where pairs come from: calibrated on its train split, compared on its test split. The first that the
            bundle was trained on by default.

    Raises:
        BundleError: as ``export_towers``; a bundle that names no data.
        DataError: a source that cannot be read.
    """
    chosen = source or next((one.source for one in bundle.manifest.data), "")
    if not chosen:
        what = "its bundle names no data that its towers could be calibrated on"
        raise BundleError.of(str(bundle.folder), what, "give --data SOURCE")
    train, test = (load_rows(chosen, split=split) for split in ("train", "test"))
    return export_towers(bundle, folder, train, test.one_per_concept())


def _check_packages(to: str) -> None:
    import importlib.util

    missing = [name for name in _NEEDED[to] if importlib.util.find_spec(name) is None]
    if missing:
        raise BundleError.of(f"export to {to}", f"needs {', '.join(missing)}", EXTRA)


def _safetensors(folder: Path, model: VisionLanguage, bundle: Bundle) -> tuple[Logits, str]:
    """Write the merged model in bfloat16: a bundle whose ``language`` transformers opens alone, or a Hub model."""
    saved = save_copy(folder, quantised(model, "bfloat16"), bundle)
    if saved.manifest.kind == hub_copies.KIND:
        return logits_of(hub_copies.open_hub_copy(folder)), "bfloat16"
    again: VisionLanguage = open_bundle(saved.folder).load(device="cpu")
    from transformers import AutoModelForCausalLM

    # What transformers alone makes of the folder takes kit's place, so that the gate sees that.
    alone = AutoModelForCausalLM.from_pretrained(folder / "language", local_files_only=True)
    again.language.load_state_dict(alone.state_dict())
    return logits_of(again), "bfloat16"


def _onnx(
    folder: Path,
    model: VisionLanguage,
    bundle: Bundle,
    *,
    bits: int = 8,
    samples: Sequence[Sample] | None = None,
    read: Moments | None = None,
) -> tuple[Logits, str]:
    """Write tower and layers as graphs for onnxruntime, with everything else that it takes to be asked."""
    check_layers(model.language)
    if samples is None and read is None:
        samples = usual_samples([one.source for one in bundle.manifest.data])
    if read is None:
        read = moments(model, samples) if samples else NONE
    write_onnx(folder, model, bundle, bits=bits, moments=read)
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

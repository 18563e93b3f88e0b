"""A bundle served by another runtime: an export opened as what it was made from, made first where there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from kit.adapters.bundle import Bundle, open_bundle
from kit.errors import BundleError, Fault, did_you_mean, listed
from kit.manifest import read
from kit.models.backends import hush
from kit.models.dual_encoder import ClipEncoder
from kit.models.vision_language import VisionLanguage
from kit.parts.pull import kit_home
from kit.quantization import hub_copies, onnx_clip, runtime
from kit.quantization.export import export, export_pairs

Model = VisionLanguage | ClipEncoder

_OPENERS: Mapping[str, Callable[[Path], Model]] = MappingProxyType(
    {
        runtime.KIND: runtime.open_runtime,
        onnx_clip.KIND: onnx_clip.open_onnx_clip,
        hub_copies.KIND: hub_copies.open_hub_copy,
    }
)
RUNTIMES = ("torch", "onnx")
_TEXT_ALONE = "gguf-language"


def open_export(folder: Path | str) -> Model:
    """Return the model in an exported folder, or in a bundle's, with the calls that the bundle's own model has.

    A vision-language model comes as ``VisionLanguage``, a CLIP as ``ClipEncoder``. Every file is verified.

    Args:
        folder: What ``kit export`` or ``save_bundle`` wrote.

    Raises:
        BundleError: no such folder, files that differ from what was written, or an export that holds text alone.
    """
    hush()
    place = Path(folder).absolute()
    kind = read(place).kind
    if kind == _TEXT_ALONE:
        raise BundleError.of(str(place), "holds the text part alone, for llama.cpp", "kit export --format onnx")
    opener = _OPENERS.get(kind)
    model: Model = opener(place) if opener else open_bundle(place).load()
    return model


def served(folder: Path | str, runtime: str = "onnx") -> Model:
    """Return a bundle's model run by a runtime.

    The first time the bundle is exported, into kit's home, which takes a minute; the next time that is opened. An
    export itself is opened by what it was made for, whatever is asked.

    Args:
        folder: A bundle's, or an export's.
        runtime: "torch", or "onnx": int8 by onnxruntime.

    Raises:
        BundleError: another runtime, a bundle that cannot be exported, or one whose export is no longer the same
            model: all that the gate found.
    """
    place = Path(folder).absolute()
    if runtime not in RUNTIMES:
        what = f"{runtime!r} is unknown.{did_you_mean(runtime, RUNTIMES)}"
        raise BundleError.of("runtime", what, allowed=f"Allowed: {listed(RUNTIMES)}.")
    manifest = read(place)
    if runtime == "torch" or manifest.kind in _OPENERS:
        return open_export(place)
    kept = kit_home() / "exports" / f"{manifest.digest()[:16]}-{runtime}"
    if not kept.is_dir():
        _export(open_bundle(place), runtime, kept)
    return open_export(kept)


def _export(bundle: Bundle, runtime: str, target: Path) -> None:
    print(f"Exporting {bundle.manifest.name} for {runtime}, once; this takes a minute …", flush=True)
    if bundle.manifest.kind == "dual-encoder":
        folder, likeness = export_pairs(bundle, target)
        faults = [] if folder else [Fault(str(bundle.folder), one, "--runtime torch") for one in likeness.faults()]
    else:
        found = export(bundle, runtime, target)
        faults = [] if found.folder else found.gate.faults(found.tolerance, where=str(bundle.folder))
    if faults:
        raise BundleError(faults)

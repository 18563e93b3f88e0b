"""Copies of a bundle: its adapter merged into the float base, and that quantised. Never the other way round.

Merging into weights that are quantised already moves logits by whole units (7 to 21 on SmolLM2-135M); into float32
weights by 6e-5.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.adapters.base_weights import peft_models
from kit.adapters.bundle import Bundle, save_bundle
from kit.errors import BundleError
from kit.models.backends import Covered, coverage, find_backend, hush
from kit.models.precision import best_precision
from kit.models.vision_language import VisionLanguage
from kit.quantization.hub_copies import read_hub, save_hub_copy, write_hub
from kit.quantization.speed import folder_weight
from kit.result import Measurement


@dataclass(frozen=True)
class Copy:
    """A smaller copy of a bundle's model.

    Args:
        model: The model, ready to use.
        backend: How its matrices are held.
        covered: What was quantised, and what was not and why.
        wall_s: Seconds that merging and quantising took.
    """

    model: VisionLanguage
    backend: str
    covered: tuple[Covered, ...]
    wall_s: float


def merged(bundle: Bundle, **options: Any) -> VisionLanguage:
    """Return a bundle's model with LoRA merged into its float32 base, whatever base it was trained on.

    Adaption prompts, which no matrix can take up, stay on the model.

    Args:
        bundle: A vision-language model's bundle.
        options: ``bases`` that lie elsewhere now; see ``Bundle.load``.

    Raises:
        BundleError: a bundle of another kind, or one whose language tower was quantised for good.
    """
    if bundle.manifest.kind != "vision-language":
        what = f"is a {bundle.manifest.kind}, and has no language tower to quantise"
        raise BundleError.of(str(bundle.folder), what, "kit export --format onnx makes int8 copies of its towers")
    hush()
    model: VisionLanguage = bundle.load(device="cpu", dtype="float32", backend="", **options)
    for path, adapter in peft_models(model.model).items():
        if path:
            model.model.set_submodule(path, adapter.merge_and_unload())
        else:
            model.model = adapter.merge_and_unload()
    model.model.eval().requires_grad_(False)
    return model


def quantised(model: VisionLanguage, backend: str, *, dtype: str = "", name: str = "copy") -> Copy:
    """Return a merged model's copy with the matrices of its language tower held by a backend.

    Args:
        model: From ``merged``.
        backend: A name in ``kit.models.backends.BACKENDS``.
        dtype: Of what is not quantised: embeddings, head and norms. bfloat16 by default where the processor multiplies
            it, else float32.
        name: What people call it.

    Raises:
        ModelError: a backend that does not work here.
    """
    find_backend(backend)
    floats = backend if backend in {"float32", "bfloat16", "float16"} else dtype or usual_floats()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="kit-merged-") as folder:
        if hasattr(model.model, "project"):
            whole = save_bundle(Path(folder) / "merged", model, name=name, whole=True)
            copy = whole.load(device="cpu", dtype=floats, backend=backend)
        else:
            write_hub(Path(folder), model)
            held = "" if floats == backend else backend
            copy = read_hub(Path(folder), like=model, dtype=floats, backend=held)
        copy.model = _unmapped(copy.model)
    copy.name = f"{model.name} as {backend}"
    return Copy(copy, backend, coverage(copy.language), time.perf_counter() - start)


def usual_floats() -> str:
    """Return the type that weights outside the quantised matrices have by default."""
    return "bfloat16" if best_precision("cpu") == "bf16" else "float32"


def save_copy(folder: Path | str, copy: Copy, parent: Bundle) -> Bundle:
    """Write a copy as a bundle that names its parent, with its language tower inside; of a Hub model all of it.

    Raises:
        BundleError: a place that is taken.
    """
    if not hasattr(copy.model.model, "project"):
        return save_hub_copy(folder, copy.model, parent, backend=copy.backend)
    return save_bundle(
        folder,
        copy.model,
        name=f"{parent.manifest.name} ({copy.backend})",
        data=parent.manifest.data,
        parameters={**parent.manifest.parameters, "backend": copy.backend},
        parents={parent.manifest.name: parent.manifest.digest()},
        whole=True,
    )


def weighed(copy: Copy, parent: Bundle, *, peak: bool = True) -> dict[str, Measurement]:
    """Return what making, keeping and opening a copy takes: ``quantise_s``, ``disk_mb`` and ``peak_mb``.

    Args:
        copy: The copy; it is saved for a while.
        parent: The bundle that it came from.
        peak: Whether a fresh process opens it and answers one question, for its peak memory.
    """
    with tempfile.TemporaryDirectory(prefix="kit-copy-") as folder:
        saved = save_copy(Path(folder) / "copy", copy, parent).folder
        found = {"quantise_s": Measurement(copy.wall_s, "s", 1, better="lower")}
        return found | folder_weight(saved, peak=peak)


def _unmapped(model: Any) -> Any:
    """Return the model with weights of its own: those of a file are mapped, and the file is about to go."""
    for tensor in (*model.parameters(), *model.buffers()):
        if type(tensor.data).__module__.startswith("torch"):
            tensor.data = tensor.data.clone()
    return model

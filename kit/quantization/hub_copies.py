"""Copies of a Hub model's bundle: the whole model as transformers saves it, since no base holds what was merged."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from kit.adapters.bundle import Bundle
from kit.errors import BundleError
from kit.manifest import verify
from kit.models.hub_vision_language import load_hub
from kit.models.load import heritage
from kit.models.quiet import quiet
from kit.models.vision_language import VisionLanguage
from kit.parts.reference import parse
from kit.quantization.sealed import seal

KIND = "hub-vision-language"


def write_hub(folder: Path, model: VisionLanguage) -> None:
    """Write model and processor as transformers writes them, quantised as they are.

    Args:
        folder: Where to.
        model: A model of the Hub without adapters on it.
    """
    with quiet():
        model.model.save_pretrained(folder)
        model.processor.save_pretrained(folder)


def read_hub(folder: Path, *, like: VisionLanguage, dtype: str = "", backend: str = "") -> VisionLanguage:
    """Return what ``write_hub`` wrote, its language tower held by a backend, with another model's name and bases."""
    found = load_hub(parse(f"local-dir:{folder}", kind="model"), dtype=dtype or None, backend=backend)
    found.bases, found.name = like.bases, like.name
    found.model.requires_grad_(False)
    return found


def save_hub_copy(folder: Path | str, model: VisionLanguage, parent: Bundle, *, backend: str) -> Bundle:
    """Write a copy with card and manifest; the folder appears whole or not at all.

    Args:
        folder: Where to; must not exist.
        model: The copy.
        parent: The bundle that it came from.
        backend: How its language tower's matrices are held.

    Raises:
        BundleError: a folder that is there already.
    """
    target = Path(folder).absolute()
    if target.exists():
        raise BundleError.of(str(target), "is there already", "choose another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        write_hub(work / "copy", model)
        manifest = seal(work / "copy", KIND, parent, made=backend, parameters={"backend": backend})
        (work / "copy").replace(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Bundle(target, manifest)


def open_hub_copy(folder: Path | str) -> VisionLanguage:
    """Return a copy after verifying every file.

    Raises:
        BundleError: files that differ from what was written, or another kind of folder.
    """
    place = Path(folder).absolute()
    manifest = verify(place)
    if manifest.kind != KIND:
        raise BundleError.of(str(place), f"is a {manifest.kind}, no copy of a Hub model", "open it with open_bundle")
    found = load_hub(parse(f"local-dir:{place}", kind="model"))
    found.bases, found.name = heritage(manifest), f"bundle:{place}"
    found.model.requires_grad_(False)
    return found

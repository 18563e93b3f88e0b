"""Models by one source string."""

from __future__ import annotations

import json
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from kit.errors import Fault, ModelError, did_you_mean, listed, raise_faults
from kit.manifest import FILE, Manifest, read, verify
from kit.models.dual_encoder import ClipEncoder
from kit.models.hub_folder import bundle_folder
from kit.models.stitch import PREPROCESS, assemble, stitch
from kit.parts.reference import TOWERS, Fingerprint, Reference, fingerprint, parse

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"


def load_dual_encoder(
    source: str, *, base: Path | None = None, device: str | None = None, **options: Any
) -> ClipEncoder:
    """Return the dual encoder that a source string names, ready to encode.

    Args:
        source: ``stitch:IMAGE+TEXT``, ``open_clip:MODEL/PRETRAINED`` (a tag, or the path of a checkpoint), or
            ``local-dir:PATH`` / ``bundle:PATH`` (a folder in open_clip's layout), ``hf-bundle:ORG/NAME``.
        base: Folder that relative paths start from; the working directory by default.
        device: Where to put it, in torch's words; the best device there is by default.
        options: For ``stitch:`` only: image_projection, text_projection, embed_dim, dropout, objective, seed.

    Raises:
        ModelError: a source that is no dual encoder, weights that do not fit, or options that it does not take.
        BundleError: a bundle that is not what was saved.
        PartError: a part cannot be pulled.
    """
    reference = parse(source, kind="model", base=base)
    loaders = {
        "stitch": stitch, "open_clip": _open_clip, "local-dir": _local_dir, "bundle": _bundle, "hf-bundle": _hub_bundle,
    }  # fmt: skip
    if reference.scheme not in loaders:
        raise ModelError.of(
            source,
            "is not a dual encoder",
            "take one of these",
            f"Allowed: {', '.join(f'{name}:…' for name in loaders)}",
        )
    if reference.sides and reference.sides[1].body not in TOWERS["text"]:
        what = "has a language model and no text tower, so it is no dual encoder"
        raise ModelError.of(source, what, "load it with load_vision_language")
    _check_options(reference, options)
    encoder = loaders[reference.scheme](reference, **options)
    encoder.clip.to(device or best_device())
    return encoder


def _check_options(reference: Reference, options: dict[str, Any]) -> None:
    if options and reference.scheme != "stitch":
        raise ModelError.of(reference.text, f"takes no options, got {listed(options)}", "leave them out")
    known = [name for name in signature(stitch).parameters if name != "reference"]
    raise_faults(
        [
            Fault(
                reference.text, f"has no option {name!r}.{did_you_mean(name, known)}", "", f"Options: {listed(known)}."
            )
            for name in options
            if name not in known
        ],
        ModelError,
    )


def best_device() -> str:
    """Return "cuda", "mps" or "cpu": the first that torch has here."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _open_clip(reference: Reference) -> ClipEncoder:
    import open_clip

    model, _, pretrained = reference.body.partition("/")
    pretrained = str(reference.path or pretrained)  # a checkpoint's path counts from base, not from here
    try:
        clip, _, transform = open_clip.create_model_and_transforms(model, pretrained=pretrained)
    except Exception as error:
        fix = (
            f"check that {pretrained} is a whole checkpoint of {model}"
            if reference.path
            else "check the name with open_clip.list_pretrained(), and the network"
        )
        raise ModelError.of(reference.text, f"open_clip cannot load it: {_first_line(error)}", fix) from error
    config = open_clip.get_model_config(model)
    if config is None or "hf_model_name" in config.get("text_cfg", {}):
        raise ModelError.of(
            reference.text, "has a text tower that lives on the Hub", "save it once and use local-dir:PATH"
        )
    clip.eval()
    return ClipEncoder(
        clip=clip,
        transform=transform,
        tokenizer=open_clip.get_tokenizer(model),
        model_cfg=config,
        preprocess_cfg=open_clip.model.get_model_preprocess_cfg(clip),
        bases=(fingerprint(reference),),
        name=reference.text,
    )


def _bundle(reference: Reference) -> ClipEncoder:
    folder = _folder_of(reference)
    return open_folder(folder, name=reference.text, bases=heritage(_dual(folder, verify(folder))))


def _hub_bundle(reference: Reference) -> ClipEncoder:
    folder = bundle_folder(reference)
    return open_folder(folder, name=reference.text, bases=heritage(_dual(folder, verify(folder))))


def _local_dir(reference: Reference) -> ClipEncoder:
    folder = _folder_of(reference)
    # A bundle owes what its manifest says under this scheme too; that its files are whole is what bundle: checks.
    bases = heritage(_dual(folder, read(folder))) if _is_bundle(folder) else (fingerprint(reference),)
    return open_folder(folder, name=reference.text, bases=bases)


def _dual(folder: Path, manifest: Manifest) -> Manifest:
    if manifest.kind != "dual-encoder":
        what = f"is a bundle of kind {manifest.kind!r}, and no dual encoder"
        raise ModelError.of(str(folder), what, "open it with open_bundle")
    return manifest


def _is_bundle(folder: Path) -> bool:
    """Return whether a folder's manifest is kit's, whole or damaged; web pages have a manifest.json too."""
    try:
        said = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True  # reading it says what is wrong
    return isinstance(said, dict) and {"schema", "bases"} <= said.keys()


def heritage(manifest: Manifest) -> tuple[Fingerprint, ...]:
    """Return what a bundle's model was built on, its training data included.

    What is built on the bundle owes the same licences and attributions, so its own card must name them.
    """
    return tuple(
        Fingerprint(
            base.source,
            base.digest,
            pinned=True,
            origin=base.origin,
            licence=base.licence,
            attribution=base.attribution,
        )
        for base in (*manifest.bases, *manifest.data)
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _folder_of(reference: Reference) -> Path:
    if reference.path is None:
        raise ModelError.of(reference.text, "names no folder", "write local-dir:PATH or bundle:PATH")
    return reference.path


def open_folder(folder: Path, *, name: str, bases: tuple[Fingerprint, ...]) -> ClipEncoder:
    """Return the model in a folder of open_clip's layout, wherever the working directory is.

    open_clip 3.3 resolves a text tower's ``hf_model_name`` against the working directory, so the folder's own
    name is put there before the model is built.

    Raises:
        ModelError: no configuration, or weights that do not fit it.
    """
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise ModelError.of(
            str(folder), f"holds no {CONFIG} and {WEIGHTS}", "name a folder that kit or open_clip saved"
        )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        model_cfg, preprocess_cfg = config["model_cfg"], config.get("preprocess_cfg", PREPROCESS)
        hugging_face = "hf_model_name" in model_cfg["text_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"is no configuration that open_clip wrote: {error!r}"
        raise ModelError.of(str(folder / CONFIG), what, "save the model again") from error
    if hugging_face:
        text_cfg = {**model_cfg["text_cfg"], "hf_model_name": str(folder), "hf_tokenizer_name": str(folder)}
        model_cfg = {**model_cfg, "text_cfg": text_cfg}
    clip = _filled(folder, model_cfg, hugging_face=hugging_face)
    if hugging_face:
        return assemble(clip, model_cfg, preprocess_cfg, text_folder=folder, bases=bases, name=name)
    return _with_open_clips_tokenizer(folder, clip, model_cfg, preprocess_cfg, bases=bases, name=name)


def _filled(folder: Path, model_cfg: dict[str, Any], *, hugging_face: bool) -> torch.nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        clip = _build(model_cfg, hugging_face=hugging_face)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"open_clip cannot build what it describes: {_first_line(error)}"
        raise ModelError.of(str(folder / CONFIG), what, "save the model again") from error
    try:
        clip.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        what = f"cannot be read, or does not fit {CONFIG}: {error}"
        raise ModelError.of(str(folder / WEIGHTS), what, "save the model again") from error
    return clip


def _build(model_cfg: dict[str, Any], *, hugging_face: bool) -> torch.nn.Module:
    from open_clip.model import CLIP, CustomTextCLIP

    settings = dict(model_cfg)
    custom = settings.pop("custom_text", False) or hugging_face
    if hugging_face:
        settings["text_cfg"] = {**settings["text_cfg"], "hf_model_pretrained": False}
    model: torch.nn.Module = (CustomTextCLIP if custom else CLIP)(**settings)
    return model


def _with_open_clips_tokenizer(
    folder: Path,
    clip: torch.nn.Module,
    model_cfg: dict[str, Any],
    preprocess_cfg: dict[str, Any],
    *,
    bases: tuple[Fingerprint, ...],
    name: str,
) -> ClipEncoder:
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    try:
        # Some of open_clip's own text towers (SigLIP's) read a Hugging Face tokenizer, which lies in the folder then.
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    except Exception as error:
        what = f"its tokenizer cannot be loaded: {_first_line(error)}"
        raise ModelError.of(str(folder), what, "save the model again") from error
    transform = image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False)
    clip.eval()
    return ClipEncoder(clip, transform, tokenizer, model_cfg, preprocess_cfg, bases, name)

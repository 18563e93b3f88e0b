"""Models by one source string."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from kit.errors import ModelError
from kit.manifest import verify
from kit.models.dual_encoder import ClipEncoder
from kit.models.stitch import PREPROCESS, assemble, stitch
from kit.parts.reference import Fingerprint, Reference, fingerprint, parse

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"


def load_dual_encoder(source: str, *, base: Path | None = None, device: str | None = None, **options: Any) -> ClipEncoder:
    """Return the dual encoder that a source string names, ready to encode.

    Args:
        source: ``stitch:IMAGE+TEXT``, ``open_clip:MODEL/PRETRAINED`` (a tag, or the path of a checkpoint), or
            ``local-dir:PATH`` / ``bundle:PATH`` (a folder in open_clip's layout).
        base: Folder that relative paths start from; the working directory by default.
        device: Where to put it, in torch's words; the best device there is by default.
        options: For ``stitch:`` only: image_projection, text_projection, embed_dim, dropout, seed.

    Raises:
        ModelError: a source that is no dual encoder, weights that do not fit, or options that it does not take.
        BundleError: a bundle that is not what was saved.
        PartError: a part cannot be pulled.
    """
    reference = parse(source, kind="model", base=base)
    loaders = {"stitch": stitch, "open_clip": _open_clip, "local-dir": _local_dir, "bundle": _bundle}
    if reference.scheme not in loaders:
        raise ModelError.of(
            source,
            "is not a dual encoder",
            "take one of these",
            f"Allowed: {', '.join(f'{name}:…' for name in loaders)}",
        )
    if options and reference.scheme != "stitch":
        raise ModelError.of(source, f"takes no options, got {', '.join(sorted(options))}", "leave them out")
    encoder = loaders[reference.scheme](reference, **options)
    encoder.clip.to(device or best_device())
    return encoder


def best_device() -> str:
    """Return "cuda", "mps" or "cpu": the first that torch has here."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _open_clip(reference: Reference) -> ClipEncoder:
    import open_clip

    model, _, pretrained = reference.body.partition("/")
    try:
        clip, _, transform = open_clip.create_model_and_transforms(model, pretrained=pretrained)
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError.of(
            reference.text,
            f"open_clip cannot load it: {str(error).splitlines()[0]}",
            "check the name with open_clip.list_pretrained(), and the network",
        ) from error
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
    verify(_folder_of(reference))
    return _local_dir(reference)


def _local_dir(reference: Reference) -> ClipEncoder:
    return open_folder(_folder_of(reference), name=reference.text, bases=(fingerprint(reference),))


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
    from safetensors.torch import load_file

    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise ModelError.of(
            str(folder), f"holds no {CONFIG} and {WEIGHTS}", "name a folder that kit or open_clip saved"
        )
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    model_cfg, preprocess_cfg = config["model_cfg"], config.get("preprocess_cfg", PREPROCESS)
    hugging_face = "hf_model_name" in model_cfg["text_cfg"]
    if hugging_face:
        text_cfg = {**model_cfg["text_cfg"], "hf_model_name": str(folder), "hf_tokenizer_name": str(folder)}
        model_cfg = {**model_cfg, "text_cfg": text_cfg}
    clip = _build(model_cfg, hugging_face=hugging_face)
    try:
        clip.load_state_dict(load_file(folder / WEIGHTS))
    except RuntimeError as error:
        raise ModelError.of(str(folder), f"weights do not fit {CONFIG}: {error}", "save the model again") from error
    if hugging_face:
        return assemble(clip, model_cfg, preprocess_cfg, text_folder=folder, bases=bases, name=name)
    return _with_open_clips_tokenizer(clip, model_cfg, preprocess_cfg, bases=bases, name=name)


def _build(model_cfg: dict[str, Any], *, hugging_face: bool) -> torch.nn.Module:
    from open_clip.model import CLIP, CustomTextCLIP

    settings = dict(model_cfg)
    custom = settings.pop("custom_text", False) or hugging_face
    if hugging_face:
        settings["text_cfg"] = {**settings["text_cfg"], "hf_model_pretrained": False}
    model: torch.nn.Module = (CustomTextCLIP if custom else CLIP)(**settings)
    return model


def _with_open_clips_tokenizer(
    clip: torch.nn.Module, model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any], *, bases: Any, name: str
) -> ClipEncoder:
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.transform import PreprocessCfg, image_transform_v2

    text_cfg = model_cfg["text_cfg"]
    tokenizer = SimpleTokenizer(
        context_length=text_cfg.get("context_length", 77), **text_cfg.get("tokenizer_kwargs", {})
    )
    transform = image_transform_v2(PreprocessCfg(**preprocess_cfg), is_train=False)
    clip.eval()
    return ClipEncoder(clip, transform, tokenizer, model_cfg, preprocess_cfg, bases, name)

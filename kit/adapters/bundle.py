"""Bundles: everything that an adaptation produced, in one folder that loads alone or fails loudly.

A dual encoder's bundle is a checkpoint in open_clip's own layout, so that open_clip opens it without kit (from
inside the folder: ``open_clip.create_model_and_transforms("local-dir:.")``), with a manifest and a card beside it;
where LoRA was trained, the checkpoint is merged and the adapter lies beside it, see ``kit.adapters.clip_lora``.
A vision-language model's holds its adapters, projector and processor; see ``kit.adapters.language_bundle``. A reward
model's is such a one with a head.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kit.adapters.card import card
from kit.adapters.clip_lora import FOLDER, AdaptedEncoder, write_adapter
from kit.adapters.clip_lora import opening as adapter_opening
from kit.adapters.language_bundle import built_on, open_vision_language, write_vision_language
from kit.adapters.language_card import opening
from kit.adapters.reward_bundle import KIND, open_reward, write_reward
from kit.errors import BundleError, Fault, listed, raise_faults
from kit.manifest import Base, Manifest, verify, write
from kit.models.dual_encoder import ClipEncoder
from kit.models.hub_folder import bundle_folder
from kit.models.load import CONFIG, WEIGHTS, heritage, open_folder
from kit.models.reward import Reward
from kit.models.vision_language import VisionLanguage
from kit.parts.reference import parse
from kit.result import Measurement, Result

ON_THE_HUB = "hf-bundle:"
LIBRARIES = ("torch", "transformers", "open_clip_torch", "timm", "peft", "safetensors")
# A tokenizer's files and a text tower's settings: small, and all that Hugging Face needs to build both.
TEXT_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


Saved = ClipEncoder | VisionLanguage | Reward  # what a bundle can be made of


@dataclass(frozen=True)
class Bundle:
    """A saved adaptation.

    Args:
        folder: Where it is.
        manifest: What it says about itself.
    """

    folder: Path
    manifest: Manifest

    def load(self, **options: Any) -> Any:
        """Return the model, ready to use. The files were verified when the bundle was opened.

        Args:
            options: For a vision-language or a reward model: device, dtype, and ``bases`` that lie elsewhere now; see
                ``kit.adapters.language_bundle.open_vision_language``.

        Returns:
            A ``ClipEncoder``, a ``VisionLanguage`` or a ``Reward``.

        Raises:
            BundleError: a base that is another than the bundle's, or options that a dual encoder does not take.
        """
        if self.manifest.kind == "vision-language":
            return open_vision_language(self.folder, self.manifest, **options)
        if self.manifest.kind == KIND:
            return open_reward(self.folder, self.manifest, **options)
        if self.manifest.kind != "dual-encoder":
            what = f"is a {self.manifest.kind}, which another library runs"
            raise BundleError.of(str(self.folder), what, "open it with kit.quantization.runtime.open_runtime")
        if options:
            raise BundleError.of(str(self.folder), f"a dual encoder takes no {listed(options)}", "leave it out")
        return open_folder(self.folder, name=f"bundle:{self.folder}", bases=heritage(self.manifest))

    def __str__(self) -> str:
        """Return where it is, which is how notebooks hand bundles to the runner."""
        return str(self.folder)


def save_bundle(
    folder: Path | str,
    model: Saved,
    *,
    name: str,
    data: tuple[Base, ...] = (),
    parameters: Mapping[str, Any] | None = None,
    measurements: Mapping[str, Measurement] | None = None,
    parents: Mapping[str, str] | None = None,
    whole: bool = False,
) -> Bundle:
    """Write a bundle; the folder appears whole or not at all.

    What killed saves of this bundle left beside it is put back or swept first.

    Args:
        folder: Where to; an older bundle there is replaced, anything else is not touched.
        model: The model; of a vision-language model, what was trained and where it belongs.
        name: What people call it.
        data: What it was trained on, from ``data_use``.
        parameters: What training was asked to do, as JSON values.
        measurements: What it reached, for the card.
        parents: Digests of the bundles that it came from, by name.
        whole: Of a vision-language model, save the language tower too: it is no longer the base's.

    Raises:
        BundleError: the place is taken by something that is no bundle, or cannot be written; parameters that are
            no JSON values; weights that were trained and would not be saved.
    """
    from safetensors import SafetensorError

    target = Path(folder).absolute()
    _check_parameters(parameters or {})
    _recover(target)
    if target.exists() and not (target / "manifest.json").is_file():
        raise BundleError.of(str(target), "is there already, and is no bundle", "choose another folder")
    manifest = Manifest(
        kind=_kind(model),
        name=name,
        bases=built_on((model.cut.model if isinstance(model, Reward) else model).bases),
        data=data,
        parameters=dict(parameters or {}),
        results=Result(measurements).to_json() if measurements else {},
        parents=dict(parents or {}),
        versions=_versions(),
        kit=_version("multimodal-kit"),
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-{os.getpid()}-", dir=target.parent))
    except OSError as error:
        raise BundleError.of(str(target), f"cannot be written: {error.strerror}", "choose another folder") from error
    try:
        _write_model(work, model, whole)
        (work / "README.md").write_text(card(manifest, *_opening(work, manifest, model)), encoding="utf-8")
        manifest = write(work, manifest)
        work.chmod(0o755)  # mkdtemp makes folders that only their owner reads
        _put(work, target)
    except (OSError, SafetensorError) as error:  # the latter is what safetensors makes of a full disk
        why = getattr(error, "strerror", None) or error
        raise BundleError.of(
            str(target), f"cannot be written: {why}", "free some space, or choose another folder"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Bundle(target, manifest)


def open_bundle(folder: Path | str) -> Bundle:
    """Return the bundle in a folder, or of ``hf-bundle:ORG/NAME[@REVISION]``, after verifying every file.

    Where a save was killed while it exchanged an older bundle for a newer one, the older one is put back.

    Raises:
        BundleError: everything that differs from what was saved, at once.
        ModelError: a repository that cannot be downloaded.
    """
    if str(folder).startswith(ON_THE_HUB):
        folder = bundle_folder(parse(str(folder), kind="model"))
    place = Path(folder).absolute()
    if not place.exists():
        _recover(place)
    return Bundle(place, verify(place))


def data_use(rows: Any) -> Base:
    """Return what a bundle says about the rows it was trained on.

    Args:
        rows: ``kit.data.rows.Rows``.
    """
    return Base(rows.name, rows.digest(), rows.licence, rows.attribution, rows=len(rows), split=rows.split)


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    faults = []
    for name, value in parameters.items():
        try:
            json.dumps({name: value}, allow_nan=False)
        except (TypeError, ValueError) as error:
            what = f"{value!r} is no JSON value: {error}"
            faults.append(Fault(f"parameters.{name}", what, "give numbers, strings, lists and mappings"))
    raise_faults(faults, BundleError)


def _kind(model: Saved) -> str:
    if isinstance(model, Reward):
        return KIND
    return "vision-language" if isinstance(model, VisionLanguage) else "dual-encoder"


def _write_model(folder: Path, model: Saved, whole: bool) -> None:
    if isinstance(model, VisionLanguage):
        write_vision_language(folder, model, whole=whole)
    elif isinstance(model, Reward):
        write_reward(folder, model)
    elif isinstance(model, AdaptedEncoder):
        _write_clip(folder, model.merged())
        write_adapter(folder / FOLDER, model)
    else:
        _write_clip(folder, model)


def _opening(folder: Path, manifest: Manifest, model: Saved) -> tuple[str, ...]:
    """Return how to open what is no plain dual encoder."""
    if isinstance(model, VisionLanguage | Reward):
        return (opening(folder, manifest),)
    return (adapter_opening(model),) if isinstance(model, AdaptedEncoder) else ()


def _write_clip(folder: Path, encoder: ClipEncoder) -> None:
    from safetensors.torch import save_file

    model_cfg = dict(encoder.model_cfg)
    if encoder.text_folder is not None:
        # open_clip 3.3 looks these up from the working directory: "." holds inside the folder, wherever that is.
        text_cfg = {
            **model_cfg["text_cfg"],
            "hf_model_name": ".",
            "hf_tokenizer_name": ".",
            "hf_model_pretrained": False,
        }
        model_cfg["text_cfg"] = text_cfg
        for name in TEXT_FILES:
            if (encoder.text_folder / name).is_file():
                shutil.copyfile(encoder.text_folder / name, folder / name)
    elif hasattr(encoder.tokenizer, "save_pretrained"):
        # open_clip's own text tower with a Hugging Face tokenizer (SigLIP): open_clip looks for it beside the config.
        encoder.tokenizer.save_pretrained(folder)
    config = {"model_cfg": model_cfg, "preprocess_cfg": dict(encoder.preprocess_cfg)}
    (folder / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in encoder.clip.state_dict().items()}
    if any(".lora_" in name for name in state):
        what = "has LoRA in its towers, which open_clip would not find its weights under"
        raise BundleError.of(encoder.name, what, "save what add_clip_lora returned")
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # safetensors lets only the owner read


def _put(work: Path, target: Path) -> None:
    """Move ``work`` to ``target``; a folder cannot replace a full one in one step, so the older goes aside first.

    A kill between the two steps leaves no bundle at ``target``; ``_recover`` finds the older one by its name.
    """
    if not target.exists():
        work.replace(target)
        return
    aside = target.parent / f"{work.name}-old"
    target.replace(aside)
    try:
        work.replace(target)
    finally:
        if not target.exists():  # a failure, or an interrupt between the two
            aside.replace(target)
    shutil.rmtree(aside, ignore_errors=True)


def _recover(target: Path) -> None:
    """Undo what killed saves left: put the bundle that one had moved aside back, and sweep everything else.

    Folders of processes that are alive are another save's, and stay.
    """
    import psutil

    # What mkdtemp makes of the prefix in save_bundle, and what _put makes of that.
    left = re.compile(rf"\.{re.escape(target.name)}-(\d+)-[a-z0-9_]+(-old)?")
    try:
        beside = [(path, left.fullmatch(path.name)) for path in target.parent.iterdir()]
    except OSError:  # no such folder, or not ours to look into; saving says so
        return
    orphans = [(path, bool(match[2])) for path, match in beside if match and not psutil.pid_exists(int(match[1]))]
    for path, aside in orphans:
        if aside and not target.exists() and (path / "manifest.json").is_file():
            with suppress(OSError):  # what cannot be moved is not deleted either: it may be all that is left
                path.replace(target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _versions() -> dict[str, str]:
    return {name: found for name in LIBRARIES if (found := _version(name))}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""

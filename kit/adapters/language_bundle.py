"""A vision-language model's bundle: adapters, projector and processor, and what they belong on, by source and hash.

The bases are not copied. A bundle opens on the very bases that it was trained on, or says which differs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from kit.adapters.base_sources import sources_now
from kit.adapters.base_weights import NORMS, adapter_faults, peft_models, prompted, weights
from kit.adapters.llama_adapter import FILE as PROMPTS
from kit.adapters.llama_adapter import add_llama_adapter
from kit.adapters.whole_language import LANGUAGE, backend_faults, whole_faults, write_language
from kit.errors import BundleError, Fault, did_you_mean, listed, raise_faults
from kit.manifest import Base, Manifest
from kit.models.backends import backend_of
from kit.models.halves import trunk
from kit.models.hub_vision_language import DTYPES, load_hub
from kit.models.language import load_language
from kit.models.load import best_device, heritage
from kit.models.vision_language import VisionLanguage
from kit.parts.reference import Fingerprint, Reference, parse

FILE = "vision_language.json"
PROJECTOR = "projector.safetensors"
ADAPTER = "adapter"
LAYOUT = 2  # what needs nothing new is written as 1, which older kits read
_AGAIN = "copy the folder again, or make the bundle again"


def write_vision_language(folder: Path, model: VisionLanguage, *, whole: bool = False) -> None:
    """Write what was trained of a model, and how it is put together again, into an empty folder.

    Args:
        folder: The folder.
        model: The model.
        whole: Write the language tower too, for a model in which it is no longer the base's (merged, quantised).

    Raises:
        BundleError: trained weights that the bundle would not hold, an adapter that is merged, or several in one
            place; all at once.
    """
    raise_faults(adapter_faults(model) + (whole_faults(model) if whole else []), BundleError)
    inner = _bare(model)
    stitched = hasattr(inner, "project")
    backend = backend_of(model.language)
    said: dict[str, Any] = {
        "layout": LAYOUT if whole or backend else 1,
        "stitched": stitched,
        "dtype": str(next(model.language.parameters()).dtype).removeprefix("torch."),
        "adapters": {},
        "prompts": None,
        "weights": weights(model) if stitched else {},
    }
    for path, adapter in peft_models(model.model).items():
        on_language = path == "" or adapter is model.language
        name = ADAPTER if on_language else f"{ADAPTER}_{path.rpartition('.')[2]}"
        said["adapters"][name] = path
        _write_adapter(folder / name, adapter, built_on(model.bases)[1 if stitched else 0])
    if prompted(model):
        said["prompts"] = _write_prompts(folder / PROMPTS, model)
    if whole or backend:
        said |= {"backend": backend, "whole": whole}
    if whole:
        write_language(folder / LANGUAGE, model)
    if stitched:
        inner.generation_config.save_pretrained(folder)
    inner.config.save_pretrained(folder)
    model.processor.save_pretrained(folder)
    _write_tensors(folder / PROJECTOR, model.projector.state_dict())
    (folder / FILE).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    for path in folder.rglob("*.safetensors"):
        path.chmod((folder / FILE).stat().st_mode)  # safetensors lets only the owner read


def open_vision_language(
    folder: Path,
    manifest: Manifest,
    *,
    device: str | None = None,
    dtype: str = "",
    backend: str | None = None,
    bases: Mapping[str, str] | None = None,
    **options: Any,
) -> VisionLanguage:
    """Return the model of a bundle whose files were verified: its bases with everything put on them, frozen.

    Args:
        folder: The bundle.
        manifest: What it says about itself.
        device: Where to put it; the best device there is by default.
        dtype: Of the bases' weights; as it was saved by default.
        backend: How the language tower's matrices are held ("float32", "bitsandbytes-nf4", …, see
            ``kit.models.backends``); as it was saved by default.
        bases: Where bases are now, by the sources that the bundle names: ``{"local-dir:/old": "local-dir:/new"}``.
        options: For a model of the Hub: ``trust_remote_code``.

    Raises:
        BundleError: a base that is another than the bundle's, or files that do not fit each other.
        ModelError: a base that cannot be loaded.
        PartError: a part that cannot be pulled.
    """
    said = read_layout(folder)
    if dtype and dtype not in DTYPES:
        what = f"{dtype!r} is unknown.{did_you_mean(dtype, DTYPES)}"
        raise BundleError.of("dtype", what, allowed=f"Allowed: {listed(DTYPES)}.")
    raise_faults(backend_faults(folder, said, backend), BundleError)
    held = said.get("backend", "") if backend is None else backend
    whole = said.get("whole", False)
    references = sources_now(manifest.bases[: 2 if said["stitched"] and not whole else 1], bases or {})
    if whole:
        references.append(parse(f"local-dir:{folder / LANGUAGE}", kind="model"))
    build = _stitched if said["stitched"] else _from_the_hub
    options |= {"backend": "" if whole and held == said["backend"] else held} if held else {}
    model = build(folder, references, DTYPES[dtype or said["dtype"]], options)
    if said["weights"] and dtype in {"", said["dtype"]} and held == said.get("backend", ""):
        _compare(folder, said["weights"], weights(model, skipped=said["weights"]["skipped"]))
    try:
        _put_on(folder, model, said)
    except (OSError, RuntimeError, ValueError, KeyError, LookupError, AttributeError) as error:
        what = f"does not fit the model: {' '.join(str(error).split())[:300]}"
        raise BundleError.of(str(folder), what, _AGAIN) from error
    model.bases, model.name = heritage(manifest), f"bundle:{folder}"
    model.model.eval().requires_grad_(False).to(device or best_device())
    return model


def read_layout(folder: Path) -> dict[str, Any]:
    """Return what ``vision_language.json`` says.

    Raises:
        BundleError: it is missing, damaged, or from a newer kit.
    """
    try:
        said: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        newer = said["layout"] > LAYOUT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError.of(str(folder / FILE), f"cannot be read: {error!r}", _AGAIN) from error
    if newer:
        raise BundleError.of(str(folder / FILE), "is from a newer kit", "pip install -U multimodal-kit")
    return said


def built_on(bases: Sequence[Fingerprint]) -> tuple[Base, ...]:
    """Return what a model was built on, as a manifest says it; what lies in a folder by its whole path."""
    return tuple(Base(_whole(base), base.digest, base.licence, base.attribution, base.origin) for base in bases)


def _whole(base: Fingerprint) -> str:
    """Return a base's source string so that it holds in any working directory."""
    scheme, _, body = base.text.partition(":")
    if scheme not in {"local-dir", "open_clip"} or not Path(base.origin).is_absolute():
        return base.text
    return f"{scheme}:{base.origin}" if scheme == "local-dir" else f"{scheme}:{body.partition('/')[0]}/{base.origin}"


def _bare(model: VisionLanguage) -> Any:
    """Return the model without PEFT around it."""
    return model.model.get_base_model() if "" in peft_models(model.model) else model.model


def _write_adapter(target: Path, adapter: Any, base: Base) -> None:
    """Write an adapter as PEFT does, but name its base by source, not by a folder of kit's home."""
    (name,) = adapter.peft_config
    targets = adapter.peft_config[name].target_modules or ()
    # Told by us, because PEFT would ask the Hub whether the base's embeddings have another size.
    embeddings = any(layer in targets for layer in ("embed_tokens", "lm_head"))
    adapter.save_pretrained(target, selected_adapters=[name], save_embedding_layers=embeddings)
    if (target / name).is_dir():
        for path in (target / name).iterdir():
            path.replace(target / path.name)
        (target / name).rmdir()
    (target / "README.md").unlink(missing_ok=True)  # PEFT's empty form; the bundle has a card
    config = json.loads((target / "adapter_config.json").read_text(encoding="utf-8"))
    on_the_hub = base.source.startswith("hf:")
    config["base_model_name_or_path"] = base.source.removeprefix("local-dir:").removeprefix("hf:").partition("@")[0]
    config["revision"] = base.digest if on_the_hub else None
    (target / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _write_prompts(target: Path, model: VisionLanguage) -> dict[str, int]:
    _write_tensors(target, _prompt_weights(model))
    found = prompted(model)
    first = next(iter(found.values()))
    return {"layers": len(found), "tokens": first.static.shape[0], "rank": first.down.shape[0]}


def _prompt_weights(model: VisionLanguage) -> dict[str, torch.nn.Parameter]:
    """Return what a LLaMA-Adapter trains: each prompted layer's own weights and norms, by layer."""
    found, layers = prompted(model), trunk(model.language).layers
    own = {
        f"{number}.{name}": parameter
        for number, layer in found.items()
        for name, parameter in layer.named_parameters(recurse=False)
    }
    return own | {f"{number}.{name}": getattr(layers[number], name).weight for number in found for name in NORMS}


def _write_tensors(target: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, target, metadata={"format": "pt"})


def _stitched(
    folder: Path, references: Sequence[Reference], dtype: torch.dtype, options: Mapping[str, Any]
) -> VisionLanguage:
    from transformers import GenerationConfig

    from kit.models.stitched import StitchedConfig, StitchedModel
    from kit.models.stitched_processor import StitchedProcessor
    from kit.models.vision_tower import VisionTower, load_vision_tower

    backend = str(options.get("backend", ""))
    if wrong := options.keys() - {"backend"}:
        raise BundleError.of(str(folder), f"a stitched model takes no {listed(wrong)}", "leave it out")
    image, text = references
    config = StitchedConfig.from_pretrained(folder, local_files_only=True)
    language, _ = load_language(text, dtype=dtype, backend=backend)
    tower = load_vision_tower(image, grid=config.vision["grid"])
    same = ("width", "grid")
    if any(tower.settings[name] != config.vision[name] for name in same) or (
        tower.settings["network"].keys() != config.vision["network"].keys()
    ):
        what = "this kit and its libraries build the vision tower otherwise than those that the card names"
        raise BundleError.of(str(folder), what, "install the versions in its manifest.json")
    # The bundle's own preprocessing, should a later library's default differ.
    model = StitchedModel(config, VisionTower(config.vision, tower.network), language)
    model.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return VisionLanguage(model, StitchedProcessor.from_pretrained(folder), (), "")


def _from_the_hub(
    folder: Path, references: Sequence[Reference], dtype: torch.dtype, options: Mapping[str, Any]
) -> VisionLanguage:
    from transformers import AutoProcessor

    model = load_hub(references[0], dtype=dtype, **options)
    rest = {name: value for name, value in options.items() if name != "backend"}  # a word of transformers' own, too
    model.processor = AutoProcessor.from_pretrained(folder, local_files_only=True, **rest)
    return model


def _compare(folder: Path, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    faults = [
        Fault(
            str(folder),
            f"the {side} tower's weights differ from those that it was trained on, from the same source",
            "install the versions in its manifest.json",
        )
        for side in ("vision", "language")
        if expected[side] != found[side]
    ]
    raise_faults(faults, BundleError)


def _put_on(folder: Path, model: VisionLanguage, said: Mapping[str, Any]) -> None:
    from peft import PeftModel
    from safetensors.torch import load_file

    if said["prompts"]:
        add_llama_adapter(model.language, **said["prompts"])
        state, own = load_file(folder / PROMPTS), _prompt_weights(model)
        if {name: tensor.shape for name, tensor in state.items()} != {name: one.shape for name, one in own.items()}:
            raise ValueError(f"{PROMPTS} holds other weights than the model's prompted layers have")
        for name, parameter in own.items():
            parameter.data.copy_(state[name])
    for name, path in said["adapters"].items():
        adapted = PeftModel.from_pretrained(model.model.get_submodule(path), str(folder / name), torch_device="cpu")
        if path:
            model.model.set_submodule(path, adapted)
        else:
            model.model = adapted
    model.projector.load_state_dict(load_file(folder / PROJECTOR))

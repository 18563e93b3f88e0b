"""Vision-language models by one source string."""

from __future__ import annotations

import copy
from inspect import signature
from pathlib import Path
from typing import Any

import torch

from kit.errors import Fault, ModelError, did_you_mean, listed, raise_faults
from kit.models.halves import check_cut, lower, trunk
from kit.models.hub_vision_language import DTYPES, load_hub
from kit.models.language import load_language
from kit.models.load import best_device
from kit.models.projector import projector_faults
from kit.models.stitched_processor import TEMPLATES, StitchedProcessor
from kit.models.vision_language import VisionLanguage
from kit.parts.reference import Reference, fingerprint, parse

ADAPTED = 8  # top layers that see the picture where nothing else is asked
# What a user might write before and after a picture: their norms say how large a picture's tokens should be.
_SENTENCES = ("What is in this picture?", "A small red circle on a white ground.", "Is there a cat? No.")


def load_vision_language(
    source: str, *, base: Path | None = None, device: str | None = None, dtype: str = "", **options: Any
) -> VisionLanguage:
    """Return the vision-language model that a source string names, frozen, in evaluation mode.

    Args:
        source: ``stitch:IMAGE+LANGUAGE``, ``hf:ORG/NAME[@REVISION]``, or ``local-dir:PATH`` of a model in Hugging
            Face's layout. (A bundle is opened by ``open_bundle``.)
        base: Folder that relative paths start from; the working directory by default.
        device: Where to put it, in torch's words; the best device there is by default.
        dtype: Of the weights: "float32", "bfloat16", "float16"; the checkpoint's own by default, float32 for a stitch.
        options: For ``stitch:`` those of ``stitch_language``; for the Hub ``trust_remote_code``.

    Raises:
        ModelError: a source that is no vision-language model, weights that do not fit, options that it does not take.
        PartError: a part cannot be pulled.
    """
    reference = parse(source, kind="model", base=base)
    loaders: dict[str, Any] = {"stitch": stitch_language, "hf": load_hub, "local-dir": load_hub}
    if reference.scheme not in loaders:
        fix = "open it with open_bundle" if reference.scheme in {"bundle", "hf-bundle"} else "take one of these"
        allowed = f"Allowed: {', '.join(f'{name}:…' for name in loaders)}"
        raise ModelError.of(source, "is not loaded as a vision-language model", fix, allowed)
    loader = loaders[reference.scheme]
    known = [name for name in signature(loader).parameters if name not in {"reference", "dtype"}]
    faults = [
        Fault(source, f"has no option {name!r}.{did_you_mean(name, known)}", "", f"Options: {listed(known)}.")
        for name in options
        if name not in known
    ]
    if dtype and dtype not in DTYPES:
        faults.append(Fault("dtype", f"{dtype!r} is unknown.{did_you_mean(dtype, DTYPES)}", "", f"{listed(DTYPES)}."))
    raise_faults(faults, ModelError)
    model: VisionLanguage = loader(reference, dtype=DTYPES[dtype] if dtype else None, **options)
    model.model.requires_grad_(False).to(device or best_device())
    return model


def stitch_language(
    reference: Reference,
    *,
    dtype: torch.dtype | None = None,
    backend: str = "",
    grid: int = 2,
    entry_layer: int | None = None,
    prompted: bool = False,
    projector: str = "linear",
    hidden: int = 0,
    template: str = "plain",
    seed: int = 0,
) -> VisionLanguage:
    """Return a vision tower and a language model as one model, with a fresh projector between them.

    Args:
        reference: A parsed ``stitch:IMAGE+LANGUAGE``.
        dtype: Of the language model's weights; float32 by default.
        backend: How the matrices of its layers are held, a name in ``kit.models.backends.BACKENDS``.
        grid: A picture becomes grid x grid tokens.
        entry_layer: The first decoder layer that sees the picture, 0 for a prefix of the input embeddings; by
            default the eighth from the top.
        prompted: The picture enters by adaption prompts instead (``add_llama_adapter``).
        projector: "linear" or "mlp".
        hidden: Numbers between the two layers of "mlp"; 0 for the language model's width.
        template: "plain" (few tokens) or "chat" (the language model's own).
        seed: Of the projector's fresh weights.

    Raises:
        ModelError: options out of range, all at once; a part that is no such tower, or a language model that cannot
            be cut there.
        PartError: a part cannot be pulled.
    """
    from kit.models.stitched import StitchedConfig, StitchedModel
    from kit.models.vision_tower import load_vision_tower

    faults = _faults(grid, entry_layer, prompted, template) + projector_faults(projector, hidden)
    raise_faults(faults, ModelError)
    image, text = reference.sides
    language, tokenizer = load_language(text, dtype=dtype or torch.float32, backend=backend)
    layers = len(trunk(language).layers)
    entry = max(0, layers - ADAPTED) if entry_layer is None else entry_layer
    if not 0 <= entry < layers:
        what = f"{entry}, but {text.text} has layers 0 to {layers - 1}"
        raise ModelError.of("entry_layer", what, "choose one of these")
    check_cut(language, 0 if prompted else entry)
    tower = load_vision_tower(image, grid=grid)
    processor = StitchedProcessor(
        tokenizer, tower.pixels, image_tokens=1 if prompted else tower.tokens, template=template
    )
    settings = {
        "vision_width": tower.width, "width": trunk(language).config.hidden_size, "tokens": tower.tokens,
        "kind": projector, "hidden": hidden, "norm": _norm(language, tokenizer, 0 if prompted else entry), "seed": seed,
    }  # fmt: skip
    plain = {name: value for name, value in language.config.to_dict().items() if name != "quantization_config"}
    config = StitchedConfig(
        language=plain, vision=tower.settings, projector=settings, prompted=prompted,
        entry_layer=0 if prompted else entry, image_token_id=processor.image_token_id,
    )  # fmt: skip
    model = StitchedModel(config, tower, language).eval()  # type: ignore[no-untyped-call]
    model.generation_config = copy.deepcopy(language.generation_config)
    if model.generation_config.pad_token_id is None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    bases = tuple(fingerprint(side) for side in reference.sides)
    return VisionLanguage(model=model, processor=processor, bases=bases, name=reference.text)


def _faults(grid: int, entry_layer: int | None, prompted: bool, template: str) -> list[Fault]:
    """Return what is wrong with options, as far as it shows before anything is loaded."""
    found = [
        Fault(name, f"must be a whole number of at least {least}, got {value!r}")
        for name, value, least in (("grid", grid, 1), ("entry_layer", 0 if entry_layer is None else entry_layer, 0))
        if isinstance(value, bool) or not isinstance(value, int) or value < least
    ]
    if prompted and entry_layer is not None:
        found.append(Fault("entry_layer", "has no meaning with prompted=True", "leave one of them out"))
    if template not in TEMPLATES:
        what = f"{template!r} is unknown.{did_you_mean(template, TEMPLATES)}"
        found.append(Fault("template", what, allowed=f"Allowed: {listed(TEMPLATES)}."))
    return found


@torch.no_grad()
def _norm(language: Any, tokenizer: Any, entry: int) -> float:
    """Return the median norm of text tokens' hidden states below a layer, first tokens left out."""
    norms = []
    for sentence in _SENTENCES:
        ids = torch.tensor([tokenizer(sentence)["input_ids"]])
        seen = torch.ones_like(ids, dtype=torch.bool)
        hidden = lower(language, entry)(language.get_input_embeddings()(ids), seen)
        norms.append(hidden[0, 1:].float().norm(dim=-1))
    return float(torch.cat(norms).median())

"""Vision-language models of the Hugging Face Hub, or a folder laid out like theirs: model and processor, pinned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from kit.errors import Fault, ModelError, raise_faults
from kit.models.backends import Backend, check_coverage, find_backend, spared, steady
from kit.models.vision_language import VisionLanguage, part
from kit.parts.reference import Reference, fingerprint

_AGAIN = "check the files, or download it again"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_hub(
    reference: Reference,
    *,
    dtype: torch.dtype | str | None = None,
    backend: str = "",
    trust_remote_code: bool = False,
) -> VisionLanguage:
    """Return a vision-language model with its processor, on the CPU and in evaluation mode.

    Args:
        reference: ``hf:ORG/NAME[@REVISION]`` or ``local-dir:PATH``, parsed. From the Hub exactly the commit of the
            fingerprint is loaded, so that what is recorded is what ran.
        dtype: Of the weights: a torch type, or "float32", "bfloat16", "float16". The checkpoint's own by default;
            float32 where that is float16 and there is no GPU, because a CPU lacks operations in float16.
        backend: How the matrices of the language tower's layers are held, a name in
            ``kit.models.backends.BACKENDS``; everything else stays as it is.
        trust_remote_code: Run the repository's own Python code. Read it first.

    Raises:
        ModelError: no such repository or folder, no vision-language model, no processor, weights that are missing,
            do not fit or are no safetensors, a package that is missing, or another dtype.
    """
    mark = fingerprint(reference)
    place = str(reference.path or reference.body)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    options |= {"revision": mark.digest} if reference.path is None else {"local_files_only": True}
    with _quiet():
        config = _config(reference, place, options)
        processor = _processor(reference, place, options)
        chosen = find_backend(backend) if backend else None
        options |= {"dtype": _dtype(reference, dtype, config)}
        if chosen is not None and chosen.settings is None:
            options["dtype"] = DTYPES[chosen.to]
        elif chosen is not None:
            options["quantization_config"] = _settings(chosen, config, options)
        model = _model(reference, place, options)
    found = VisionLanguage(model=model, processor=processor, bases=(mark,), name=reference.text)
    steady(model)
    if chosen is not None:
        check_coverage(found.language, chosen)
    return found


def _settings(chosen: Backend, config: Any, options: dict[str, Any]) -> Any:
    """Return a backend's settings that leave all but the language tower's layers alone."""
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        empty = AutoModelForImageTextToText.from_config(config, trust_remote_code=options["trust_remote_code"])
    tower = part(empty, "language_model", "text_model")
    inside = {id(module) for module in tower.modules()}
    names = [
        name
        for name, module in empty.named_modules()
        if isinstance(module, torch.nn.Linear) and (id(module) not in inside or ".layers." not in f".{name}")
    ]
    dtype = options["dtype"] if isinstance(options["dtype"], torch.dtype) else config.dtype or torch.float32
    return spared(chosen, dtype, names)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide transformers' own bars, which would be outputs of a notebook."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _config(reference: Reference, place: str, options: dict[str, Any]) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

    try:
        config = AutoConfig.from_pretrained(place, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _error(reference, "its configuration cannot be loaded", error) from error
    own = "AutoModelForImageTextToText" in (getattr(config, "auto_map", None) or {})
    if config.model_type not in KNOWN and not own:
        what = f"is a {config.model_type!r}, which is no vision-language model that transformers can load"
        fix = "name a model that the Hub files under image-text-to-text"
        raise ModelError.of(reference.text, what, fix)
    return config


def _processor(reference: Reference, place: str, options: dict[str, Any]) -> Any:
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(place, **options)
    except Exception as error:  # a processor is built from three files by as many classes, each with errors of its own
        raise _error(reference, "its processor cannot be loaded", error) from error
    # Without a processor's configuration, AutoProcessor returns a bare tokenizer or image processor.
    lacking = [name for name in ("image_processor", "tokenizer") if getattr(processor, name, None) is None]
    if lacking:
        what = f"has no processor for pictures and text: it lacks {' and '.join(lacking)}"
        raise ModelError.of(reference.text, what, "save model and processor to one folder with save_pretrained")
    return processor


def _model(reference: Reference, place: str, options: dict[str, Any]) -> Any:
    from transformers import AutoModelForImageTextToText

    try:
        model, found = AutoModelForImageTextToText.from_pretrained(
            place, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    except Exception as error:  # safetensors' and torch's errors have no common base
        raise _error(reference, "its weights cannot be loaded", error) from error
    # transformers warns and leaves such weights random; a model that answers nonsense is the worse surprise.
    faults = [Fault(reference.text, f"its checkpoint lacks {key}", _AGAIN) for key in sorted(found["missing_keys"])]
    for key, saved, wanted in sorted(found["mismatched_keys"]):
        what = f"{key} has shape {tuple(saved)} in its checkpoint and {tuple(wanted)} by its configuration"
        faults.append(Fault(reference.text, what, _AGAIN))
    raise_faults(faults, ModelError)
    return model.eval()


def _dtype(reference: Reference, dtype: torch.dtype | str | None, config: Any) -> torch.dtype | str:
    if dtype is None:
        own = getattr(config, "dtype", None)
        gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
        return torch.float32 if own == torch.float16 and not gpu else "auto"
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise ModelError.of(reference.text, f"dtype {dtype!r} is unknown", allowed=f"Allowed: {', '.join(DTYPES)}.")
        return DTYPES[dtype]
    return dtype


def _error(reference: Reference, what: str, error: Exception) -> ModelError:
    """Return one fault for what transformers raised, with the fix that the cause asks for."""
    said = " ".join(str(error).split()) or type(error).__name__
    fix = _AGAIN
    if "trust_remote_code" in said:
        fix = "read its code on the Hub, then pass trust_remote_code=True"
    elif "gated" in said.lower():
        fix = f"accept its terms on https://huggingface.co/{reference.body} and log in with `hf auth login`"
    elif isinstance(error, ImportError):
        fix = "install the package that it names"
    elif "safetensors" in said:
        fix = "give its weights as safetensors; kit opens no pickles"
    elif reference.path is None and isinstance(error, OSError):
        fix = "check that it is a transformers model, and the network"
    return ModelError(Fault(reference.text, f"{what}: {said[:300]}", fix))

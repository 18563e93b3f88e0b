"""Language models by source string: the packaged one, the Hub's, or a folder's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kit.errors import Fault, ModelError, raise_faults
from kit.models.backends import check_coverage, find_backend, steady
from kit.models.derived import derived
from kit.models.hub_folder import AGAIN, model_folder, refused
from kit.models.quiet import quiet
from kit.parts import pull
from kit.parts.catalog import find
from kit.parts.reference import TOWERS, Reference, parse

_FORMAT = 1  # of the converted part; another number converts again
_DISK = 560_000_000  # of the converted part


def load_language(source: str | Reference, *, dtype: torch.dtype = torch.float32, backend: str = "") -> tuple[Any, Any]:
    """Return a causal language model and its tokenizer: on the CPU, frozen, in evaluation mode.

    The packaged ``smollm2-135m`` takes 30 s and 1.5 GB the first time (it is converted, see ``language_folder``) and
    a second afterwards; its float32 weights are then mapped from disk, not read.

    Args:
        source: A language part, ``hf:ORG/NAME[@REVISION]`` or ``local-dir:PATH``; parsed, or as a string.
        dtype: Of the weights; with a backend, of those that it leaves alone.
        backend: A name in ``kit.models.backends.BACKENDS``: how the matrices of its layers are held. A folder that was
            saved quantised is loaded as it is.

    Raises:
        ModelError: no such repository or folder, no causal language model, weights that are missing, do not fit or
            are no safetensors, no tokenizer; a backend that does not work here, or that left matrices out.
        PartError: the part cannot be pulled.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reference = _parsed(source)
    folder = language_folder(reference)
    _check_kind(reference, folder)
    chosen = find_backend(backend) if backend else None
    more: dict[str, Any] = {}
    if chosen is not None and chosen.settings is not None:
        more = {"quantization_config": chosen.settings(dtype)}
    elif chosen is not None:
        dtype = getattr(torch, chosen.to)
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # a tokenizer is built from several files by as many classes, each with its errors
            raise refused(reference, "its tokenizer cannot be loaded", error) from error
        try:
            model, found = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, local_files_only=True,
                output_loading_info=True, ignore_mismatched_sizes=True, **more,
            )  # fmt: skip
        except Exception as error:  # safetensors' and torch's errors have no common base
            raise refused(reference, "its weights cannot be loaded", error) from error
    _check_weights(reference, found)
    steady(model)
    if chosen is not None:
        check_coverage(model, chosen)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # as is usual: what is masked is never read
    return model.eval().requires_grad_(False), tokenizer


def language_folder(source: str | Reference) -> Path:
    """Return a folder from which transformers and PEFT alone open the plain language model.

    For the packaged part that is a conversion of its GGUF file to float32 safetensors in kit's home, made once; for
    the Hub its local cache at exactly the fingerprint's commit.

    Raises:
        ModelError: see ``load_language``.
        PartError: the part cannot be pulled.
    """
    reference = _parsed(source)
    if reference.scheme != "part":
        return model_folder(reference)
    part = find(reference.body)
    packaged = pull.get(part)
    return derived(f"{part.folder}-{_FORMAT}", lambda into: _convert(reference, packaged, into), need_bytes=_DISK)


def _parsed(source: str | Reference) -> Reference:
    reference = parse(source, kind="model") if isinstance(source, str) else source
    if reference.scheme in {"hf", "local-dir"} or reference.body in TOWERS["language"]:
        return reference
    if reference.body in TOWERS["text"]:
        what = "is a text tower, which writes no text"
        raise ModelError.of(reference.text, what, "load its stitch with load_dual_encoder")
    allowed = f"Allowed: {', '.join([*TOWERS['language'], 'hf:ORG/NAME[@REVISION]', 'local-dir:PATH'])}."
    raise ModelError.of(reference.text, "is no language model", "take one of these", allowed)


def _convert(reference: Reference, packaged: Path, into: Path) -> None:
    """Write what a GGUF file holds as transformers writes models: float32 safetensors, settings, tokenizer."""
    import transformers
    from tokenizers import pre_tokenizers

    (file,) = sorted(packaged.glob("*.gguf"))
    options: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    # transformers 5 keeps the weights packed unless told otherwise; 4 always unpacks them.
    packed = {"quantization_config": transformers.GgufConfig(dequantize=True)} if _gguf_config() else {}
    print(f"Converting {reference.text} for transformers, once; this takes half a minute …", flush=True)
    with quiet():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(packaged, **options)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                packaged, dtype=torch.float32, **options, **packed
            )
        except ImportError as error:
            raise refused(reference, "its GGUF file cannot be read", error) from error
        model.save_pretrained(into)
    # The file asks for the "smollm" pre-tokenizer, digits apart as at the origin; transformers leaves that out.
    core = tokenizer.backend_tokenizer
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), core.pre_tokenizer])
    tokenizer.model_max_length = model.config.max_position_embeddings
    tokenizer.save_pretrained(into)


def _gguf_config() -> bool:
    import transformers

    return hasattr(transformers, "GgufConfig")


def _check_kind(reference: Reference, folder: Path) -> None:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise refused(reference, "its configuration cannot be loaded", error) from error
    names = [str(name) for name in getattr(config, "architectures", None) or ()]
    if config.model_type not in KNOWN or any(name.endswith("ForConditionalGeneration") for name in names):
        what = f"is a {config.model_type!r} model, which is no language model by itself"
        raise ModelError.of(reference.text, what, "name a causal language model, or load it with load_vision_language")


def _check_weights(reference: Reference, found: dict[str, Any]) -> None:
    # transformers warns and leaves such weights random; a model that writes nonsense is the worse surprise.
    faults = [Fault(reference.text, f"its checkpoint lacks {key}", AGAIN) for key in sorted(found["missing_keys"])]
    for key, saved, wanted in sorted(found["mismatched_keys"]):
        what = f"{key} has shape {tuple(saved)} in its checkpoint and {tuple(wanted)} by its configuration"
        faults.append(Fault(reference.text, what, AGAIN))
    raise_faults(faults, ModelError)

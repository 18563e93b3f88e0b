"""A model's files as one local folder: the Hub's at a pinned commit, or a folder of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from kit.errors import KitError, ModelError
from kit.parts.reference import Reference, fingerprint

AGAIN = "check the files, or download it again"
# What transformers needs of a repository: weights as safetensors, settings and tokenizer; no pickles and no code.
PATTERNS = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")


def model_folder(reference: Reference) -> Path:
    """Return the folder of ``hf:ORG/NAME[@REVISION]`` or ``local-dir:PATH``.

    From the Hub exactly the fingerprint's commit is downloaded, so that what is recorded is what runs.

    Raises:
        ModelError: no such repository, or it cannot be downloaded; a folder without a model's configuration.
    """
    folder = reference.path or _snapshot(reference)
    if (folder / "config.json").is_file():
        return folder
    adapter = (folder / "adapter_config.json").is_file()
    what = "holds an adapter and not the model below it" if adapter else "holds no config.json"
    raise ModelError.of(reference.text, what, "name a folder or repository that transformers saved a model to")


def refused(reference: Reference, what: str, error: Exception) -> KitError:
    """Return kit's error for what a library raised, with the fix that the cause asks for."""
    said = " ".join(str(error).split()) or type(error).__name__
    fix = AGAIN
    if isinstance(error, ImportError):
        fix = "pip install gguf" if "gguf" in said.lower() else "install the package that it names"
    elif "safetensors" in said:
        fix = "give its weights as safetensors; kit opens no pickles"
    elif "gated" in said.lower():
        fix = f"accept its terms on https://huggingface.co/{reference.body} and log in with `hf auth login`"
    elif reference.scheme == "hf" and isinstance(error, OSError):
        fix = "check that it is a transformers model, and the network"
    return ModelError.of(reference.text, f"{what}: {said[:300]}", fix)


def bundle_folder(reference: Reference) -> Path:
    """Return the folder of ``hf-bundle:ORG/NAME[@REVISION]``, whole and at the fingerprint's commit.

    Raises:
        ModelError: no such repository, or it cannot be downloaded.
    """
    return _snapshot(reference, None)


def _snapshot(reference: Reference, patterns: Sequence[str] | None = PATTERNS) -> Path:
    from huggingface_hub import snapshot_download

    commit = fingerprint(reference).digest
    only = None if patterns is None else list(patterns)
    try:
        return Path(snapshot_download(reference.body, revision=commit, allow_patterns=only))
    except Exception as error:  # the Hub's client has had three HTTP libraries: requests, httpx, httpx2
        raise refused(reference, "cannot be downloaded", error) from error

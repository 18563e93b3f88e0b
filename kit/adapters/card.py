"""A bundle's card: the README.md that travels with the weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib.metadata import metadata

from kit.manifest import Base, Manifest
from kit.result import Measurement, Result

OPEN = """```python
# With open_clip alone, from inside this folder:
import open_clip
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:.")
tokenizer = open_clip.get_tokenizer("local-dir:.")
```

```python
# With kit, from anywhere; every file is checked against its hash first:
import kit
model = kit.open_bundle("PATH").load()
```"""


def card(manifest: Manifest, opening: str = OPEN) -> str:
    """Return the card as Markdown with the Hub's front matter.

    Args:
        manifest: What the bundle says about itself.
        opening: How to open it, as Markdown; a dual encoder's by default.
    """
    kind = (
        manifest.kind.removeprefix("onnx-")
        .removeprefix("gguf-")
        .removeprefix("hub-")
        .replace("language", "language model")
        .replace("reward", "reward model")
    )
    sections = [
        _front_matter(manifest),
        f"# {manifest.name}",
        f"A {kind} made with [kit]({homepage()}).",
        "## How to open it",
        opening,
        "## What it was built on",
        _bullets(_base(base) for base in manifest.bases),
        "## What it was trained on",
        _bullets(f"{_base(base)}, split {base.split}, {base.rows} rows" for base in manifest.data),
        "## What it reached",
        _results(manifest),
        "## Attribution",
        _bullets(manifest.attributions()),
        "## Parameters",
        f"```json\n{json.dumps(dict(manifest.parameters), indent=1, sort_keys=True, ensure_ascii=False)}\n```",
    ]
    return "\n\n".join(sections) + "\n"


def homepage() -> str:
    """Return the project's address, which is written once, in ``[project.urls]``."""
    addresses = dict(line.split(", ", 1) for line in metadata("multimodal-kit").get_all("Project-URL") or ())
    return addresses.get("Homepage", "")


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) or "Nothing."


def _base(base: Base) -> str:
    return f"`{base.source}` ({base.licence or 'licence not stated'}; content {base.digest[:16]})"


def _front_matter(manifest: Manifest) -> str:
    # Share-alike data may bind what was trained on it, so such a licence is named before any other.
    licences = sorted(manifest.licences(), key=lambda name: ("-SA-" not in name, name)) or ["other"]
    kind = {
        "dual-encoder": ["library_name: open_clip", "tags: [clip, multimodal-kit]"],
        "vision-language": [
            "library_name: multimodal-kit",
            "pipeline_tag: image-text-to-text",
            "tags: [multimodal-kit]",
        ],
        "reward": ["library_name: multimodal-kit", "pipeline_tag: text-ranking", "tags: [reward, multimodal-kit]"],
        "onnx-dual-encoder": ["library_name: onnxruntime", "tags: [clip, onnx, multimodal-kit]"],
        "onnx-vision-language": [
            "library_name: onnxruntime",
            "pipeline_tag: image-text-to-text",
            "tags: [onnx, multimodal-kit]",
        ],
        "hub-vision-language": [
            "library_name: transformers",
            "pipeline_tag: image-text-to-text",
            "tags: [multimodal-kit]",
        ],
        "gguf-language": ["library_name: gguf", "pipeline_tag: text-generation", "tags: [gguf, multimodal-kit]"],
    }[manifest.kind]
    return "\n".join(["---", *kind, f"license: {licences[0].lower()}", "---"])


def _results(manifest: Manifest) -> str:
    if not manifest.results:
        return "Nothing was measured."
    rows = [
        f"| {name} | {one.value:.4g} {one.unit} | {_interval(one)} | {one.n} "
        f"| {'' if one.baseline is None else f'{one.baseline:.4g}'} | {one.split} |"
        for name, one in Result.from_json(manifest.results).measurements.items()
    ]
    head = ["| measurement | value | interval | n | baseline | split |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *rows])


def _interval(found: Measurement) -> str:
    if found.low is None or found.high is None:
        return ""
    return f"{found.low:.4g} – {found.high:.4g} ({'least to most' if found.level is None else f'{found.level:.0%}'})"

"""What travels with an export: a card with everything it owes, and a manifest that names its parent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kit.adapters.bundle import Bundle
from kit.adapters.card import card
from kit.manifest import Manifest, write

OPENINGS: Mapping[str, str] = MappingProxyType(
    {
        "onnx-vision-language": """```python
# Everything is checked against its hash first; the graphs are run by onnxruntime alone:
from kit.models.chat import answer
from kit.quantization.runtime import open_runtime
model = open_runtime("PATH")
answer(model, [picture], ["What is this?"])  # a kit.data.picture.Picture, or None
```

`picture.onnx` takes pixels to tokens of the language model's width; `below.onnx` holds the layers that read text alone,
`above.onnx` those from the picture's entry on, with the head, whose rows are the embeddings, too.""",
        "onnx-dual-encoder": """```python
# Everything is checked against its hash first; the graphs are run by onnxruntime alone:
from kit.quantization.onnx_clip import open_onnx_clip
encoder = open_onnx_clip("PATH")
```

`image.onnx` takes pixels, `text.onnx` token ids; both give unit vectors.""",
        "hub-vision-language": """```python
from transformers import AutoModelForImageTextToText, AutoProcessor
model, processor = AutoModelForImageTextToText.from_pretrained("PATH"), AutoProcessor.from_pretrained("PATH")
```

```python
# Or with kit, which checks every file against its hash first, and keeps bitsandbytes from scrambling 4-bit weights:
from kit.quantization.served import open_export
model = open_export("PATH")
```""",
        "gguf-language": """```sh
llama-cli -m PATH/language.gguf
```

`language.gguf` holds the text part alone: the format has no place for a picture that enters between a model's layers.
Its chat template is the one that the bundle is spoken to by.""",
    }
)


def seal(folder: Path, kind: str, bundle: Bundle, *, made: str, parameters: Mapping[str, Any]) -> Manifest:
    """Write card and manifest beside an export's files, and return the manifest.

    Args:
        folder: The export, complete but for these.
        kind: A name in ``OPENINGS``.
        bundle: What it was made from; its bases, data and licences hold for the export, too.
        made: What was made of it, in words: "ONNX, 8 bits".
        parameters: What the export was asked to do.
    """
    parent = bundle.manifest
    manifest = Manifest(
        kind=kind, name=f"{parent.name} ({made})", bases=parent.bases, data=parent.data, versions=parent.versions,
        parameters={**parent.parameters, **parameters}, parents={parent.name: parent.digest()}, kit=parent.kit,
    )  # fmt: skip
    (folder / "README.md").write_text(card(manifest, OPENINGS[kind]), encoding="utf-8")
    return write(folder, manifest)

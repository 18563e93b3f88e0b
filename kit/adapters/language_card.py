"""How a vision-language bundle is opened, for its card: with PEFT alone as far as that goes, and with kit."""

from __future__ import annotations

import json
from pathlib import Path

from kit.adapters.language_bundle import ADAPTER, PROJECTOR, read_layout
from kit.adapters.llama_adapter import FILE as PROMPTS
from kit.adapters.reward_bundle import HEAD
from kit.manifest import Manifest

_KIT = """```python
# With kit, from anywhere; every file and every base is checked against its hash first:
import kit
model = kit.open_bundle("PATH").load()
```"""
_REWARD = """Of two answers to one question the one with the higher reward is the better; only differences count:

```python
model.score([question, another])  # rows of questions with answers
model.best(picture, "Describe the picture.", ["one answer", "another"])  # best of n
```"""
_PEFT = """```python
# With PEFT alone, on the plain language model {base}:
from peft import PeftModel
from transformers import AutoModelForCausalLM
base = AutoModelForCausalLM.from_pretrained("{place}"{revision})
model = PeftModel.from_pretrained(base, "PATH/{adapter}")
```"""
_FOLDER = """FOLDER is the packaged model as float32 safetensors. kit writes it once, and says where:

```
python -c "from kit.models.language import language_folder; print(language_folder('smollm2-135m'))"
```"""
_WHOLE = """The language tower is here whole ({held}), and transformers alone opens it:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("PATH/language").eval()
tokenizer = AutoTokenizer.from_pretrained("PATH/language")
```"""
_HUB = """```python
# With PEFT alone, on the plain model:
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor
base = AutoModelForImageTextToText.from_pretrained("{place}"{revision})
model = {put}
processor = AutoProcessor.from_pretrained("PATH")
```"""


def opening(folder: Path, manifest: Manifest) -> str:
    """Return the card's section on opening, as Markdown.

    Args:
        folder: Where the bundle's files are.
        manifest: What it says about itself.
    """
    said = read_layout(folder)
    if (folder / HEAD).is_file():
        return f"{_KIT}\n\n{_REWARD}"
    if said["stitched"]:
        return "\n\n".join([*_stitched(folder, manifest, said), _KIT])
    return "\n\n".join([*_hub(manifest, said), _KIT])


def _stitched(folder: Path, manifest: Manifest, said: dict[str, object]) -> list[str]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    base = manifest.bases[1]
    paragraphs = []
    if said.get("whole"):
        paragraphs.append(_WHOLE.format(held=said["backend"] or said["dtype"]))
    elif said.get("backend"):
        paragraphs.append(f"It was trained on the base as {said['backend']} holds it, and kit opens it so.")
    if ADAPTER in said["adapters"]:  # type: ignore[operator]
        paragraphs.append(_PEFT.format(base=f"({base.source})", adapter=ADAPTER, **_where(base)))
        if base.source == "smollm2-135m":
            paragraphs.append(_FOLDER)
    if config["prompted"] or said["prompts"]:
        paragraphs.append(
            f"The picture enters through adaption prompts inside the attention (LLaMA-Adapter, `{PROMPTS}`), which "
            "PEFT has no form for: the adapted model needs kit, for text too."
        )
    elif config["entry_layer"]:
        paragraphs.append(
            f"This gives the model's logits for text without pictures. Seeing needs kit: the picture enters at decoder "
            f"layer {config['entry_layer']}, which plain transformers has no input for."
        )
    else:
        paragraphs.append(
            "This gives the model's logits for text, and with pictures too: pass `inputs_embeds` in which the "
            f"embeddings of token {config['image_token_id']} are replaced by the projected picture. The projector "
            f"(`{PROJECTOR}`): each feature minus `mean`, by `deviation`; a layer norm `norm`; the linear layers "
            "`layers` (GELU between two); plus `place`; times the `norm` in `config.json`'s `projector` over the "
            "square root of its `width`. Computing a picture's features is kit's."
        )
    return paragraphs


def _hub(manifest: Manifest, said: dict[str, object]) -> list[str]:
    adapters: dict[str, str] = said["adapters"]  # type: ignore[assignment]
    projector = f"`{PROJECTOR}` holds the projector's weights as they were trained; kit puts them back."
    if set(adapters) != {ADAPTER}:
        return [projector, "More than one part of it was adapted; kit puts every adapter in its place."]
    path = adapters[ADAPTER]
    put = 'PeftModel.from_pretrained(base, "PATH/adapter")'
    if path:
        put = f'base\npart = PeftModel.from_pretrained(base.get_submodule("{path}"), "PATH/adapter")\n'
        put += f'model.set_submodule("{path}", part)'
    return [_HUB.format(put=put, **_where(manifest.bases[0])), projector]


def _where(base: object) -> dict[str, str]:
    source, digest = base.source, base.digest  # type: ignore[attr-defined]
    if source.startswith("hf:"):
        return {"place": source[3:].partition("@")[0], "revision": f', revision="{digest}"'}
    return {"place": source.removeprefix("local-dir:") if ":" in source else "FOLDER", "revision": ""}

"""LoRA in both towers of a CLIP, with its projections, and how that is saved."""

from __future__ import annotations

import copy
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from kit.adapters.card import OPEN
from kit.adapters.lora import add_lora
from kit.adapters.lora_targets import adaptable
from kit.errors import Fault, ModelError, raise_faults
from kit.models.cut import DualEncoderTail
from kit.models.dual_encoder import ClipEncoder
from kit.models.tower_blocks import Blocks, image_blocks, text_blocks

FOLDER = "adapter"
REST = "rest.safetensors"
# Projections that PEFT can wrap. The others are bare matrices, or layers whose kind open_clip asks for at each pass.
_PROJECTIONS = ("visual.head", "text.proj")


_PEFT = f"""That model has the adapter added to its weights. The adapter alone is in `{FOLDER}/`:

```python
# With PEFT, on the model that it was trained on:
import kit
from peft import PeftModel
from safetensors.torch import load_file
base = kit.load_dual_encoder("{{base}}").clip
model = PeftModel.from_pretrained(base, "PATH/{FOLDER}")
# What PEFT has no place for: {{rest}}
base.load_state_dict(load_file("PATH/{FOLDER}/{REST}"), strict=False)
```"""


@dataclass(eq=False)
class AdaptedEncoder(ClipEncoder):
    """A dual encoder with LoRA in its towers.

    Args:
        adapter: PEFT's wrapper around ``clip``.
    """

    adapter: Any = None

    def merged(self) -> ClipEncoder:
        """Return a plain copy with the adapter added to the weights; this one stays as it is."""
        clip = copy.deepcopy(self.adapter).merge_and_unload(safe_merge=True)
        own = {each.name: getattr(self, each.name) for each in dataclasses.fields(ClipEncoder) if each.init}
        return ClipEncoder(**{**own, "clip": clip.eval().requires_grad_(False)})

    def rest(self) -> dict[str, Tensor]:
        """Return what is trained and PEFT has no place for: temperature, bias, open_clip's own projections."""
        return {
            name: parameter.detach().cpu().contiguous()
            for name, parameter in self.clip.named_parameters()
            if parameter.requires_grad and ".lora_" not in name and ".modules_to_save." not in name
        }


def add_clip_lora(encoder: ClipEncoder, *, image: int = 2, text: int = 2, **options: Any) -> AdaptedEncoder:
    """Put LoRA into the top blocks of both towers, in place; it, the projections and the temperature are trained.

    Args:
        encoder: The model. It shares its modules with what is returned, so it computes with the adapter too.
        image: How many of the image tower's top blocks; 0 for none.
        text: How many of the text tower's top layers; 0 for none.
        options: rank, alpha, dropout, dora, rslora, rank_pattern and seed of ``add_lora``.

    Raises:
        ModelError: more blocks than there are, none at all, or what ``add_lora`` refuses.
    """
    clip: Any = encoder.clip
    towers = {
        "image": (image, image_blocks(clip.visual, getattr(clip.visual, "trunk", None))),
        "text": (text, text_blocks(clip)),
    }
    faults = [fault for side, (count, blocks) in towers.items() for fault in _faults(side, count, blocks)]
    if not faults and not image and not text:
        faults.append(Fault("clip_lora", "no block is adapted", "give image or text at least 1"))
    raise_faults(faults, ModelError)
    chosen = [unit for count, blocks in towers.values() for unit in blocks.units[len(blocks.units) - count :]]
    names = {id(module): name for name, module in clip.named_modules()}
    places = tuple(f"{names[id(unit)]}." for unit in chosen)
    bare = [one for one in DualEncoderTail(encoder).parameters(recurse=True) if one.requires_grad]
    whole = [name for name in _PROJECTIONS if _has_parameters(clip, name)]
    targets = [name for name in adaptable(clip) if name.startswith(places)]
    wrapped = add_lora(clip, targets=targets, whole=whole, **options)
    for parameter in bare:
        if not any(parameter is one for name in whole for one in clip.get_submodule(name).parameters()):
            parameter.requires_grad_(True)
    own = {each.name: getattr(encoder, each.name) for each in dataclasses.fields(ClipEncoder) if each.init}
    return AdaptedEncoder(**own, adapter=wrapped)


def write_adapter(folder: Path, encoder: AdaptedEncoder) -> None:
    """Write an adapter as PEFT does, and beside it what PEFT has no place for.

    Args:
        folder: Where to; made when it is missing.
        encoder: The model.
    """
    from safetensors.torch import save_file

    encoder.adapter.save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty form; the bundle has a card
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = encoder.name
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
    save_file(encoder.rest(), folder / REST)
    for path in folder.iterdir():
        path.chmod((folder / "adapter_config.json").stat().st_mode)  # safetensors lets only the owner read


def opening(encoder: AdaptedEncoder) -> str:
    """Return the card's section on opening, as Markdown."""
    return f"{OPEN}\n\n{_PEFT.format(base=encoder.name, rest=', '.join(encoder.rest()))}"


def _faults(side: str, count: int, blocks: Blocks) -> list[Fault]:
    there = len(blocks.units)
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= there:
        fix = "" if there else "its blocks cannot be told apart: give 0, or use add_lora with targets by name"
        return [Fault(f"clip_lora: {side}", f"must be a whole number of 0 to {there} blocks, got {count!r}", fix)]
    return []


def _has_parameters(clip: nn.Module, name: str) -> bool:
    found: Any = clip
    for part in name.split("."):
        found = getattr(found, part, None)
    return isinstance(found, nn.Module) and any(True for _ in found.parameters())

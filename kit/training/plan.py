"""What a training run will need in memory, before its first step."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kit.errors import ModelError
from kit.training.free_memory import free_bytes

# Of every number that a linear layer gives out, so many are kept for the way back: itself, and what norms, rotations,
# activation functions and products make of it. Counted with saved_tensors_hooks on Llama, Qwen2, Gemma 3, CLIP and
# SigLIP: 1.83-2.74 where the layer's own weights are trained, 1.23-1.93 where adapters are (their inputs alone).
KEPT_BY_WEIGHTS = 2.2
KEPT_BY_ADAPTERS = 1.7
# glibc hardly reuses what torch frees, so that a CPU's resident memory grows by more than is in use: 734 MiB for 349
# (LoRA, 6 layers of 384, 2,048 tokens, glibc 2.36), and with activations computed again 488 MiB for 100. Blocks of
# 32 MiB and more, or all of them where this variable is set, have pages of their own; that took 1.7 times the time.
HEAP, HEAP_AGAIN = 2.3, 1.2
OWN_PAGES, ALWAYS_OWN = "MALLOC_MMAP_THRESHOLD_", 32 * 2**20
# Under autocast from float32 norms and the residual stream stay in float32: 0.6 of float32's bytes, not half.
MIXED = 2.4

GIB = 2**30
_ADVICE = {
    "weights": "load them as bfloat16, or take a smaller model",
    "weights cast for autocast": "load the weights as bfloat16, or use precision='no'",
    "gradients": "train fewer parameters: a lower rank, fewer layers or targets",
    "optimiser moments": "train fewer parameters: a lower rank, fewer layers or targets",
    "activations": "raise accumulate, call recompute_activations(model), or make pictures or rows shorter",
    "logits": "raise accumulate, or make answers shorter",
    "pictures": "raise accumulate, or make pictures smaller",
}


@dataclass(frozen=True)
class Load:
    """The largest part of a batch that a run may draw.

    Args:
        rows: Rows in it.
        length: Tokens of its longest row, to which all are padded.
        answers: Answer tokens in it.
        pixels: Numbers in its pictures.
    """

    rows: int
    length: int
    answers: int
    pixels: int = 0


@dataclass(frozen=True)
class Estimate:
    """What a run will need, good to about a factor of two.

    Args:
        items: Bytes by what they are for.
        resident: Bytes of them that are taken already: the weights, once they are loaded.
        free: Bytes that the device has left.
    """

    items: Mapping[str, int]
    resident: int
    free: int

    @property
    def needed(self) -> int:
        """Bytes that training will take beyond those already taken."""
        return sum(self.items.values()) - self.resident

    @property
    def largest(self) -> str:
        """The item that takes most of what is needed; weights that lie there already cannot be lowered."""
        open_items = {name: size for name, size in self.items.items() if name != "weights" or not self.resident}
        return max(open_items, key=lambda name: open_items[name])

    def __str__(self) -> str:
        shown = sorted(self.items.items(), key=lambda item: -item[1])
        parts = ", ".join(f"{name} {size / GIB:.3g}" for name, size in shown if size)
        return f"{self.needed / GIB:.3g} GiB needed, {self.free / GIB:.3g} GiB free ({parts})"


def estimate(model: nn.Module, load: Load, *, precision: str = "no", free: int | None = None) -> Estimate:
    """Return what training ``model`` with AdamW will need.

    Args:
        model: With ``requires_grad`` where it is to be trained; on the "meta" device its weights are still to come.
        load: The largest part of a batch.
        precision: As ``fit`` takes it.
        free: Bytes that the device has left; looked up by default.
    """
    weights = sum(_bytes(parameter) for parameter in model.parameters())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    device = next(model.parameters()).device
    gradients = sum(_bytes(parameter) for parameter in trained)
    carrying = _carrying(model)
    mixed = precision != "no" and _dtype(model) == torch.float32
    cast = sum(2 * parameter.numel() for layer in carrying for parameter in layer.module.parameters()) if mixed else 0
    # PEFT's adapters are float32 on a bfloat16 base too, and keep their inputs so.
    size = MIXED if mixed else max([_dtype(model).itemsize, *(parameter.element_size() for parameter in trained)])
    items = {
        "weights": weights,
        "weights cast for autocast": cast,
        "gradients": gradients,
        "optimiser moments": 2 * gradients,
        "activations": _activations(model, carrying, load, size),
        "logits": _logits(model, load, size),
        "pictures": int(load.pixels * _dtype(model).itemsize),
    }
    resident = 0 if device.type == "meta" else weights
    return Estimate(items, resident, free_bytes(device) if free is None else free)


def require_memory(found: Estimate) -> None:
    """Return when the estimate fits.

    Raises:
        ModelError: it does not; says the estimate, its largest item and what to lower.
    """
    if found.needed > found.free:
        what = f"not enough memory by estimate: {found}; most is for {found.largest}"
        raise ModelError.of("fit", what, f"{_ADVICE[found.largest]}; or pass check_memory=False")


@dataclass(frozen=True)
class _Layer:
    module: nn.Module
    vision: bool
    width: int  # what it hands on
    given: int  # what its linear layers give out together
    trained: bool  # its own weights, not an adapter's


def _layers(model: nn.Module) -> list[_Layer]:
    """Return the transformer layers in the order in which they run: a vision tower's, then a language model's."""
    found: list[_Layer] = []
    stacks: list[str] = []
    for path, module in model.named_modules():
        nested = any(path.startswith(f"{stack}.") for stack in stacks)
        if nested or not isinstance(module, nn.ModuleList) or not all(map(_attends, module)):
            continue
        stacks.append(path)
        found += [_layer(layer, vision="vis" in path) for layer in module]
    return sorted(found, key=lambda layer: not layer.vision)


def _attends(module: nn.Module) -> bool:
    return any("att" in name for name, _ in module.named_children())


def _layer(module: nn.Module, *, vision: bool) -> _Layer:
    linear = [m for name, m in module.named_modules() if isinstance(m, nn.Linear) and "lora_" not in name]
    own = [parameter for one in linear for parameter in one.parameters()]
    given = sum(one.out_features for one in linear)
    return _Layer(module, vision, linear[-1].out_features, given, any(parameter.requires_grad for parameter in own))


def _carrying(model: nn.Module) -> list[_Layer]:
    """Return the layers that gradients run through: from the lowest trained parameter on."""
    layers = _layers(model)
    inside = {id(parameter): place for place, layer in enumerate(layers) for parameter in layer.module.parameters()}
    above = [id(p) for head in _heads(model) for p in head.parameters()]
    first = len(layers)
    language = next((place for place, layer in enumerate(layers) if not layer.vision), 0)
    language += getattr(getattr(model, "config", None), "entry_layer", 0)  # a stitch's picture may enter higher up
    for parameter in model.parameters():
        if parameter.requires_grad and id(parameter) not in above:
            # What is in no layer (a projector, embeddings) feeds the language model.
            first = min(first, inside.get(id(parameter), language))
    return layers[first:]


def _heads(model: nn.Module) -> list[nn.Module]:
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return [head] if isinstance(head, nn.Module) else []


def _activations(model: nn.Module, carrying: list[_Layer], load: Load, size: float) -> int:
    """Return bytes kept for the way back, and those of one layer while it runs."""
    tokens = {False: load.rows * load.length, True: _patches(model, load)}
    again = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    pooled = next(model.parameters()).device.type in {"cpu", "meta"} and OWN_PAGES not in os.environ
    kept = running = 0.0
    for layer in _layers(model):
        running = max(running, size * tokens[layer.vision] * (layer.given + layer.width))
    for layer in carrying:
        entering = size * tokens[layer.vision] * layer.width
        whole = size * tokens[layer.vision] * layer.given * (KEPT_BY_WEIGHTS if layer.trained else KEPT_BY_ADAPTERS)
        if _eager(model) and not layer.vision:
            whole += 2 * size * load.rows * load.length**2 * _heads_of(model)
        heap, heap_again = (HEAP, HEAP_AGAIN) if pooled and entering < ALWAYS_OWN else (1.0, 0.0)
        kept += entering + heap_again * whole if again else heap * whole
        running = max(running, whole + size * tokens[layer.vision] * layer.given) if again else running
    return math.ceil(kept + running)


def _logits(model: nn.Module, load: Load, size: float) -> int:
    """Return bytes of logits at answers: as computed, in float32, their log-softmax and its gradient."""
    vocabulary = max((head.weight.shape[0] for head in _heads(model) if hasattr(head, "weight")), default=0)
    return math.ceil(load.answers * vocabulary * (size + 3 * 4))


def _patches(model: nn.Module, load: Load) -> int:
    """Return how many patches a vision tower sees."""
    config = getattr(getattr(model, "config", None), "vision_config", None)
    patch = getattr(config, "patch_size", None)
    if patch is None:
        return 0
    pair = patch if isinstance(patch, list | tuple) else (patch, patch)
    frames = getattr(config, "temporal_patch_size", 1)  # Qwen's processors repeat a picture to fill a patch
    return math.ceil(load.pixels / (3 * math.prod(pair) * (frames if isinstance(frames, int) else frames[0])))


def _eager(model: nn.Module) -> bool:
    return getattr(getattr(model, "config", None), "_attn_implementation", "sdpa") == "eager"


def _heads_of(model: nn.Module) -> int:
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    return int(getattr(text, "num_attention_heads", 1))


def _bytes(parameter: nn.Parameter) -> int:
    return parameter.numel() * parameter.element_size()


def _dtype(model: nn.Module) -> torch.dtype:
    """Return what most of the model's numbers are."""
    sizes: dict[torch.dtype, int] = {}
    for parameter in model.parameters():
        if parameter.is_floating_point():
            sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.numel()
    return max(sizes, key=lambda dtype: sizes[dtype])

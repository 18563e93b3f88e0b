"""LLaMA-Adapter for pictures: adaption prompts in the top layers, opened by gates that start at zero."""

from __future__ import annotations

from inspect import signature
from typing import Any

from torch import Tensor, nn

from kit.errors import Fault, ModelError, raise_faults
from kit.models.halves import trunk
from kit.models.prompts import PromptedAttention

FILE = "llama_adapter.safetensors"


def add_llama_adapter(
    language: Any, *, layers: int = 12, tokens: int = 4, rank: int = 32, norms: bool = True, seed: int = 0
) -> list[str]:
    """Put adaption prompts into the top layers of a Llama-like model, in place; everything else is frozen.

    Args:
        language: The language model.
        layers: How many of the top layers, 1 to all.
        tokens: Prompts a layer, one per token of a picture.
        rank: Of each layer's map of picture tokens.
        norms: Train the adapted layers' norms too, as LLaMA-Adapter V2 does (arXiv:2304.15010, section 3.1).
        seed: Of the fresh weights.

    Returns:
        The names of the parameters that it trains.

    Raises:
        ModelError: settings out of range, adapted already, or a model whose attention is not Llama's; all at once.
    """
    found = trunk(language).layers
    raise_faults(_faults(found, layers, tokens, rank), ModelError)
    language.requires_grad_(False)
    for number in range(len(found) - layers, len(found)):
        layer = found[number]
        layer.self_attn = PromptedAttention(
            layer.self_attn, tokens=tokens, rank=rank, seed=seed * 1000 + number
        ).to(layer.self_attn.q_proj.weight.device)  # fmt: skip
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.requires_grad_(norms)
    return [name for name, parameter in language.named_parameters() if parameter.requires_grad]


def prompted_layers(language: nn.Module) -> dict[int, PromptedAttention]:
    """Return the layers that have prompts, by number."""
    attentions = {number: getattr(layer, "self_attn", None) for number, layer in enumerate(trunk(language).layers)}
    return {number: one for number, one in attentions.items() if isinstance(one, PromptedAttention)}


def gates(language: nn.Module) -> dict[int, Tensor]:
    """Return how far each layer's gates are open, one number a head, by layer."""
    return {number: layer.opening().detach().cpu() for number, layer in prompted_layers(language).items()}


def _faults(found: Any, layers: int, tokens: int, rank: int) -> list[Fault]:
    asked = {"layers": layers, "tokens": tokens, "rank": rank}
    faults = [
        Fault(f"llama_adapter: {name}", f"must be a whole number of at least 1, got {value!r}")
        for name, value in asked.items()
        if isinstance(value, bool) or not isinstance(value, int) or value < 1
    ]
    wrong = {fault.where.rpartition(" ")[2] for fault in faults}
    if "layers" not in wrong and layers > len(found):
        faults.append(Fault("llama_adapter: layers", f"must be 1 to {len(found)}, got {layers!r}"))
    if any(isinstance(getattr(layer, "self_attn", None), PromptedAttention) for layer in found):
        faults.append(Fault("llama_adapter", "the model has adaption prompts already", "load a fresh one"))
    elif not _is_llamas(found[0]):
        faults.append(
            Fault("llama_adapter", f"{type(found[0]).__name__} is not built as Llama's layers are", "use LoRA")
        )
    elif "rank" not in wrong and rank > (width := found[0].self_attn.q_proj.in_features):
        faults.append(Fault("llama_adapter: rank", f"must be 1 to {width}, the layer's width, got {rank!r}"))
    return faults


def _is_llamas(layer: Any) -> bool:
    """Return whether queries and keys are what the projections give, and whether a layer hands on what it is given."""
    attention = getattr(layer, "self_attn", None)
    projections = ("q_proj", "k_proj", "v_proj", "o_proj")
    if not all(isinstance(getattr(attention, name, None), nn.Linear) for name in projections):
        return False
    hands_on = any(one.kind is one.VAR_KEYWORD for one in signature(layer.forward).parameters.values())
    return hands_on and hasattr(layer, "post_attention_layernorm") and not hasattr(attention, "q_norm")

"""LLaMA-Adapter for pictures: adaption prompts in the top layers, opened by gates that start at zero."""

from __future__ import annotations

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
    faults = []
    if not 1 <= layers <= len(found):
        faults.append(Fault("llama_adapter: layers", f"must be 1 to {len(found)}, got {layers!r}"))
    width = min(found[0].self_attn.q_proj.weight.shape) if hasattr(found[0].self_attn, "q_proj") else None
    if any(isinstance(layer.self_attn, PromptedAttention) for layer in found):
        faults.append(Fault("llama_adapter", "the model has adaption prompts already", "load a fresh one"))
    elif width is None or not hasattr(found[0], "post_attention_layernorm"):
        faults.append(Fault("llama_adapter", f"{type(found[0]).__name__} is not built as Llama's layers are"))
    elif not 1 <= rank <= width:
        faults.append(Fault("llama_adapter: rank", f"must be 1 to {width}, the layer's width, got {rank!r}"))
    if tokens < 1:
        faults.append(Fault("llama_adapter: tokens", f"must be at least 1, got {tokens!r}"))
    return faults

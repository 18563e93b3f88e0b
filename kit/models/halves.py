"""A language model in two: layers below a cut, and layers above it. Both share the model's own modules.

Each half runs as the model's own architecture runs it (Llama, Qwen, Mistral and others): it is the model's trunk with
some of its layers left out, so masks, rotary embeddings and caches stay transformers' business.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kit.errors import ModelError

# From hidden states (b, t, width), a mask of what may be looked at (b, past + t) and a cache, to hidden states.
Half = Callable[[Tensor, Tensor, Any], Tensor]


def trunk(language: Any) -> Any:
    """Return a causal language model's decoder: embeddings, layers and last norm; PEFT's wrapping is looked through.

    Raises:
        ModelError: it has no run of decoder layers.
    """
    inner = language.get_base_model() if hasattr(language, "get_base_model") else language
    found = inner.get_decoder() if hasattr(inner, "get_decoder") else inner
    if not isinstance(getattr(found, "layers", None), nn.ModuleList) or not hasattr(found, "norm"):
        raise ModelError.of(type(inner).__name__, "has no decoder layers that a picture could enter at")
    return found


def lower(language: Any, cut: int) -> Half:
    """Return the layers below ``cut``, without the last norm."""
    half = _half(trunk(language), slice(0, cut))
    half.norm = nn.Identity()
    return _running(half)


def upper(language: Any, cut: int) -> Half:
    """Return the layers from ``cut`` on, with the last norm."""
    return _running(_half(trunk(language), slice(cut, None)))


def check_cut(language: Any, cut: int) -> None:
    """Try on a few tokens that both halves together are the model.

    Some architectures do more than run their layers (Gemma scales embeddings, others add layers' own inputs).

    Raises:
        ModelError: they are not, so nothing can enter between them.
    """
    ids = torch.arange(8, device=language.device)[None]
    seen = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        whole = trunk(language)(input_ids=ids).last_hidden_state
        middle = lower(language, cut)(language.get_input_embeddings()(ids), seen, None)
        halves = upper(language, cut)(middle, seen, None)
    if not torch.allclose(halves, whole, rtol=1e-2, atol=1e-2 * float(whole.abs().max())):
        what = f"computes something else when it is cut at layer {cut}"
        raise ModelError.of(type(language).__name__, what, "let the picture enter at layer 0")


def positions(mask: Tensor) -> Tensor:
    """Return each place's position among those that may be looked at, shape (b, t); 0 before the first."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def _half(whole: Any, kept: slice) -> Any:
    half = copy.copy(whole)
    half._modules = dict(whole._modules)
    half.layers = nn.ModuleList(list(whole.layers)[kept])
    return half


def _running(half: Any) -> Half:
    def run(hidden: Tensor, mask: Tensor, past: Any) -> Tensor:
        t, total = hidden.shape[1], mask.shape[1]
        seen = mask[:, None, :] & torch.ones(t, total, dtype=torch.bool, device=mask.device).tril(total - t)
        # The least number, not minus infinity: a place that sees nothing (padding) must have a softmax.
        added = torch.zeros(seen.shape, dtype=hidden.dtype, device=mask.device)
        added = added.masked_fill_(~seen, torch.finfo(hidden.dtype).min)[:, None]
        out: Tensor = half(
            inputs_embeds=hidden,
            attention_mask=added,
            position_ids=positions(mask)[:, total - t :],
            past_key_values=past,
            use_cache=past is not None,
        ).last_hidden_state
        return out

    return run

"""A language model in two: layers below a cut, and layers above it. Both share the model's own modules.

Each half runs as the model's own architecture runs it (Llama, Qwen, Mistral and others): it is the model's trunk with
some of its layers left out, so masks, rotary embeddings and caches stay transformers' business.
"""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kit.errors import ModelError


class Half(Protocol):
    """Some of a decoder's layers."""

    def __call__(self, hidden: Tensor, mask: Tensor, past: Any = None, **more: Any) -> Tensor:
        """Return hidden states (b, t, width) for such.

        Args:
            hidden: Shape (b, t, width).
            mask: What may be looked at, past ones included, shape (b, past + t), bool.
            past: The cache.
            more: What the layers are given beside these.
        """


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
    """Return the layers below ``cut``, without the last norm; nothing changes what enters where ``cut`` is 0."""
    if not cut:
        return _unchanged
    half = _half(trunk(language), slice(0, cut))
    half.norm = nn.Identity()
    return _running(half)


def upper(language: Any, cut: int) -> Half:
    """Return the layers from ``cut`` on, with the last norm."""
    return _running(_half(trunk(language), slice(cut, None)))


def check_cut(language: Any, cut: int) -> None:
    """Try on a few tokens that both halves and the output layer together are the model.

    Some architectures do more than run their layers: Granite scales what enters, and its logits; Cohere scales
    logits, too; Gemma 2 bounds them.

    Raises:
        ModelError: they are not, so a picture cannot enter there.
    """
    if _is_sum_of_halves(language, cut):
        return
    fix = "name another language model"
    if cut and _is_sum_of_halves(language, 0):
        fix = "let the picture enter at layer 0"
    what = f"computes more than its layers and its output layer do, cut at layer {cut}"
    raise ModelError.of(type(language).__name__, what, fix)


@torch.no_grad()
def _is_sum_of_halves(language: Any, cut: int) -> bool:
    ids = torch.arange(8, device=language.device)[None]
    seen = torch.ones_like(ids, dtype=torch.bool)
    whole = language(input_ids=ids).logits.float()
    middle = lower(language, cut)(language.get_input_embeddings()(ids), seen)
    halves = language.get_output_embeddings()(upper(language, cut)(middle, seen)).float()
    rough = language.dtype != torch.float32  # bfloat16's numbers have eight bits
    return bool((halves - whole).norm() < (3e-2 if rough else 1e-4) * whole.norm())


def positions(mask: Tensor) -> Tensor:
    """Return each place's position among those that may be looked at, shape (b, t); 0 before the first."""
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def cache_name(model: Any) -> str:
    """Return what a model calls the keys and values that came before: ``cache`` from transformers 5.24 on."""
    named = inspect.signature(type(model).forward).parameters
    return "cache" if "cache" in named else "past_key_values"


def _unchanged(hidden: Tensor, mask: Tensor, past: Any = None, **more: Any) -> Tensor:  # noqa: ARG001 - a Half
    return hidden


def _half(whole: Any, kept: slice) -> Any:
    half = copy.copy(whole)
    half._modules = dict(whole._modules)
    half.layers = nn.ModuleList(list(whole.layers)[kept])
    if getattr(whole.config, "layer_types", None):  # looked up by a layer's place among those that are run
        half.config = copy.copy(whole.config)
        half.config.layer_types = list(whole.config.layer_types)[kept]
    return half


def _window(config: Any) -> float:
    """Return how many tokens a model's layers look back over, where some do not look at all."""
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    return window if window and (kinds is None or "sliding_attention" in kinds) else math.inf


def _running(half: Any) -> Half:
    window, cache = _window(half.config), cache_name(half)

    def run(hidden: Tensor, mask: Tensor, past: Any = None, **more: Any) -> Tensor:
        t, total = hidden.shape[1], mask.shape[1]
        if total > window:  # transformers takes a ready mask as it is
            what = f"looks back over {window} tokens, and a text has {total}"
            raise ModelError.of(type(half).__name__, what, "shorten it, or name another language model")
        seen = mask[:, None, :] & torch.ones(t, total, dtype=torch.bool, device=mask.device).tril(total - t)
        # The least number, not minus infinity: a place that sees nothing (padding) must have a softmax.
        added = torch.zeros(seen.shape, dtype=hidden.dtype, device=mask.device)
        added = added.masked_fill_(~seen, torch.finfo(hidden.dtype).min)[:, None]
        out: Tensor = half(
            inputs_embeds=hidden,
            attention_mask=added,
            position_ids=positions(mask)[:, total - t :],
            use_cache=past is not None,
            **{cache: past},
            **more,
        ).last_hidden_state
        return out

    return run

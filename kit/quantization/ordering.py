"""Channels in the order of their size, so that those that share a scale are alike.

Blocks of 32 neighbouring channels share one scale: those of weights, and while onnxruntime multiplies, those of what is
multiplied by them. One large channel takes the levels of the 31 beside it. Which channels are neighbours is free: a
residual stream may be permuted as a whole, and a layer's inner channels on their own, and the model computes what it
did. SmolLM2-135M with a merged adapter lost 1.2 and 2.3% of its perplexity in 8 bits, calibrated on one and another
sample of text and rows; with its channels in order 0.1 and 0.1% (3,711 tokens).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from kit.models.halves import trunk
from kit.quantization.moments import Moments


@dataclass(frozen=True)
class Order:
    """Which channel stands where.

    Args:
        hidden: Of the residual stream, shape (width,).
        inner: Of each layer's channels between up and down, shape (inner,), by layer.
    """

    hidden: Tensor
    inner: Mapping[int, Tensor]


@dataclass(frozen=True)
class Laid:
    """One layer's numbers, in an order.

    Args:
        gains: Of the norm before attention, and of the one after it, shape (width,).
        matrices: By kind ("qkv", "o", "gate_up", "down"), shape (out, in).
        moments: Second moments of what each reads, shape (in, in); None where they are not known.
    """

    gains: tuple[Tensor, Tensor]
    matrices: Mapping[str, Tensor]
    moments: Mapping[str, Tensor | None]


def order_of(language: Any, moments: Moments) -> Order:
    """Return the order in which what the matrices read grows from channel to channel.

    Args:
        language: A plain causal language model of Llama's kind.
        moments: From ``kit.quantization.moments``; channels stay where they are without.
    """
    whole = trunk(language)
    layers = range(len(whole.layers))
    if not moments:
        inner = torch.arange(whole.config.intermediate_size)
        return Order(torch.arange(whole.config.hidden_size), MappingProxyType(dict.fromkeys(layers, inner)))
    # The stream has one order for all that read it; each reads it through a norm's gain of its own.
    read = [_log_size(moments[number, kind]) for number in layers for kind in ("qkv", "gate_up")]
    inner = {number: _log_size(moments[number, "down"]).argsort() for number in layers}
    return Order(reduce(torch.add, read).argsort(), MappingProxyType(inner))


def laid_out(language: Any, number: int, order: Order, moments: Moments) -> Laid:
    """Return a layer's numbers in an order; query, key and value are one matrix, gate and up another."""
    layer, hidden, inner = trunk(language).layers[number], order.hidden, order.inner[number]
    attention, mlp = layer.self_attn, layer.mlp
    together = torch.cat([one.weight for one in (attention.q_proj, attention.k_proj, attention.v_proj)])
    both = torch.cat([mlp.gate_proj.weight[inner], mlp.up_proj.weight[inner]])
    reads = {"qkv": hidden, "gate_up": hidden, "down": inner}
    known = {kind: moments.get((number, kind)) for kind in ("qkv", "o", "gate_up", "down")}
    return Laid(
        gains=(layer.input_layernorm.weight[hidden], layer.post_attention_layernorm.weight[hidden]),
        matrices={
            "qkv": together[:, hidden], "o": attention.o_proj.weight[hidden], "gate_up": both[:, hidden],
            "down": mlp.down_proj.weight[hidden][:, inner],
        },
        moments={kind: _turned(one, reads.get(kind)) for kind, one in known.items()},
    )  # fmt: skip


def _turned(moments: Tensor | None, order: Tensor | None) -> Tensor | None:
    return moments if moments is None or order is None else moments[order][:, order]


def _log_size(moments: Tensor) -> Tensor:
    return moments.diag().clamp(min=1e-12).log()

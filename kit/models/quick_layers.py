"""Llama's decoder layers for training small adapters: the same mathematics in fewer and larger kernels.

Frozen matrices that read the same input are multiplied as one (query, key and value; gate and up), LoRA branches
likewise, and rows that share a prefix (several questions about one picture) compute it once. Parameters that are
trained are those of the model itself, so training these layers trains the model.

Measured on two cores with AVX512-BF16, SmolLM2-135M's top 8 layers, LoRA of rank 16 on all seven matrices, 150
questions about 16 pictures: see ``notebooks/bench_adapter_training.ipynb``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit.models.prompts import PromptedAttention

# Tokens are padded to a multiple of this. For each new shape oneDNN compiles a kernel and keeps it with its memory:
# 50 MB a step where every step had a token more or less.
STEP = 64


@dataclass(frozen=True)
class Shared:
    """Where the tokens of a batch lie: p prefixes of s slots, then the tokens of q rows, each on one prefix.

    Args:
        slots: Which prefix slots hold something, shape (p, s), bool.
        prefix: Each row's prefix, shape (q,).
        places: Each row's tokens as places among all rows' tokens, padded to the longest, shape (q, t).
        valid: Which of these are tokens, shape (q, t), bool.
        tokens: Where in the padded rows each token lies, shape (n,); the inverse of ``places``.
        positions: Each token's position in its sequence, prefix slots first, shape (p * s + n,).
    """

    slots: Tensor
    prefix: Tensor
    places: Tensor
    valid: Tensor
    tokens: Tensor
    positions: Tensor

    def prefix_mask(self, dtype: torch.dtype) -> Tensor:
        """Return what is added to attention scores among prefix slots, shape (p, 1, s, s)."""
        size = self.slots.shape[1]
        seen = self.slots[:, None, :] & torch.ones(size, size, dtype=torch.bool, device=self.slots.device).tril()
        # A slot that holds nothing sees itself, since a row of scores that are all minus infinity has no softmax.
        return _added(seen | torch.eye(size, dtype=torch.bool, device=seen.device), dtype)[:, None]

    def row_mask(self, dtype: torch.dtype) -> Tensor:
        """Return what is added to the scores of rows' tokens over prefix slots and own tokens, (q, 1, t, s + t)."""
        size = self.valid.shape[1]
        own = self.valid[:, None, :] & torch.ones(size, size, dtype=torch.bool, device=self.valid.device).tril()
        own = own | torch.eye(size, dtype=torch.bool, device=own.device)
        return _added(torch.cat([self.slots[self.prefix][:, None, :].expand(-1, size, -1), own], -1), dtype)[:, None]


def _added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))


class QuickLayers:
    """A run of decoder layers, computed quickly.

    Args:
        layers: ``LlamaDecoderLayer`` modules, with or without PEFT's LoRA in them.
        rotary: The model's rotary embedding.
        config: The language model's configuration.
        dtype: What to compute in: float32, or bfloat16.
        norm: The model's last norm.
    """

    def __init__(
        self, layers: list[nn.Module], rotary: nn.Module, config: Any, dtype: torch.dtype, *, norm: Any
    ) -> None:
        self.last, self.eps = norm, config.rms_norm_eps
        self.layers = [QuickLayer(layer, config, dtype) for layer in layers]
        self.rotary = rotary
        self.dtype = dtype

    def __call__(self, hidden: Tensor, shared: Shared, kept: Tensor, pictures: Tensor | None = None) -> Tensor:
        """Return the last layer's output, normed, at some of the rows' tokens, shape (len(kept), width).

        Args:
            hidden: Prefix slots, then rows' tokens, below the first layer; shape (p * s + n, width).
            shared: Where they lie.
            kept: Which of the rows' tokens are asked for. The last layer computes keys and values for all, and
                everything else for these.
            pictures: For layers with adaption prompts: picture tokens of each prefix, shape (p, m, width).
        """
        spare = -len(hidden) % STEP
        hidden = F.pad(hidden, (0, 0, 0, spare))
        cos, sin = self.rotary(hidden, F.pad(shared.positions, (0, spare))[None])
        around = _Around(
            shared,
            (cos[0, :, None].to(self.dtype), sin[0, :, None].to(self.dtype)),
            shared.prefix_mask(self.dtype),
            shared.row_mask(self.dtype),
            pictures,
        )
        hidden = hidden.to(self.dtype)
        for layer in self.layers[:-1]:
            hidden = layer(hidden, around)
        out = self.layers[-1](hidden, around, F.pad(kept, (0, -len(kept) % STEP)))[: len(kept)]
        weight = self.last.weight.to(self.dtype)
        return F.rms_norm(out, weight.shape, weight, self.eps)


@dataclass(frozen=True)
class _Around:
    """What every layer of a batch is given beside hidden states."""

    shared: Shared
    turn: tuple[Tensor, Tensor]
    prefix_mask: Tensor
    row_mask: Tensor
    pictures: Tensor | None


class QuickLayer:
    """One decoder layer."""

    def __init__(self, layer: Any, config: Any, dtype: torch.dtype) -> None:
        attention = layer.self_attn
        self.prompted = attention if isinstance(attention, PromptedAttention) else None
        attention = attention.attention if self.prompted is not None else attention
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.width = attention.head_dim
        self.norms = layer.input_layernorm, layer.post_attention_layernorm
        self.eps = config.rms_norm_eps
        self.qkv = _Fused([attention.q_proj, attention.k_proj, attention.v_proj], dtype)
        self.out = _Fused([attention.o_proj], dtype)
        self.gate_up = _Fused([layer.mlp.gate_proj, layer.mlp.up_proj], dtype)
        self.down = _Fused([layer.mlp.down_proj], dtype)

    def __call__(self, x: Tensor, around: _Around, kept: Tensor | None = None) -> Tensor:
        """Return the layer's output, shape (p * s + n, width), or (len(kept), width)."""
        mixed = self._attend(self._norm(x, 0), around)
        if kept is not None:
            places = kept + around.shared.slots.numel()
            x, mixed = x[places], mixed[places]
        x = x + self.out(mixed)
        gate, up = self.gate_up(self._norm(x, 1)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)

    def _norm(self, x: Tensor, which: int) -> Tensor:
        weight = self.norms[which].weight.to(x.dtype)
        return F.rms_norm(x, weight.shape, weight, self.eps)

    def _attend(self, x: Tensor, around: _Around) -> Tensor:
        cos, sin = around.turn
        shared, turned = around.shared, self.heads + self.groups
        qkv = self.qkv(x).view(len(x), -1, self.width)
        one, two = qkv[:, :turned].chunk(2, -1)
        flat = qkv[:, :turned] * cos + torch.cat([-two, one], -1) * sin
        count, slots = shared.slots.shape
        ahead = count * slots

        def apart(part: Tensor) -> tuple[Tensor, Tensor]:
            return part[:ahead].view(count, slots, -1, self.width), part[ahead:][shared.places]

        (q, own_q), (k, own_k), (v, own_v) = map(apart, (flat[:, : self.heads], flat[:, self.heads :], qkv[:, turned:]))
        above = self._mix(q, k, v, around.prefix_mask)
        keys, values = torch.cat([k[shared.prefix], own_k], 1), torch.cat([v[shared.prefix], own_v], 1)
        rows = self._mix(own_q, keys, values, around.row_mask)
        if self.prompted is not None:
            straight, own_straight = apart(qkv[:, : self.heads])
            k, v = self._prompts(around.pictures, count)
            gate = self.prompted.opening()[:, None].to(x.dtype)
            above = above + self._mix(straight, k, v) * gate
            rows = rows + self._mix(own_straight, k[shared.prefix], v[shared.prefix]) * gate
        rows = rows.flatten(0, 1)[shared.tokens]
        spare = x.new_zeros(len(x) - ahead - len(rows), self.heads * self.width)
        return torch.cat([above.flatten(0, 1).flatten(1), rows.flatten(1), spare])

    def _prompts(self, pictures: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of the prompts of so many pictures, each of shape (p, m, groups, width)."""
        assert self.prompted is not None  # noqa: S101  # asked by _attend
        prompts = self.prompted.prompts(pictures).to(self.qkv.weight.dtype).expand(count, -1, -1)
        start = self.heads * self.width
        both = F.linear(prompts, self.qkv.weight[start:], None if self.qkv.bias is None else self.qkv.bias[start:])
        keys, values = both.view(*prompts.shape[:2], 2 * self.groups, self.width).chunk(2, 2)
        return keys, values

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | float = 0.0) -> Tensor:
        """Return attention's output, shape (b, t, heads, width); queries of one group of heads share a product.

        For rows of a dozen tokens torch's fused attention spends its time between products: 77 ms forward and back
        in bfloat16 for 160 questions of 12 tokens on two cores, against 8 ms for this.
        """
        count, t, s = len(q), q.shape[1], k.shape[1]
        q = (
            q.view(count, t, self.groups, -1, self.width)
            .permute(0, 2, 3, 1, 4)
            .reshape(count * self.groups, -1, self.width)
        )
        k, v = (part.transpose(1, 2).reshape(count * self.groups, s, self.width) for part in (k, v))
        scores = torch.bmm(q, k.transpose(1, 2)).view(count, self.heads, t, s) * self.width**-0.5 + mask
        weights = scores.softmax(-1, dtype=torch.float32).to(v.dtype).view(count * self.groups, -1, s)
        mixed = torch.bmm(weights, v).view(count, self.groups, -1, t, self.width)
        return mixed.permute(0, 3, 1, 2, 4).reshape(count, t, self.heads, self.width)


class _Fused:
    """Linear layers that read the same input, as one; LoRA branches as one more."""

    def __init__(self, layers: list[Any], dtype: torch.dtype) -> None:
        plain = [getattr(layer, "base_layer", layer) for layer in layers]
        self.weight = torch.cat([layer.weight.detach() for layer in plain]).to(dtype)
        self.bias = torch.cat([layer.bias.detach() for layer in plain]).to(dtype) if plain[0].bias is not None else None
        self.sizes = [layer.out_features for layer in plain]
        self.branches = [
            _Branch(number, layer, name)
            for number, layer in enumerate(layers)
            for name in getattr(layer, "active_adapters", ())
            if name in layer.lora_A
        ]

    def __call__(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        on = [branch for branch in self.branches if not branch.layer.disable_adapters]
        if not on:
            return y
        down = torch.cat([branch.layer.lora_A[branch.name].weight for branch in on]).to(x.dtype)
        return y + F.linear(F.linear(x, down), self._up(on).to(x.dtype))

    def _up(self, branches: list[_Branch]) -> Tensor:
        if len(self.sizes) == 1:
            return torch.cat([branch.up() for branch in branches], 1)
        blocks, start = [], 0
        total = sum(branch.rank for branch in branches)
        for number, size in enumerate(self.sizes):
            mine = [branch for branch in branches if branch.number == number]
            rank = sum(branch.rank for branch in mine)
            block = torch.cat([branch.up() for branch in mine], 1) if mine else branches[0].up().new_zeros(size, 0)
            blocks.append(F.pad(block, (start, total - start - rank)))
            start += rank
        return torch.cat(blocks)


@dataclass(frozen=True)
class _Branch:
    """One adapter of one of the layers that are computed as one."""

    number: int
    layer: Any
    name: str

    @property
    def rank(self) -> int:
        return int(self.layer.lora_A[self.name].weight.shape[0])

    def up(self) -> Tensor:
        """Return B, scaled as PEFT scales it, shape (out, rank)."""
        scaled: Tensor = self.layer.lora_B[self.name].weight * self.layer.scaling[self.name]
        return scaled


class FrozenHead(torch.autograd.Function):
    """Cross-entropy of each label under a frozen output layer, without ever holding logits for the backward pass.

    The gradient with respect to the hidden states is computed on the way forward, a block of positions at a time,
    as in Wijmans et al. (2024), arXiv:2411.09009: the logits of 350 answer positions over 49,152 tokens
    alone take 69 MB in float32, and each of autograd's passes over them costs as much as an adapted layer.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, block: int = 128) -> Tensor:
        """Return nats, shape (n,), float32, for hidden (n, width), weight (vocabulary, width) and labels (n,)."""
        gradient = torch.empty_like(hidden)
        nats = hidden.new_empty(len(hidden), dtype=torch.float32)
        # Written into again for each block: fresh memory of this size costs the CPU as much as the product.
        block = min(block, -(-len(hidden) // STEP) * STEP)
        padded = hidden.new_zeros(block, hidden.shape[1])
        rough = hidden.new_empty(block, len(weight))
        logits = rough.new_empty(rough.shape, dtype=torch.float32)
        for part in range(0, len(hidden), block):
            here, wanted = hidden[part : part + block], labels[part : part + block]
            padded[: len(here)] = here
            logits.copy_(torch.mm(padded, weight.T, out=rough))
            most = logits.amax(-1, keepdim=True)
            scores = logits[: len(here)].gather(1, wanted[:, None])
            mass = logits.sub_(most).exp_().sum(-1, keepdim=True)
            nats[part : part + block] = ((mass.log() + most)[: len(here)] - scores)[:, 0]
            logits.div_(mass)[: len(here)].scatter_add_(1, wanted[:, None], -torch.ones_like(scores))
            rough.copy_(logits)  # the wanted token is subtracted before rounding: p - 1 is small when p is near 1
            gradient[part : part + block] = torch.mm(rough, weight)[: len(here)]
        ctx.save_for_backward(gradient)
        return nats

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient with respect to the hidden states: each row's, times what comes in for its label."""
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0][:, None].to(gradient.dtype), None, None, None

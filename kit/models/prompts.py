"""Zero-initialised gated attention to adaption prompts, for pictures: LLaMA-Adapter's layer.

Source:
    Zhang et al. (2023), arXiv:2303.16199, sections 3.2 and 3.3. Here a query asks the prompts without its rotary
    turn, so that a prompt is as near to the last token as to the first, and each layer maps the picture's tokens
    by a low-rank matrix of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kit.errors import ModelError


class PromptedAttention(nn.Module):
    """A frozen attention that also looks at prompts: its own, each plus what it makes of a picture's token.

    With the gate at 0, where it starts, it is the frozen attention.

    Args:
        attention: Llama's attention, frozen.
        tokens: Prompts, one per token of a picture.
        rank: Of the layer's own map of picture tokens.
        seed: Of the fresh weights.
    """

    def __init__(self, attention: Any, *, tokens: int, rank: int, seed: int) -> None:
        super().__init__()
        self.attention = attention
        width, heads = attention.q_proj.in_features, attention.config.num_attention_heads
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.static = nn.Parameter(torch.randn(tokens, width) * 0.02)
            self.down = nn.Parameter(torch.randn(rank, width) * width**-0.5)
        self.up = nn.Parameter(torch.zeros(width, rank))
        self.gate = nn.Parameter(torch.zeros(heads))
        self.train(attention.training)

    def prompts(self, pictures: Tensor | None) -> Tensor:
        """Return the prompts of pictures, shape (b, tokens, width), zeros where a row has none; None for no picture.

        Raises:
            ModelError: pictures of another number of tokens.
        """
        static = self.static
        pictures = torch.zeros_like(static)[None] if pictures is None else pictures
        if pictures.shape[1] != len(static):
            what = f"has {len(static)} prompts a layer, and a picture has {pictures.shape[1]} tokens"
            raise ModelError.of("llama_adapter", what, f"add it with tokens={pictures.shape[1]}")
        pictures = pictures.to(static.dtype)
        return pictures + static + F.linear(F.linear(pictures, self.down), self.up)

    def opening(self) -> Tensor:
        """Return how far each head's gate is open, shape (heads,), between -1 and 1."""
        return self.gate.tanh()

    def forward(self, hidden_states: Tensor, *, shown: Tensor | None = None, **rest: Any) -> tuple[Tensor, ...]:
        """Return what the frozen attention returns, with the prompts' share added.

        Args:
            hidden_states: Shape (b, t, width).
            shown: Pictures' tokens, one entry per row, shape (b, tokens, width), zeros where a row has none; None for
                no picture. The decoder hands it through to its layers, so that it is there again when activations
                are computed again.
            rest: What the frozen attention takes.
        """
        out, *others = self.attention(hidden_states=hidden_states, **rest)
        frozen = self.attention
        batch, t, _ = hidden_states.shape
        prompts = self.prompts(shown).to(hidden_states.dtype).expand(batch, -1, -1)
        split = (batch, -1, frozen.q_proj.out_features // len(self.gate))
        q = frozen.q_proj(hidden_states).view(batch, t, -1, split[2]).transpose(1, 2)
        k, v = (proj(prompts).view(batch, prompts.shape[1], -1, split[2]) for proj in (frozen.k_proj, frozen.v_proj))
        extra = F.scaled_dot_product_attention(q, k.transpose(1, 2), v.transpose(1, 2), enable_gqa=True)
        extra = extra * self.opening()[:, None, None].to(extra.dtype)
        return out + _times(frozen.o_proj, extra.transpose(1, 2).flatten(2)), *others


def _times(layer: Any, values: Tensor) -> Tensor:
    """Return values times a frozen layer's matrix, without its bias, which is added elsewhere already."""
    base = getattr(layer, "base_layer", layer)
    if type(base.weight) in {nn.Parameter, Tensor}:
        return F.linear(values, base.weight)
    out: Tensor = base(values)  # a quantised layer alone knows what its weights mean
    return out if base.bias is None else out - base.bias

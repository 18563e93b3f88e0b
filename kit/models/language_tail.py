"""What is trained above the cut of a stitched model: projector and adapters, on activations of everything below."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kit.models.halves import trunk, upper
from kit.models.language_cut import LanguageCut
from kit.models.packs import Batch
from kit.models.prompts import PromptedAttention, showing
from kit.models.quick_layers import QuickLayers, Shared


class LanguageTail(nn.Module):
    """The model above its cut, with the model's own trained parameters.

    Args:
        cut: Where the model is cut, and its adapters on it.
        dtype: What frozen matrices are multiplied in: float32, or bfloat16 where the machine is quick with it.
    """

    def __init__(self, cut: LanguageCut, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        model = cut.model.model
        language, config = model.language_model, trunk(model.language_model).config
        self.projector = model.projector
        self.prompted = bool(model.config.prompted)
        self.slots = 0 if self.prompted else cut.model.processor.image_tokens
        # Parameters of the model itself: what is trained here is trained there.
        self.adapters = nn.ParameterDict(
            {name.replace(".", "/"): one for name, one in language.named_parameters() if one.requires_grad}
        )
        layers = list(trunk(language).layers)[cut.cut :]
        above: Any = PlainLayers(language, cut.cut, dtype)
        if quick_fits(language, layers):
            above = QuickLayers(layers, trunk(language).rotary_emb, config, dtype, norm=trunk(language).norm)
        self._frozen = [above, language.get_output_embeddings().weight.detach().to(dtype)]

    @property
    def quick(self) -> bool:
        """Whether the layers are computed by ``QuickLayers``."""
        return isinstance(self._frozen[0], QuickLayers)

    @property
    def head(self) -> Tensor:
        """The frozen output layer, shape (vocabulary, width)."""
        weight: Tensor = self._frozen[1]
        return weight

    def forward(self, batch: Batch) -> Tensor:
        """Return the last hidden states, normed, where a next token is asked; shape (k, width)."""
        shared = batch.shared(self.slots)
        opening = batch.opening[None].expand(len(batch.pictured), -1, -1)
        pictures = self.projector(batch.features) * batch.pictured[:, None, None]
        ahead = opening if self.prompted else torch.cat([opening, pictures.to(opening.dtype)], 1)
        hidden = torch.cat([ahead.flatten(0, 1), batch.hidden])
        out: Tensor = self._frozen[0](hidden, shared, batch.kept, pictures if self.prompted else None)
        return out


class PlainLayers:
    """The layers above the cut as their own architecture runs them: any language model, any adapter, no sharing.

    Args:
        language: The language model.
        cut: The first layer.
        dtype: Under autocast where it is bfloat16.
    """

    def __init__(self, language: Any, cut: int, dtype: torch.dtype) -> None:
        self.language, self.run, self.dtype = language, upper(language, cut), dtype

    def __call__(self, hidden: Tensor, shared: Shared, kept: Tensor, pictures: Tensor | None = None) -> Tensor:
        """Return what ``QuickLayers`` returns, and the same numbers."""
        count, slots = shared.slots.shape
        ahead = hidden[: count * slots].view(count, slots, -1)[shared.prefix]
        rows = torch.cat([ahead, hidden[count * slots :][shared.places]], 1)
        mask = torch.cat([shared.slots[shared.prefix], shared.valid], 1)
        about = None if pictures is None else pictures[shared.prefix]
        everyone = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        with (
            showing(self.language, about, everyone),
            torch.autocast(rows.device.type, self.dtype, enabled=self.dtype != torch.float32),
        ):
            out = self.run(rows, mask, None)[:, slots:]
        return out.flatten(0, 1)[shared.tokens][kept].to(self.dtype)


def quick_fits(language: Any, layers: list[Any]) -> bool:
    """Return whether ``QuickLayers`` computes what these layers do: Llama's own, bare, prompted or with plain LoRA."""
    if trunk(language).config.model_type != "llama":
        return False
    for layer in layers:
        attention = layer.self_attn
        attention = attention.attention if isinstance(attention, PromptedAttention) else attention
        for linear in (
            attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
            layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj,
        ):  # fmt: skip
            if not (type(linear) is nn.Linear or _plain_lora(linear)):
                return False
    return True


def _plain_lora(linear: Any) -> bool:
    from peft.tuners.lora import Linear

    if type(linear) is not Linear or type(linear.base_layer) is not nn.Linear or linear.merged:
        return False
    return not any(
        getattr(linear, "use_dora", {}).get(name)
        or not isinstance(linear.lora_dropout[name], nn.Identity)
        or linear.lora_bias.get(name, False)
        or linear.base_layer.weight.requires_grad
        for name in linear.active_adapters
        if name in linear.lora_A
    )

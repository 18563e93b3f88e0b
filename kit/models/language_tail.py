"""What is trained above the cut of a stitched model: projector and adapters, on activations of everything below."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from kit.models.dual_encoder import tensors_digest
from kit.models.halves import trunk, upper
from kit.models.language_cut import LanguageCut
from kit.models.packs import Batch
from kit.models.prompts import PromptedAttention
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
        head = language.get_output_embeddings().weight.detach().to(dtype)
        # In a list, so that they are no part of this module: they are the model's, and frozen.
        self._frozen = [above, head, layers]
        self.register_buffer("identity", _identity(language, layers, head))

    def train(self, mode: bool = True) -> LanguageTail:
        """Put the layers above the cut into training mode too, for the dropout of their adapters."""
        for layer in self._frozen[2]:
            layer.train(mode)
        return super().train(mode)

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
        self.run, self.dtype, self.weights = upper(language, cut), dtype, trunk(language).dtype

    def __call__(self, hidden: Tensor, shared: Shared, kept: Tensor, pictures: Tensor | None = None) -> Tensor:
        """Return what ``QuickLayers`` returns, and the same numbers."""
        count, slots = shared.slots.shape
        ahead = hidden[: count * slots].view(count, slots, -1)[shared.prefix]
        rows = torch.cat([ahead, hidden[count * slots :][shared.places]], 1)
        mask = torch.cat([shared.slots[shared.prefix], shared.valid], 1)
        more = {} if pictures is None else {"shown": pictures[shared.prefix]}
        with torch.autocast(rows.device.type, self.dtype, enabled=self.dtype != torch.float32):
            out = self.run(rows.to(self.weights), mask, **more)[:, slots:]
        return out.flatten(0, 1)[shared.tokens][kept].to(self.dtype)


def quick_fits(language: Any, layers: list[Any]) -> bool:
    """Return whether ``QuickLayers`` computes what these layers do: Llama's own, bare, prompted or with plain LoRA."""
    config = trunk(language).config
    if config.model_type != "llama" or config.hidden_act != "silu" or config.attention_dropout:
        return False
    for layer in layers:
        attention = layer.self_attn
        attention = attention.attention if isinstance(attention, PromptedAttention) else attention
        for linear in (
            attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj,
            layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj,
        ):  # fmt: skip
            if not (_frozen_linear(linear) or _plain_lora(linear)):
                return False
    return True


def _frozen_linear(linear: Any) -> bool:
    # torchao leaves the layer as it is and exchanges its weight for one of another class.
    plain = type(linear) is nn.Linear and type(linear.weight) in {nn.Parameter, Tensor}
    return plain and not any(parameter.requires_grad for parameter in linear.parameters())


def _plain_lora(linear: Any) -> bool:
    from peft.tuners.lora import Linear

    if type(linear) is not Linear or not _frozen_linear(linear.base_layer) or linear.merged:
        return False
    return not any(
        linear.use_dora.get(name)
        or getattr(linear, "lora_variant", {}).get(name)
        or not isinstance(linear.lora_dropout[name], nn.Identity)
        or linear.lora_bias.get(name, False)
        for name in linear.active_adapters
        if name in linear.lora_A
    )


def _identity(language: Any, layers: list[Any], head: Tensor) -> Tensor:
    """Return a hash, 32 bytes, of what a run's numbers depend on and its state does not hold.

    That is everything frozen above the cut, and what adapters do beside their weights: LoRA's scale and dropout.
    """
    frozen, said = {"head": head}, [trunk(language).config.model_type]
    for number, layer in enumerate([*layers, trunk(language).norm]):
        frozen |= {f"{number}.{name}": one for name, one in layer.named_parameters() if not one.requires_grad}
        said += [
            f"{number}.{name} {sorted(module.scaling.items())} {module.lora_dropout} {sorted(module.use_dora.items())}"
            for name, module in layer.named_modules()
            if hasattr(module, "lora_A")
        ]
    digest = hashlib.sha256("|".join([*said, tensors_digest(frozen)]).encode()).digest()
    return torch.tensor(list(digest), dtype=torch.uint8)

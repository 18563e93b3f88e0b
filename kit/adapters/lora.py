"""LoRA through PEFT on any module: language models, vision towers, both towers of a CLIP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kit.adapters.lora_targets import Target, chosen, option_faults, rank_faults, target_faults
from kit.errors import ModelError, raise_faults

if TYPE_CHECKING:
    from peft import PeftModel


def add_lora(
    model: nn.Module,
    *,
    targets: Sequence[str] | str = ("q_proj", "v_proj"),
    layers: Iterable[int] | None = None,
    rank: int = 8,
    alpha: float | None = None,
    dropout: float = 0.0,
    dora: bool = False,
    rslora: bool = False,
    rank_pattern: Mapping[str, int] | None = None,
    whole: Sequence[str] = (),
    seed: int = 0,
) -> PeftModel:
    """Put LoRA into some of a model's layers, in place, and freeze everything else.

    The adapter starts as no change at all. Its weights are float32 on a model of lower precision too. In open_clip's
    ``nn.MultiheadAttention`` query, key and value are adapted and the output projection is not: see ``_steady``.

    Args:
        model: The model. Its modules are exchanged, so it and what shares its modules compute with the adapter.
        targets: Modules by name, or else by the end of it ("q_proj", "self_attn.q_proj"); or one regular expression
            that matches whole names. ``kit.adapters.lora_targets.adaptable`` lists what there is.
        layers: Which of the numbered layers, counted from 0; None for all.
        rank: Inner size, 1 to the least of a layer's input and output sizes.
        alpha: The change is scaled by alpha / rank; None for twice the rank.
        dropout: Share of a layer's inputs that the adapter does not see while training, 0 <= dropout < 1.
        dora: Learn sizes and directions apart (arXiv:2402.09353).
        rslora: Scale by alpha / sqrt(rank) instead (arXiv:2312.03732).
        rank_pattern: Other ranks for some modules, by the end of a name or a regular expression for it.
        whole: Modules that are trained whole and saved with the adapter, such as a projection, by name.
        seed: Of the fresh weights; the global random state is neither read nor changed.

    Returns:
        PEFT's wrapper around the model; ``save_pretrained``, ``merge_and_unload`` and the like are PEFT's.

    Raises:
        ModelError: unknown targets, layers or ranks out of range, options that PEFT has not for a layer; all at once.

    Source:
        Hu et al. (2021), arXiv:2106.09685.
    """
    from peft import LoraConfig, get_peft_model

    numbers = None if layers is None else sorted(set(layers))
    found, faults = chosen(model, targets, numbers)
    ranks = dict(rank_pattern or {})
    faults += option_faults(rank, alpha, dropout)
    faults += target_faults(model, found, whole, dropout=dropout, dora=dora)
    faults += rank_faults(found, rank, ranks)
    raise_faults(faults, ModelError)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,  # type: ignore[arg-type]
        target_modules=exactly(model, [target.name for target in found]),
        lora_dropout=dropout,
        use_dora=dora,
        use_rslora=rslora,
        rank_pattern=ranks,
        alpha_pattern={name: 2 * one for name, one in ranks.items()} if alpha is None else {},
        modules_to_save=list(whole) or None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # PEFT draws on the CPU, wherever the layers are
        wrapped: Any = get_peft_model(model, config)  # type: ignore[arg-type]
    _steady(wrapped, found)
    return wrapped  # type: ignore[no-any-return]


def exactly(model: nn.Module, names: Sequence[str]) -> list[str] | str:
    """Return PEFT's ``target_modules`` for these modules and no other.

    PEFT takes a name for the end of a name too, so a name that ends another one needs a regular expression.
    """
    wanted = set(names)
    others = [name for name, _ in model.named_modules() if name not in wanted]
    if any(other.endswith(f".{name}") for other in others for name in names):
        return "|".join(name.replace(".", r"\.") for name in names)
    return sorted(names)


def _steady(wrapped: nn.Module, found: Sequence[Target]) -> None:
    """Leave the output projections of ``nn.MultiheadAttention`` alone, and adapt the rest without touching the base.

    PEFT 0.21 adds the output projection's change twice, in every forward pass and in merging, while its gradient is
    that of once (huggingface/peft#3774); a change that stays zero is the same in every version. And at each forward
    pass PEFT adds the change to the frozen weights and takes it off again, which moves them by a rounding error each
    time (2e-7 after a thousand passes), so that a resumed run would not end with an uninterrupted one's weights.
    """
    for target in found:
        if isinstance(target.module, nn.MultiheadAttention):
            attention: Any = wrapped.get_submodule(f"base_model.model.{target.name}")
            attention.__class__ = _steady_attention()
            for each in (attention.base_layer.out_proj.lora_A, attention.base_layer.out_proj.lora_B):
                each.requires_grad_(False)


@cache
def _steady_attention() -> type[nn.Module]:
    from peft.tuners.lora.layer import MultiheadAttention

    class SteadyAttention(MultiheadAttention):  # type: ignore[misc]
        """PEFT's attention, computed without writing into the frozen weights."""

        def forward(self, query: Tensor, *args: Any, **kwargs: Any) -> Any:
            """Return what ``nn.MultiheadAttention`` returns with the change added to its input projection."""
            if self.disable_adapters or self.merged:
                return super().forward(query, *args, **kwargs)
            base = self.get_base_layer()
            active = [name for name in self.active_adapters if name in self.lora_A]
            weight = base.in_proj_weight
            for name in active:
                weight = weight + self.get_delta_weight(name).to(weight.dtype)
            return functional_call(base, {"in_proj_weight": weight}, (query, *args), kwargs)

    return SteadyAttention

"""Merging LoRA on language models that see, and on reward models of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from kit.adapters.base_weights import peft_models
from kit.adapters.bundle import Bundle
from kit.adapters.interference import Interference
from kit.adapters.language_bundle import read_layout
from kit.adapters.mergeable import averaged
from kit.adapters.reward_bundle import HEAD
from kit.adapters.weighted import Plan, merge_adapters
from kit.models.language_cut import LanguageCut
from kit.models.language_tail import LanguageTail
from kit.models.reward import Reward, RewardTail
from kit.models.vision_language import VisionLanguage


def merge_language(
    parents: Sequence[Bundle], plan: Plan, measured: Interference, **options: Any
) -> VisionLanguage | Reward:
    """Return the parents' base with their merged LoRA on it; projector and a reward's head are averaged.

    Args:
        parents: Bundles of vision-language or of reward models that ``check_parents`` let pass.
        plan: How.
        measured: Takes each matrix into account.
        options: Of ``Bundle.load``.

    Raises:
        BundleError: what PEFT refuses.
    """
    opened = parents[0].load(**options)
    model: VisionLanguage = opened.cut.model if isinstance(opened, Reward) else opened
    for path, adapter in peft_models(model.model).items():
        _merge_one(adapter, _folder_of(parents[0], path), parents, plan, measured)
    beside = averaged(parents, plan.weights)
    model.projector.load_state_dict({name: one for name, one in beside.items() if not name.startswith(HEAD)})
    model.model.eval().requires_grad_(False)
    return _reward(model, beside) if isinstance(opened, Reward) else model


def _merge_one(adapter: Any, name: str, parents: Sequence[Bundle], plan: Plan, measured: Interference) -> None:
    """Exchange the first parent's adapter for the merged one, in place."""
    (first,) = adapter.peft_config
    names = [first, *(f"parent_{number}" for number in range(1, len(parents)))]
    for one, bundle in zip(names[1:], parents[1:], strict=True):
        adapter.load_adapter(str(bundle.folder / name), adapter_name=one, torch_device="cpu")
    merge_adapters(adapter, names, plan, measured)


def _folder_of(bundle: Bundle, path: str) -> str:
    said = read_layout(bundle.folder)["adapters"]
    return next(name for name, own in said.items() if own == path)


def _reward(model: VisionLanguage, beside: Mapping[str, Tensor]) -> Reward:
    """Return a reward model on a merged model, its head the parents' mean."""
    cut = LanguageCut(model)
    tail = RewardTail(LanguageTail(cut))
    tail.weight.data.copy_(beside[f"{HEAD}: weight"])
    return Reward(cut, tail.requires_grad_(False).eval())

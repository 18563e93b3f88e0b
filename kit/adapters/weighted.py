"""PEFT's merge of several LoRA on one model, and how each merged change stands to the parents'."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kit.adapters.interference import Interference, lora_layers
from kit.errors import BundleError

CHILD = "child"  # "merged" would be taken for PEFT's own attribute of that name


@dataclass(frozen=True)
class Method:
    """A way to merge.

    Args:
        peft: PEFT's ``combination_type``.
        total: What default weights add up to: 1 for a mean; None for a weight of 1 each.
        density: Whether it takes a share of entries to keep.
        about: What it does, in words.
    """

    peft: str
    total: float | None
    density: bool
    about: str


# TIES and DARE on the products, not on A and B apart as PEFT's plain "ties" and "dare_linear" do: a sign means
# something in a weight, and nothing in a factor, which could be turned without changing the product.
METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "linear": Method(
            "linear", 1.0, density=False, about="mean of A and of B apart; rough, and of one parent's rank"
        ),
        "svd": Method("svd", 1.0, density=False, about="mean of the changes, cut to a rank"),
        "concat": Method("cat", 1.0, density=False, about="mean of the changes, exactly; ranks add up"),
        "task": Method("cat", None, density=False, about="sum of the changes, exactly (arXiv:2212.04089)"),
        "ties": Method("ties_svd", None, density=True, about="largest entries, majority's sign (arXiv:2306.01708)"),
        "dare": Method("dare_linear_svd", 1.0, density=True, about="entries by lot, scaled up (arXiv:2311.03099)"),
        "dare-ties": Method("dare_ties_svd", None, density=True, about="entries by lot, majority's sign"),
    }
)


@dataclass(frozen=True)
class Plan:
    """How to merge.

    Args:
        method: Which way.
        weights: One per parent.
        density: The share of entries that stay, where the method takes one.
        rank: Of the result, where the method cuts to one; None for the parents' ranks together.
        seed: Of what DARE draws.
    """

    method: Method
    weights: Sequence[float]
    density: float
    rank: int | None
    seed: int


def merge_adapters(adapter: Any, names: Sequence[str], plan: Plan, measured: Interference) -> None:
    """Exchange a model's adapters for the one merged of them, ``CHILD``, in place.

    Args:
        adapter: PEFT's wrapper, with the parents' LoRA on it.
        names: The parents' adapters, in the order of the weights.
        plan: How.
        measured: Takes each matrix into account.

    Raises:
        BundleError: what PEFT refuses.
    """
    device = next(adapter.parameters()).device
    ranks = [(adapter.peft_config[one].r, *adapter.peft_config[one].rank_pattern.values()) for one in names]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(plan.seed)
            adapter.base_model.add_weighted_adapter(
                list(names), list(plan.weights), CHILD, combination_type=plan.method.peft, density=plan.density,
                svd_rank=plan.rank or sum(map(max, ranks)), svd_full_matrices=False,
            )  # fmt: skip
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise BundleError.of("merge", f"PEFT cannot: {' '.join(str(error).split())[:300]}") from error
    _settle(adapter, names, plan, measured)
    adapter.set_adapter(CHILD)
    for one in names:
        adapter.delete_adapter(one)
    adapter.to(device)


@torch.no_grad()
def _settle(adapter: Any, names: Sequence[str], plan: Plan, measured: Interference) -> None:
    """Give each merged matrix a scale of 1 and its whole rank, and compare it with the parents' and the method's."""
    rank = adapter.peft_config[CHILD].r
    for module in (module for _, module in lora_layers(adapter) if CHILD in module.lora_A):
        down, up = module.lora_A[CHILD].weight, module.lora_B[CHILD].weight
        # PEFT takes over the first parent's rank-stabilised scaling, under which alpha = rank is no factor of 1.
        up.div_(module.scaling[CHILD])
        if len(down) < rank:  # PEFT leaves a matrix that is smaller than the rank with fewer, and none would load it
            down.data, up.data = F.pad(down, (0, 0, 0, rank - len(down))), F.pad(up, (0, rank - up.shape[1]))
        own = [place for place, one in enumerate(names) if one in module.lora_A]
        deltas = [module.get_delta_weight(names[place]) for place in own]
        wanted = _wanted(deltas, [plan.weights[place] for place in own], plan)
        if len(own) == len(names):
            measured.add(deltas, module.get_delta_weight(CHILD), wanted)


def _wanted(deltas: Sequence[Tensor], weights: Sequence[float], plan: Plan) -> Tensor:
    """Return what a method makes of the changes before they are cut to a rank; of DARE, what its draws have as mean."""
    from peft.utils.merge_utils import task_arithmetic, ties

    scale, given = torch.tensor(weights, device=deltas[0].device), list(deltas)
    if len(deltas) == 1:
        return given[0] * weights[0]  # as PEFT does, whatever the method
    if plan.method.peft in {"ties_svd", "dare_ties_svd"}:
        kept = plan.density if plan.method.peft == "ties_svd" else 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's, that a density of 1 prunes nothing
            elected: Tensor = ties(given, scale, kept)
        return elected
    summed: Tensor = task_arithmetic(given, scale)
    return summed

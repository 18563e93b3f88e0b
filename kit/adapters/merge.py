"""Several adapters of one base become one: through PEFT, with what gets lost on the way measured."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from kit.adapters.base_weights import peft_models
from kit.adapters.bundle import Bundle, save_bundle
from kit.adapters.interference import Interference, lora_layers
from kit.adapters.language_bundle import PROJECTOR, read_layout
from kit.adapters.mergeable import adapter_settings, check_parents, projectors_differ
from kit.errors import BundleError, Fault, did_you_mean, listed, raise_faults
from kit.models.vision_language import VisionLanguage
from kit.result import Measurement

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
class Merged:
    """What merging gave.

    Args:
        model: The base with the merged adapter on it, ready to use and to save.
        parents: The bundles that it came from.
        parameters: How it was made, as JSON values.
        measurements: Interference and parity; see ``Interference``.
    """

    model: VisionLanguage
    parents: tuple[Bundle, ...]
    parameters: Mapping[str, Any]
    measurements: Mapping[str, Measurement]

    def save(self, folder: Any, *, name: str = "", measurements: Mapping[str, Measurement] | None = None) -> Bundle:
        """Write a bundle that names all its parents.

        Args:
            folder: Where to.
            name: What people call it; made of the parents' names by default.
            measurements: What else was measured of it, such as each parent's task.

        Raises:
            BundleError: a place that is taken.
        """
        data = tuple(dict.fromkeys(base for one in self.parents for base in one.manifest.data))
        return save_bundle(
            folder,
            self.model,
            name=name or " + ".join(one.manifest.name for one in self.parents),
            data=data,
            parameters=self.parameters,
            measurements={**self.measurements, **(measurements or {})},
            parents=parents_of(self.parents),
        )


def parents_of(bundles: Sequence[Bundle]) -> dict[str, str]:
    """Return bundles' digests by their names; of one name that several have, each with its number."""
    found: dict[str, str] = {}
    for one in bundles:
        name, number = one.manifest.name, 2
        while name in found and found[name] != one.manifest.digest():
            name, number = f"{one.manifest.name} ({number})", number + 1
        found[name] = one.manifest.digest()
    return found


def merge(
    parents: Sequence[Bundle],
    *,
    method: str = "ties",
    weights: Sequence[float] | None = None,
    density: float = 0.5,
    rank: int | None = None,
    projector: str = "shared",
    seed: int = 0,
    **options: Any,
) -> Merged:
    """Return one model with the parents' adapters merged.

    Args:
        parents: Bundles on one base; a single one is scaled, or negated by a weight of -1.
        method: A name in ``METHODS``.
        weights: One per parent, negative to forget what a parent learnt; by default a mean, or 1 each where the method
            is a sum.
        density: For TIES and DARE: the share of entries that stay, 0 < density <= 1.
        rank: Of the result, where a method cuts to one; the parents' ranks together by default.
        projector: "shared" refuses parents whose projectors differ: an adapter reads pictures through the projector
            that it was trained with. "average" averages them by the weights' sizes.
        seed: Of what DARE draws.
        options: device, dtype and ``bases`` of ``Bundle.load``.

    Raises:
        BundleError: parents or settings that do not fit, with every reason at once.
    """
    check_parents(parents, fewest=1)
    given = _weights(parents, method, weights)
    _check(parents, method, given, density=density, rank=rank, projector=projector)
    apart = projectors_differ(parents)
    if apart and projector == "shared":
        what = f"their projectors differ by {apart:.2g} of their size, and each adapter reads pictures through its own"
        raise BundleError.of("merge", what, "train them on one frozen projector, or say --projector average")
    model: VisionLanguage = parents[0].load(**options)
    measured = Interference(len(parents))
    plan = _Plan(METHODS[method], given, density, rank, seed)
    for path, adapter in peft_models(model.model).items():
        _merge_one(adapter, _folder_of(parents[0], path), parents, plan, measured)
    if apart:
        _average_projector(model, parents, given)
    said = {"method": method, "weights": given, "projector": "shared" if not apart else projector, "seed": seed}
    said |= {"density": density} if METHODS[method].density else {}
    said |= {"projectors_apart": apart} if apart else {}
    model.model.eval().requires_grad_(False)
    return Merged(model, tuple(parents), said, measured.measurements())


@dataclass(frozen=True)
class _Plan:
    """How to merge."""

    method: Method
    weights: Sequence[float]
    density: float
    rank: int | None
    seed: int


def _merge_one(adapter: Any, name: str, parents: Sequence[Bundle], plan: _Plan, measured: Interference) -> None:
    """Exchange the first parent's adapter for the merged one, in place."""
    (first,) = adapter.peft_config
    names = [first, *(f"parent_{number}" for number in range(1, len(parents)))]
    for one, bundle in zip(names[1:], parents[1:], strict=True):
        adapter.load_adapter(str(bundle.folder / name), adapter_name=one, torch_device="cpu")
    device = next(adapter.parameters()).device
    ranks = [(adapter.peft_config[one].r, *adapter.peft_config[one].rank_pattern.values()) for one in names]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(plan.seed)
            adapter.base_model.add_weighted_adapter(
                names, list(plan.weights), CHILD, combination_type=plan.method.peft, density=plan.density,
                svd_rank=plan.rank or sum(map(max, ranks)), svd_full_matrices=False,
            )  # fmt: skip
    except (ValueError, TypeError, NotImplementedError) as error:
        raise BundleError.of("merge", f"PEFT cannot: {' '.join(str(error).split())[:300]}") from error
    _measure(adapter, names, plan, measured)
    adapter.set_adapter(CHILD)
    for one in names:
        adapter.delete_adapter(one)
    adapter.to(device)


@torch.no_grad()
def _measure(adapter: Any, names: Sequence[str], plan: _Plan, measured: Interference) -> None:
    """Compare the merged change of each matrix with the parents' and with what the method makes of them."""
    for module in (module for _, module in lora_layers(adapter) if CHILD in module.lora_A):
        # PEFT takes over the first parent's rank-stabilised scaling, under which alpha = rank is no factor of 1.
        module.lora_B[CHILD].weight.div_(module.scaling[CHILD])
        own = [place for place, one in enumerate(names) if one in module.lora_A]
        deltas = [module.get_delta_weight(names[place]) for place in own]
        wanted = _wanted(deltas, [plan.weights[place] for place in own], plan)
        if len(own) == len(names):
            measured.add(deltas, module.get_delta_weight(CHILD), wanted)


def _wanted(deltas: Sequence[Tensor], weights: Sequence[float], plan: _Plan) -> Tensor:
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


def _folder_of(bundle: Bundle, path: str) -> str:
    said = read_layout(bundle.folder)["adapters"]
    return next(name for name, own in said.items() if own == path)


def _average_projector(model: VisionLanguage, parents: Sequence[Bundle], weights: Sequence[float]) -> None:
    from safetensors.torch import load_file

    sizes = [abs(weight) for weight in weights]
    states = [load_file(one.folder / PROJECTOR) for one in parents]
    mean = {
        name: (sum(size * state[name].double() for size, state in zip(sizes, states, strict=True)) / sum(sizes)).to(
            one.dtype
        )
        for name, one in states[0].items()
    }
    model.projector.load_state_dict(mean)


def _weights(parents: Sequence[Bundle], method: str, weights: Sequence[float] | None) -> list[float]:
    if weights is not None:
        return [float(weight) for weight in weights]
    total = METHODS[method].total if method in METHODS else None
    return [1.0 if total is None else total / len(parents)] * len(parents)


def _check(
    parents: Sequence[Bundle],
    method: str,
    weights: Sequence[float],
    *,
    density: float,
    rank: int | None,
    projector: str,
) -> None:
    faults = []
    if len(weights) != len(parents) or not all(map(math.isfinite, weights)) or not any(weights):
        what = f"one finite number per parent is needed, {len(parents)} of them and not all 0, got {list(weights)}"
        faults.append(Fault("weights", what))
    if method not in METHODS:
        what = f"{method!r} is unknown.{did_you_mean(method, METHODS)}"
        faults.append(Fault("method", what, allowed=f"Allowed: {listed(METHODS)}."))
    if not 0 < density <= 1:
        faults.append(Fault("density", f"must be above 0 and at most 1, got {density!r}"))
    if rank is not None and rank < 1:
        faults.append(Fault("rank", f"must be at least 1, got {rank!r}"))
    if projector not in {"shared", "average"}:
        what = f"{projector!r} is unknown.{did_you_mean(projector, ('shared', 'average'))}"
        faults.append(Fault("projector", what, allowed="Allowed: average, shared."))
    if method == "linear":
        ranks = [adapter_settings(one, "adapter").get("r") for one in parents if (one.folder / "adapter").is_dir()]
        if len(set(ranks)) > 1:
            what = f"averages A and B apart, and the parents' ranks are {', '.join(map(str, ranks))}"
            faults.append(Fault("method linear", what, "take svd or concat"))
    raise_faults(faults, BundleError)

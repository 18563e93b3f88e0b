"""Several adapters of one base become one: through PEFT, with what gets lost on the way measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kit.adapters.bundle import Bundle, Saved, save_bundle
from kit.adapters.interference import Interference
from kit.adapters.merge_clip import merge_clips
from kit.adapters.merge_language import merge_language
from kit.adapters.mergeable import adapter_settings, check_parents, projectors_differ
from kit.adapters.weighted import METHODS, Plan
from kit.errors import BundleError, Fault, did_you_mean, listed, raise_faults
from kit.result import Measurement

# What each kind of bundle trains beside LoRA, in words.
_BESIDE = {
    "vision-language": "projectors", "reward": "projectors or heads", "dual-encoder": "projections or temperatures",
}  # fmt: skip


@dataclass(frozen=True)
class Merged:
    """What merging gave.

    Args:
        model: The base with the merged adapter on it, ready to use and to save.
        parents: The bundles that it came from.
        parameters: How it was made, as JSON values.
        measurements: Interference and parity; see ``Interference``.
    """

    model: Saved
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
    """Return one model with the parents' LoRA merged.

    Args:
        parents: Bundles of one kind on one base (vision-language, reward, dual encoder); a single one is scaled, or
            negated by a weight of -1.
        method: A name in ``METHODS``.
        weights: One per parent, negative to forget what a parent learnt; by default a mean, or 1 each where the method
            is a sum.
        density: For TIES and DARE: the share of entries that stay, 0 < density <= 1.
        rank: Of the result, where a method cuts to one; the parents' ranks together by default.
        projector: What to do about what was trained beside LoRA: projectors, a reward's head, a CLIP's projections and
            temperature. "shared" refuses parents in which it differs: an adapter was trained with its own. "average"
            averages it by the weights' sizes.
        seed: Of what DARE draws.
        options: device, dtype and ``bases`` of ``Bundle.load``; of dual encoders, device.

    Raises:
        BundleError: parents or settings that do not fit, with every reason at once.
    """
    kind = check_parents(parents, fewest=1)
    given = _weights(parents, method, weights)
    _check(parents, method, given, density=density, rank=rank, projector=projector)
    apart = projectors_differ(parents)
    if apart and projector == "shared":
        what = f"their {_BESIDE[kind]} differ by {apart:.2g} of their size, and each adapter was trained with its own"
        raise BundleError.of("merge", what, "train them on one, frozen; or say --projector average, and try the child")
    measured = Interference(len(parents))
    plan = Plan(METHODS[method], given, density, rank, seed)
    merging = merge_clips if kind == "dual-encoder" else merge_language
    model = merging(parents, plan, measured, **options)
    said = {"method": method, "weights": given, "projector": "shared" if not apart else projector, "seed": seed}
    said |= {"density": density} if METHODS[method].density else {}
    said |= {"projectors_apart": apart} if apart else {}
    return Merged(model, tuple(parents), said, measured.measurements())


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

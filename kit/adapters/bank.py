"""Many adapters on one base: each in memory at its own size, one of them on the model, exchanged in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from kit.adapters.base_weights import peft_models
from kit.adapters.bundle import Bundle
from kit.adapters.interference import lora_layers
from kit.adapters.language_bundle import ADAPTER, read_layout
from kit.adapters.lora import add_lora
from kit.adapters.mergeable import adapter_settings, check_parents, projectors_differ
from kit.errors import BundleError, ModelError, did_you_mean, listed
from kit.models.vision_language import VisionLanguage

T = TypeVar("T")
Weights = dict[str, tuple[Tensor, Tensor]]  # A, and B times its scale, by the adapted module's name


class Bank:
    """A model with one place for an adapter, and the adapters that go there.

    The place has the largest rank of them; a smaller one fills a part of it. Exchanging copies weights within memory
    and touches no base weight, so whatever computes with the model (``generate``, a ``LanguageTail``) goes on with the
    new adapter.

    Args:
        model: A stitched model with LoRA of scale 1 on its language tower, frozen.
    """

    def __init__(self, model: VisionLanguage) -> None:
        (self._adapter,) = peft_models(model.language).values()
        self.model = model
        self.current: str | None = None
        self._held: dict[str, Weights] = {}
        self._places = {_module(name): module for name, module in lora_layers(self._adapter)}
        (self._slot,) = self._adapter.peft_config
        self.use(None)

    @classmethod
    def open(cls, bundles: Mapping[str, Bundle], *, rank: int = 0, **options: Any) -> Bank:
        """Return the bank of bundles on one base, by the names they are to have.

        Args:
            bundles: Stitched models' bundles that share their base and their projector.
            rank: The least rank of the place, for adapters that come later.
            options: device, dtype and ``bases`` of ``Bundle.load``.

        Raises:
            BundleError: bundles that do not share these, with every reason at once.
        """
        parents = list(bundles.values())
        kind = check_parents(parents, fewest=1)
        for said in (read_layout(one.folder) if kind == "vision-language" else {} for one in parents):
            if set(said.get("adapters", ())) != {ADAPTER} or not said["stitched"]:
                raise BundleError.of("bank", "holds adapters on stitched models' language towers, and no others")
        if apart := projectors_differ(parents):
            what = f"their projectors differ by {apart:.2g} of their size, and a bank has one"
            raise BundleError.of("bank", what, "train them on one frozen projector")
        read = {name: read_adapter(one) for name, one in bundles.items()}
        model: VisionLanguage = parents[0].load(**options)
        device = model.device
        plain = model.language.unload()  # type: ignore[operator]
        modules = sorted({module for one in read.values() for module in one})
        largest = max(rank, *(a.shape[0] for one in read.values() for a, _ in one.values()))
        model.model.language_model = add_lora(plain, targets=modules, rank=largest, alpha=largest)
        model.model.eval().requires_grad_(False).to(device)
        bank = cls(model)
        for name, weights in read.items():
            bank.put(name, weights)
        return bank

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters' names."""
        return tuple(self._held)

    @property
    def bytes_held(self) -> int:
        """What all adapters take in memory, beside the place on the model."""
        return sum(
            one.numel() * one.element_size() for held in self._held.values() for pair in held.values() for one in pair
        )

    def put(self, name: str, weights: Bundle | Weights) -> None:
        """Add an adapter, or exchange one for another; the model's other adapters and its base stay as they are.

        Raises:
            ModelError: a rank that is larger than the place, or modules that it does not reach.
        """
        own = read_adapter(weights) if isinstance(weights, Bundle) else weights
        device = self.model.device
        for module, (a, b) in own.items():
            place = self._places.get(module)
            if place is None:
                raise ModelError.of(
                    f"bank: {name}", f"adapts {module}, which no other adapter here does", "open them together"
                )
            slot = place.lora_A[self._slot].weight
            if a.shape[0] > len(slot) or a.shape[1] != slot.shape[1] or len(b) != place.out_features:
                what = f"has rank {a.shape[0]} at {module}, and the place has {len(slot)}"
                raise ModelError.of(f"bank: {name}", what, "open the bank with rank=")
        self._held[name] = {module: (a.to(device), b.to(device)) for module, (a, b) in own.items()}
        if self.current == name:
            self.current = None
            self.use(name)

    def remove(self, name: str) -> None:
        """Forget an adapter; if it is on the model, the base remains."""
        self._known(name)
        if self.current == name:
            self.use(None)
        del self._held[name]

    @torch.no_grad()
    def use(self, name: str | None) -> None:
        """Put an adapter on the model; None for the base alone.

        Raises:
            ModelError: there is no such adapter.
        """
        if name is not None:
            self._known(name)
            if name == self.current:
                return
        own = {} if name is None else self._held[name]
        for module, place in self._places.items():
            down, up = place.lora_A[self._slot].weight, place.lora_B[self._slot].weight
            if module not in own:
                up.zero_()
                continue
            a, b = own[module]
            down[: len(a)].copy_(a)
            up[:, : len(a)].copy_(b)
            up[:, len(a) :].zero_()
        self.current = name

    def by_adapter(self, names: Sequence[str | None], run: Callable[[list[int]], Sequence[T]]) -> list[T]:
        """Return what ``run`` gives for rows that each need an adapter, in their order; each adapter is put on once.

        Args:
            names: Each row's adapter, or None for the base; shape (n,).
            run: Takes places of rows, and returns one thing for each.

        Raises:
            ModelError: an unknown adapter, before anything runs.
        """
        groups: dict[str | None, list[int]] = {}
        for place, name in enumerate(names):
            if name is not None:
                self._known(name)
            groups.setdefault(name, []).append(place)
        found: dict[int, T] = {}
        # What is on the model already goes first.
        for name in sorted(groups, key=lambda one: one != self.current):
            self.use(name)
            found |= dict(zip(groups[name], run(groups[name]), strict=True))
        return [found[place] for place in range(len(names))]

    def _known(self, name: str) -> None:
        if name not in self._held:
            what = f"no adapter {name!r}.{did_you_mean(name, self._held)}"
            raise ModelError.of("bank", what, allowed=f"Here: {listed(self._held)}.")


def read_adapter(bundle: Bundle) -> Weights:
    """Return a bundle's adapter, each module's A and B with PEFT's scale in B.

    Args:
        bundle: Of a stitched model.
    """
    from safetensors.torch import load_file

    settings = adapter_settings(bundle, ADAPTER)
    state = load_file(bundle.folder / ADAPTER / "adapter_model.safetensors")
    return {
        module: (state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"] * _scale(settings, module, state, name))
        for module, name in _names(state)
    }


def _names(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    for key in state:
        if key.endswith(".lora_A.weight"):
            name = key.removesuffix(".lora_A.weight")
            yield _module(name), name


def _module(name: str) -> str:
    return name.removeprefix("base_model.model.")


def _scale(settings: Mapping[str, Any], module: str, state: Mapping[str, Tensor], name: str) -> float:
    from peft.utils.other import get_pattern_key

    patterns = settings.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(patterns, module), settings["lora_alpha"])
    rank = state[f"{name}.lora_A.weight"].shape[0]
    return float(alpha / rank**0.5 if settings.get("use_rslora") else alpha / rank)

"""Whether a copy is still the same model: logits on fixed probes against declared tolerances, and where it broke."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kit.data.rows import Conversation
from kit.errors import DataError, Fault, ModelError
from kit.models.chat import Chat
from kit.models.halves import trunk
from kit.models.vision_language import VisionLanguage
from kit.result import Measurement

# A conversation -> logits at each of its text tokens, shape (t, vocabulary), float32.
Logits = Callable[[Conversation], Tensor]


@dataclass(frozen=True)
class Tolerance:
    """How far a copy may be from its parent.

    Args:
        max_logit: The largest difference of any logit, each position's mean taken off.
        mean_logit: The mean of these differences.
        kl_nats: The mean Kullback-Leibler divergence of next-token distributions, in nats.
        agreement: The least share of positions whose likeliest token is the same.
        task: How many points (hundredths) of a task's score may be lost.
    """

    max_logit: float
    mean_logit: float
    kl_nats: float
    agreement: float
    task: float = 0.5


# What each type is held to: about twice what SmolLM2-135M with a merged adapter showed on the fixed probes (bfloat16
# 0.84, 0.056, 0.0017, 0.985; bitsandbytes int8 4.1, 0.28, 0.033, 0.935; nf4 10.9, 0.96, 0.54, 0.68). What bitsandbytes
# scrambles is beyond all of them.
TOLERANCES: Mapping[str, Tolerance] = MappingProxyType(
    {
        "float32": Tolerance(0.01, 0.001, 1e-5, 0.999, task=0.1),
        "bfloat16": Tolerance(2.0, 0.15, 0.005, 0.96),
        "float16": Tolerance(1.0, 0.05, 0.002, 0.97),
        "int8": Tolerance(8.0, 0.6, 0.08, 0.88),
        "int4": Tolerance(25.0, 2.0, 1.2, 0.55, task=5.0),
        "nf4": Tolerance(25.0, 2.0, 1.2, 0.55, task=5.0),
    }
)


@dataclass(frozen=True)
class Parity:
    """How far a copy is from its parent on the probes.

    Args:
        max_logit: See ``Tolerance``.
        mean_logit: See ``Tolerance``.
        kl_nats: See ``Tolerance``.
        agreement: See ``Tolerance``.
        positions: How many positions were compared.
        worst: The probe and the position in it with the largest divergence, in words.
        worst_probe: That probe's place among the probes.
        task: Points of a task's score lost; None where no task was run.
    """

    max_logit: float
    mean_logit: float
    kl_nats: float
    agreement: float
    positions: int
    worst: str
    worst_probe: int
    task: float | None = None

    def faults(self, tolerance: Tolerance, *, where: str = "parity") -> list[Fault]:
        """Return every tolerance that is exceeded."""
        found, allowed = asdict(self), asdict(tolerance)
        faults = []
        for name, most in allowed.items():
            value = found[name]
            # "not within" rather than "beyond", so that a number that is none is a fault too.
            good = value is None or (value >= most if name == "agreement" else value <= most)
            if not good:
                word = "at least" if name == "agreement" else "at most"
                what = f"is {value:.4g}, {word} {most:g} is allowed; worst at {self.worst}"
                faults.append(Fault(f"{where}: {name}", what))
        return faults

    def rows(self, tolerance: Tolerance) -> list[tuple[str, str, str, str]]:
        """Return the gate as a table: what, observed, allowed, verdict."""
        wrong = {fault.where.rpartition(" ")[2] for fault in self.faults(tolerance)}
        found, rows = asdict(self), []
        for name, most in asdict(tolerance).items():
            if found[name] is None:
                continue
            sign = "≥" if name == "agreement" else "≤"
            rows.append((name, f"{found[name]:.4g}", f"{sign} {most:g}", "FAIL" if name in wrong else "pass"))
        return rows

    def measurements(self, prefix: str = "") -> dict[str, Measurement]:
        """Return the numbers for a Result."""
        method = "fixed probes, every text position"
        units = {"max_logit": "logits", "mean_logit": "logits", "kl_nats": "nats", "agreement": "share"}
        return {
            f"{prefix}{name}": Measurement(
                getattr(self, name), unit, self.positions, method=method,
                better="higher" if name == "agreement" else "lower",
            )
            for name, unit in units.items()
        }  # fmt: skip


def parity(reference: Logits, copy: Logits, probes: Sequence[Conversation], *, task: float | None = None) -> Parity:
    """Compare a copy with its parent on every text position of the probes.

    Args:
        reference: The parent's logits: ``logits_of(model)``.
        copy: The copy's, by whatever runs it.
        probes: ``fixed_probes()``, or conversations of one's own.
        task: Points of a task's score that the copy loses, measured by the caller.

    Raises:
        DataError: no probes, or logits of another shape.
    """
    if not probes:
        raise DataError.of("parity", "there are no probes", "give fixed_probes()")
    largest, total, agreed, divergences = 0.0, 0.0, 0, []
    places: list[tuple[int, int]] = []
    count = 0
    for number, probe in enumerate(probes):
        expected, found = reference(probe), copy(probe)
        if expected.shape != found.shape:
            what = f"logits of shape {tuple(found.shape)}, the parent's are {tuple(expected.shape)}"
            raise DataError.of(f"parity: {probe.id}", what, "let both read the same tokens")
        apart = (_centred(found) - _centred(expected)).abs()
        largest = max(largest, float(apart.max())) if torch.isfinite(apart).all() else float("nan")
        total += float(apart.mean(1).sum())
        agreed += int((expected.argmax(1) == found.argmax(1)).sum())
        divergences.append(_divergence(expected, found))
        places += [(number, position) for position in range(len(expected))]
        count += len(expected)
    every = torch.cat(divergences)
    worst, position = places[int(every.nan_to_num(float("inf")).argmax())]
    words = f"token {position + 1} of {probes[worst].id!r}"
    return Parity(largest, total / count, float(every.mean()), agreed / count, count, words, worst, task)


def logits_of(model: VisionLanguage) -> Logits:
    """Return a model's logits at a conversation's text tokens."""
    chat = Chat.of(model)

    @torch.no_grad()
    def run(probe: Conversation) -> Tensor:
        inputs = chat.encode(probe)
        inputs.pop("labels")
        text = inputs["input_ids"][0] != chat.image_token_id
        out = model.model.eval()(**{name: one.to(model.device) for name, one in inputs.items()}).logits[0]
        return out.float().cpu()[text]

    return run


def where_it_broke(reference: VisionLanguage, copy: VisionLanguage, probe: Conversation) -> str:
    """Return the decoder layer after which a copy leaves its parent fastest, in words.

    Args:
        reference: The parent.
        copy: The copy, with as many layers.
        probe: Usually the worst one of a ``Parity``.

    Raises:
        ModelError: models of another number of layers.
    """
    drifts = drift(reference, copy, probe)
    steps = [now / max(before, 1e-6) for before, now in zip([1e-3, *drifts], drifts, strict=False)]
    layer = max(range(len(steps)), key=steps.__getitem__)
    before = f", {drifts[layer - 1]:.3g} after the layer before" if layer else ""
    return (
        f"layer {layer}: hidden states {drifts[layer]:.3g} of their own size away{before}; {drifts[-1]:.3g} at the end"
    )


def drift(reference: VisionLanguage, copy: VisionLanguage, probe: Conversation) -> list[float]:
    """Return how far hidden states are apart after each decoder layer, as a share of their own norm."""
    with _watched(reference) as expected, _watched(copy) as found:
        logits_of(reference)(probe)
        logits_of(copy)(probe)
    if len(expected) != len(found):
        what = f"the copy ran {len(found)} layers, its parent {len(expected)}"
        raise ModelError.of(copy.name, what, "compare a model with its own copy")
    return [float((b - a).norm() / a.norm()) for a, b in zip(expected, found, strict=True)]


@contextmanager
def _watched(model: VisionLanguage) -> Iterator[list[Tensor]]:
    kept: list[Tensor] = []

    def keep(_: Any, __: Any, out: Any) -> None:
        kept.append((out[0] if isinstance(out, tuple) else out).detach().float().cpu())

    hooks = [layer.register_forward_hook(keep) for layer in trunk(model.language).layers]
    try:
        yield kept
    finally:
        for hook in hooks:
            hook.remove()


def _centred(logits: Tensor) -> Tensor:
    """Return logits less their mean, which no probability depends on."""
    return logits - logits.mean(1, keepdim=True)


def _divergence(expected: Tensor, found: Tensor) -> Tensor:
    ours, theirs = F.log_softmax(expected, 1), F.log_softmax(found, 1)
    return (ours.exp() * (ours - theirs)).sum(1)

"""Which adapter an input is for: the nearest centroid of a CLIP's embedding of picture and prompt, or none of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kit.errors import DataError, Fault, raise_faults

FEWEST = 20  # held-out inputs of an adapter that its limit is set on
_TEMPERATURES = np.geomspace(1e-3, 10, 200)
_ALIKE = 1e-3  # nats
Vectors = NDArray[np.float32]


def joined(pictures: ArrayLike, prompts: ArrayLike) -> Vectors:
    """Return one unit vector per input, shape (n, 2d), whose cosine is the mean of picture's and prompt's.

    Args:
        pictures: A CLIP's embeddings of the pictures, shape (n, d).
        prompts: Its embeddings of the prompts, shape (n, d).
    """
    sides = [_unit(np.asarray(one, dtype=np.float32)) for one in (pictures, prompts)]
    return np.concatenate(sides, axis=1) / np.float32(np.sqrt(2))


@dataclass(frozen=True)
class Routes:
    """Where inputs go.

    Args:
        names: Each input's adapter; None for "none of these". Shape (n,).
        probability: How sure that is among the adapters, calibrated; shape (n,).
        cosine: To the nearest centroid, shape (n,).
    """

    names: tuple[str | None, ...]
    probability: NDArray[np.float64]
    cosine: NDArray[np.float64]


@dataclass(frozen=True)
class Router:
    """Centroids of adapters' own inputs.

    Args:
        names: The adapters, k of them.
        centre: The mean of all inputs, taken off first: embeddings of a CLIP lie in a narrow cone. Shape (d,).
        centroids: Unit vectors, shape (k, d).
        temperature: By which cosines are divided before the softmax, from held-out inputs.
        limits: The least cosine that each adapter's own inputs have, shape (k,); what lies below is none of these.

    Source:
        Snell et al. (2017), arXiv:1703.05175, for nearest centroids; Guo et al. (2017), arXiv:1706.04599, for the
        temperature.
    """

    names: tuple[str, ...]
    centre: Vectors
    centroids: Vectors
    temperature: float
    limits: NDArray[np.float64]

    @classmethod
    def fit(
        cls, examples: Mapping[str, ArrayLike], held_out: Mapping[str, ArrayLike], *, refused: float = 0.01
    ) -> Router:
        """Return the router of adapters.

        Args:
            examples: Embeddings of inputs of each adapter, shape (n, d) each.
            held_out: Others of each adapter, which say how sure a cosine makes; at least 20 each.
            refused: Share of an adapter's own held-out inputs that may be taken for none of these, 0 <= refused < 1.

        Raises:
            DataError: adapters without examples, or shapes that do not fit, all at once.
        """
        given = {name: np.asarray(one, dtype=np.float32) for name, one in examples.items()}
        other = {name: np.asarray(one, dtype=np.float32) for name, one in held_out.items()}
        _check(given, other, refused)
        names = tuple(given)
        centre = np.mean([one.mean(0) for one in given.values()], axis=0, dtype=np.float32)  # each adapter counts once
        centroids = _unit(np.stack([_unit(given[name] - centre).mean(0) for name in names]))
        cosines = [_unit(other[name] - centre) @ centroids.T for name in names]
        limits = np.array([np.quantile(one[:, place], refused) for place, one in enumerate(cosines)])
        labels = np.concatenate([np.full(len(one), place) for place, one in enumerate(cosines)])
        return cls(names, centre, centroids, _temperature(np.concatenate(cosines), labels), limits)

    def choose(self, inputs: ArrayLike) -> Routes:
        """Return where inputs go.

        Args:
            inputs: Their embeddings, shape (n, d).
        """
        cosines = (_unit(np.asarray(inputs, dtype=np.float32) - self.centre) @ self.centroids.T).astype(np.float64)
        best = cosines.argmax(1)
        rows = np.arange(len(best))
        chance = _softmax(cosines / self.temperature)[rows, best]
        near = cosines[rows, best] >= self.limits[best]
        names = tuple(self.names[place] if inside else None for place, inside in zip(best, near, strict=True))
        return Routes(names, chance, cosines[rows, best])


def calibration_error(probability: ArrayLike, right: ArrayLike, *, bins: int = 10) -> float:
    """Return the mean distance between how sure and how often right, over equally full bins; in [0, 1].

    Args:
        probability: How sure, shape (n,).
        right: Whether it was right, shape (n,).
        bins: How many bins.

    Source:
        Guo et al. (2017), section 2, arXiv:1706.04599; equally full bins by Nixon et al. (2019), arXiv:1904.01685.
    """
    sure, true = np.asarray(probability, dtype=np.float64), np.asarray(right, dtype=np.float64)
    parts = np.array_split(np.argsort(sure, kind="stable"), min(bins, len(sure)))
    return float(sum(len(part) * abs(sure[part].mean() - true[part].mean()) for part in parts) / len(sure))


def _temperature(cosines: Vectors, labels: NDArray[np.int64]) -> float:
    """Return the temperature of least cross-entropy on held-out inputs; of those within 0.001 nats the highest.

    Where the adapters' inputs are apart, ever lower temperatures gain ever less and claim ever more.
    """
    rows = np.arange(len(labels))
    nats = np.array([-np.log(_softmax(cosines / one)[rows, labels] + 1e-300).mean() for one in _TEMPERATURES])
    return float(_TEMPERATURES[np.flatnonzero(nats <= nats.min() + _ALIKE)[-1]])


def _softmax(logits: NDArray[np.float64] | Vectors) -> NDArray[np.float64]:
    raised = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    found: NDArray[np.float64] = raised / raised.sum(1, keepdims=True)
    return found


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.maximum(lengths, np.finfo(np.float32).tiny)


def _check(given: Mapping[str, Vectors], other: Mapping[str, Vectors], refused: float) -> None:
    faults = []
    if len(given) < 2 or given.keys() != other.keys():
        what = f"examples of {sorted(given)}, held-out inputs of {sorted(other)}"
        faults.append(Fault("router", what, "give both of the same adapters, at least two"))
    widths: Sequence[tuple[int, ...]] = [one.shape[1:] for one in (*given.values(), *other.values())]
    if any(len(one) != 1 for one in widths) or len(set(widths)) > 1:
        faults.append(Fault("router", f"embeddings of one width are needed, got {sorted(set(widths))}"))
    faults += [Fault(f"router: {name}", "has no examples") for name, one in given.items() if not len(one)]
    faults += [
        Fault(f"router: {name}", f"has {len(one)} held-out inputs, and at least {FEWEST} are needed")
        for name, one in other.items()
        if len(one) < FEWEST
    ]
    if not 0 <= refused < 1:
        faults.append(Fault("router: refused", f"must be at least 0 and below 1, got {refused!r}"))
    raise_faults(faults, DataError)

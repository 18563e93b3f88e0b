"""How large a copy is, and will be: bytes in memory, on disk, and before anything is quantised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from kit.errors import ModelError, listed
from kit.models.backends import BACKENDS, Backend, inner_tensors

MB = 1_000_000
_FLOATS = {"float32": 4, "bfloat16": 2, "float16": 2}
_NF4_BLOCK = 64
# Below so many parameters 4 bits cost more than they save (Dettmers and Zettlemoyer, 2022, arXiv:2212.09720; here
# SmolLM2-135M's perplexity rises by half).
SMALL = 2_000_000_000


@dataclass(frozen=True)
class Size:
    """What a copy would take.

    Args:
        backend: The backend's name.
        floats: The type of what is not quantised.
        mb: Megabytes (10^6 bytes) of the language tower's weights.
    """

    backend: str
    floats: str
    mb: float


def held_bytes(module: nn.Module) -> int:
    """Return how many bytes a module's weights and buffers take in memory, scales included, tied ones once."""
    seen: dict[int, int] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        for _, part in inner_tensors(name, tensor):
            seen[part.data_ptr()] = part.numel() * part.element_size()
    return sum(seen.values())


def disk_bytes(folder: Path) -> int:
    """Return how many bytes the files of a folder hold."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def expected_mb(language: nn.Module, backend: Backend, floats: str) -> float:
    """Return how large a language tower will be.

    Args:
        language: The plain tower.
        backend: What its matrices will be held by.
        floats: The type of everything else.
    """
    matrices = [module for name, module in _matrices(language) if ".layers." in f".{name}"]
    weights = sum(one.in_features * one.out_features for one in matrices)
    rest = sum(one.numel() for one in language.parameters()) - weights
    if backend.settings is None:
        return (weights + rest) * _FLOATS[backend.to] / MB
    rows = sum(one.out_features for one in matrices)
    scales = {
        "int8": rows * (4 if backend.library == "bitsandbytes" else _FLOATS[floats]),
        "nf4": weights / _NF4_BLOCK * 4,
        "int4": weights / max(backend.group, 1) * 4,
    }
    bits = 8 if backend.to == "int8" else 4
    return (weights * bits / 8 + scales[backend.to] + rest * _FLOATS[floats]) / MB


def choices(language: nn.Module, floats: str = "bfloat16") -> list[Size]:
    """Return every copy that this machine can make, the largest first."""
    found = []
    for name, backend in BACKENDS.items():
        if backend.missing() is None:
            kept = backend.to if backend.settings is None else floats
            found.append(Size(name, kept, expected_mb(language, backend, kept)))
    return sorted(found, key=lambda one: -one.mb)


def choose(to: str, backend: str = "") -> Backend:
    """Return the first backend of this machine that holds weights as asked.

    Args:
        to: "float32", "bfloat16", "int8", "int4" (which "nf4" is one kind of) or "nf4".
        backend: A library ("bitsandbytes", "torchao"); any by default.

    Raises:
        ModelError: no such type, no backend for it, or none that works here.
    """
    known = {one.to for one in BACKENDS.values()}
    if to not in known:
        raise ModelError.of("--to", f"{to!r} is unknown", allowed=f"Allowed: {listed(known)}.")
    fitting = [
        one
        for one in BACKENDS.values()
        if (one.to == to or (to == "int4" and one.to == "nf4")) and backend in {"", one.library}
    ]
    if not fitting:
        libraries = listed({one.library for one in BACKENDS.values() if one.to == to})
        raise ModelError.of("--backend", f"{backend!r} has no {to}", allowed=f"For {to}: {libraries}.")
    here = [one for one in fitting if one.missing() is None]
    if not here:
        raise ModelError([fault for one in fitting if (fault := one.missing()) is not None])
    return here[0]


def check_budget(sizes: Sequence[Size], wanted: Backend, max_mb: float) -> None:
    """Refuse a copy that will not fit, and name what would.

    Raises:
        ModelError: it is larger than the budget.
    """
    own: Any = next(one for one in sizes if one.backend == wanted.name)
    if own.mb <= max_mb:
        return
    fits = [one for one in sizes if one.mb <= max_mb]
    least = sizes[-1]
    allowed = f"The smallest copy is {least.backend} with {least.mb:.3g} MB; nothing fits."
    fix = f"allow {least.mb:.3g} MB, or adapt a smaller language model"
    if fits:
        allowed = "Would fit: " + ", ".join(f"{one.backend} ({one.mb:.3g} MB)" for one in fits) + "."
        best = BACKENDS[fits[0].backend]
        fix = f"--backend {best.library} --to {best.to}"
    raise ModelError.of("--max-mb", f"{own.backend} takes {own.mb:.3g} MB, more than {max_mb:g}", fix, allowed)


def _matrices(language: nn.Module) -> list[tuple[str, Any]]:
    return [(name, module) for name, module in language.named_modules() if isinstance(module, nn.Linear)]

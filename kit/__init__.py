"""kit: a Jupyter-first multimodal experimentation kit.

The names below load their module at first use, so that ``import kit`` costs nothing. Inside kit, import modules.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Contrastive": "kit.training.objectives",
    "DualEncoderTail": "kit.models.cut",
    "KitError": "kit.errors",
    "Measurement": "kit.result",
    "PrefixEncoder": "kit.models.encode",
    "Prefixes": "kit.models.encode",
    "Result": "kit.result",
    "data_use": "kit.adapters.bundle",
    "demo": "kit.sharing.demo",
    "embed": "kit.models.encode",
    "fit": "kit.training.fit",
    "load_dual_encoder": "kit.models.load",
    "load_rows": "kit.data.sources",
    "load_vision_language": "kit.models.load_vision_language",
    "open_bundle": "kit.adapters.bundle",
    "picture_grid": "kit.evaluation.figures",
    "retrieval": "kit.evaluation.scores",
    "run_folder": "kit.result",
    "save_bundle": "kit.adapters.bundle",
    "save_result": "kit.result",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605 - derived, so that it cannot drift


def __getattr__(name: str) -> Any:
    """Return a public name from the module that defines it."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]

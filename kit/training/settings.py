"""What a training run may be asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kit.errors import Fault

# What must be a whole number, and its least value
_WHOLE = {"epochs": 1, "steps": 1, "batch_size": 1, "accumulate": 1, "every": 1, "stop_after": 1, "seed": 0}


def setting_faults(settings: Mapping[str, Any]) -> list[Fault]:
    """Return everything that is wrong with a run's settings."""
    found = [*_lengths(settings), *_rates(settings)]
    if settings["precision"] not in {"no", "bf16", "fp16"}:
        found.append(Fault("fit: precision", f"must be 'no', 'bf16' or 'fp16', got {settings['precision']!r}"))
    return found


def _lengths(settings: Mapping[str, Any]) -> list[Fault]:
    found = []
    if (settings["epochs"] is None) == (settings["steps"] is None):
        what = f"epochs is {settings['epochs']} and steps is {settings['steps']}"
        found.append(Fault("fit", what, "give exactly one"))
    wrong = []
    for name, least in _WHOLE.items():
        value = settings[name]
        if value is None and name in {"epochs", "steps", "stop_after"}:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            wrong.append(Fault(f"fit: {name}", f"must be a whole number of at least {least}, got {value!r}"))
    if not wrong and settings["accumulate"] > settings["batch_size"]:
        what = f"is {settings['accumulate']}, and a batch has {settings['batch_size']} rows to take in parts"
        wrong.append(Fault("fit: accumulate", what, "give at most batch_size"))
    return found + wrong


def _rates(settings: Mapping[str, Any]) -> list[Fault]:
    found = []
    for name, least in (("lr", "above 0"), ("clip_norm", "above 0"), ("weight_decay", "of at least 0")):
        value = settings[name]
        right = _is_number(value) and (value >= 0 if name == "weight_decay" else value > 0)
        if not right or (value == math.inf and name != "clip_norm"):  # an infinite norm clips nothing
            found.append(Fault(f"fit: {name}", f"must be a number {least}, got {value!r}"))
    if not _is_number(settings["beta2"]) or not 0 < settings["beta2"] < 1:
        found.append(Fault("fit: beta2", f"must be a number above 0 and below 1, got {settings['beta2']!r}"))
    if not _is_number(settings["warmup"]) or not 0 <= settings["warmup"] < 1:
        found.append(Fault("fit: warmup", f"must be a share of at least 0 and below 1, got {settings['warmup']!r}"))
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

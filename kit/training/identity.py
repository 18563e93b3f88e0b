"""What makes two training runs the same run."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from types import CodeType
from typing import Any

from torch import Tensor

from kit.models.dual_encoder import tensors_digest
from kit.training.columns import Column

_PLAIN = (bool, int, float, str, bytes, type(None))


def run_key(
    settings: Mapping[str, Any],
    objective: Callable[..., Any],
    columns: tuple[Column, ...],
    state: Mapping[str, Tensor],
) -> str:
    """Return the identity of a run, 64 hex digits.

    Args:
        settings: What training was asked to do, as JSON values.
        objective: What is minimised.
        columns: The data.
        state: Weights and buffers that the model starts from, the frozen ones included.
    """
    parts = [
        json.dumps(settings, sort_keys=True),
        said(objective),
        *(column.digest() for column in columns),
        tensors_digest(state),
    ]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()


def said(objective: Callable[..., Any]) -> str:
    """Return what a callable does, as far as its name, code and plain values tell.

    A function counts by its code and not by its file: Jupyter's file names hold the kernel's process number, and a
    run that is resumed in a new kernel is the same run. Functions that it calls do not count.

    >>> said(lambda model, batch: 2 * batch) == said(lambda model, batch: 3 * batch)
    False
    """
    if isinstance(objective, functools.partial):
        bound = [repr(value) for value in (*objective.args, *sorted(objective.keywords.items()))]
        return f"partial {said(objective.func)} {bound}"
    code = getattr(objective, "__code__", None)
    if isinstance(code, CodeType):
        closure = [cell.cell_contents for cell in getattr(objective, "__closure__", None) or ()]
        defaults = getattr(objective, "__defaults__", None) or ()
        return f"{_code(code)} {[repr(value) for value in (*closure, *defaults) if isinstance(value, _PLAIN)]}"
    kind = type(objective)
    values = repr(objective) if dataclasses.is_dataclass(objective) else _plain(getattr(objective, "__dict__", {}))
    return f"{kind.__module__}.{kind.__qualname__} {values}"


def _code(code: CodeType) -> str:
    constants = [_code(value) if isinstance(value, CodeType) else repr(value) for value in code.co_consts]
    return f"{code.co_name} {code.co_code.hex()} {code.co_names} {constants}"


def _plain(values: Mapping[str, Any]) -> str:
    return repr(sorted((name, value) for name, value in values.items() if isinstance(value, _PLAIN)))

"""Formulas that a recipe writes about its parameters: plain arithmetic, read without running anything."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_BINARY: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip


def _words(value: Any) -> float:
    """Return how many words a text holds, or how many entries a list."""
    return float(len(re.split(r"[,\s]+", value.strip())) if isinstance(value, str) and value.strip() else len(value))


def _total(value: Any) -> float:
    """Return the sum of the numbers in a list, or in a text."""
    found = re.findall(r"\d+(?:\.\d+)?", value) if isinstance(value, str) else value
    return float(sum(map(float, found)))


def _has(value: Any, word: str) -> float:
    """Return 1 where a text or a list holds ``word``, else 0."""
    return float(word in value)


_CALLS: dict[str, Callable[..., float]] = {
    "min": min, "max": max, "ceil": math.ceil, "words": _words, "total": _total, "has": _has,
}  # fmt: skip


@dataclass(frozen=True)
class Formula:
    """One formula.

    Args:
        text: As written: ``0.77 * min(pictures, 4000)``.
        names: Parameters that it mentions.

    >>> Formula.read("2 * min(rows, 10) + words(languages)").value({"rows": 50, "languages": "en de"})
    22.0
    """

    text: str
    names: tuple[str, ...]

    @classmethod
    def read(cls, text: str | float) -> Formula:
        """Return the formula that ``text`` writes.

        Raises:
            ValueError: it is no plain arithmetic.
        """
        try:
            tree = ast.parse(str(text), mode="eval").body
        except SyntaxError as error:
            raise ValueError(f"is no arithmetic: {error.msg}") from error
        names: set[str] = set()
        _look(tree, names)
        return cls(str(text), tuple(sorted(names)))

    def value(self, values: Mapping[str, Any]) -> float:
        """Return the formula's value for these parameters.

        Raises:
            ValueError: a parameter is missing or is not what the formula needs, or a division by zero.
        """
        try:
            return float(_value(ast.parse(self.text, mode="eval").body, values))
        except (TypeError, ZeroDivisionError, KeyError) as error:
            raise ValueError(f"{self.text}: cannot be computed: {error}") from error


def _look(node: ast.expr, names: set[str]) -> None:
    """Collect the names of parameters, and refuse what is no arithmetic."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        return
    if isinstance(node, ast.Name):
        names.add(node.id)
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        _look(node.left, names)
        _look(node.right, names)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        _look(node.operand, names)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
        for argument in node.args:
            _look(argument, names)
    else:
        raise ValueError(f"'{ast.unparse(node)}' is no arithmetic: + - * / // %, {', '.join(sorted(_CALLS))}")


def _value(node: ast.expr, values: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](_value(node.left, values), _value(node.right, values))
    if isinstance(node, ast.UnaryOp):
        return -_value(node.operand, values)
    assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)  # noqa: S101,PT018 - _look has seen to it
    return _CALLS[node.func.id](*(_value(argument, values) for argument in node.args))

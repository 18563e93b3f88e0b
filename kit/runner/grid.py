"""Which trials a sweep has: a grid, or draws from it, out of words like ``rank=4,8`` and ``lr=1e-4..1e-2:log:5``."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kit.errors import Fault, RecipeError, raise_faults
from kit.runner.notebook import Notebook
from kit.runner.parameters import from_command_line

_RANGE = re.compile(r"(?P<low>[^.\s][^:]*?)\.\.(?P<high>[^:]+)(?P<log>:log)?(?::(?P<count>\d+))?")


@dataclass(frozen=True)
class Axis:
    """One swept parameter.

    Args:
        name: The parameter.
        values: Its values; empty for a range without a count, from which random trials draw.
        low: A range's lower end.
        high: Its upper end.
        log: Whether it is evenly spaced by ratio.
        whole: Whether the parameter takes whole numbers.
    """

    name: str
    values: tuple[Any, ...]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def at(self, share: float) -> Any:
        """Return the value at a share in [0, 1] of the range.

        >>> Axis("lr", (), 1e-4, 1e-2, log=True).at(0.5)
        0.001
        """
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        # Four digits are what anybody would type, and what makes two runs of a sweep the same runs.
        return round(value) if self.whole else float(f"{value:.4g}")


def read_axes(pairs: Sequence[str], notebook: Notebook) -> tuple[Axis, ...]:
    """Return the axes that words like ``rank=4,8`` name.

    Raises:
        RecipeError: a word that is none, or a value of the wrong form; all faults at once.
    """
    faults: list[Fault] = []
    axes: list[Axis] = []
    for pair in pairs:
        name, equals, text = pair.partition("=")
        try:
            axes.append(_axis(name.strip(), text, notebook) if equals else _no_axis(pair))
        except RecipeError as error:
            faults += error.faults
    for name in {axis.name for axis in axes if sum(other.name == axis.name for other in axes) > 1}:
        faults.append(Fault(f"-p {name}", "is given twice", "give it once"))
    raise_faults(faults, RecipeError)
    return tuple(axes)


def _no_axis(pair: str) -> Axis:
    raise RecipeError.of(f"-p {pair}", "is not of the form name=values", "write -p rank=4,8 or -p lr=1e-4..1e-2:log:5")


def _axis(name: str, text: str, notebook: Notebook) -> Axis:
    parameter = (notebook.parameters or {}).get(name)
    found = _RANGE.fullmatch(text)
    if found is None:
        words = [text] if text[:1] in {"[", "{"} else text.split(",")
        read = [from_command_line([f"{name}={word.strip()}"], notebook)[name] for word in words]
        return Axis(name, tuple(read))
    place = f"-p {name}={text}"
    try:
        low, high = float(found["low"]), float(found["high"])
    except ValueError as error:
        raise RecipeError.of(place, "a range goes from one number to another", "write 1e-4..1e-2:log:5") from error
    if not low < high or (found["log"] and low <= 0):
        what = "a range by ratio starts above 0" if found["log"] and low <= 0 else "a range goes upwards"
        raise RecipeError.of(place, what, "turn the two numbers round, or raise the first")
    whole = parameter is not None and parameter.kind == "int"
    axis = Axis(name, (), low, high, bool(found["log"]), whole)
    count = int(found["count"] or 0)
    values = [axis.at(step / max(1, count - 1)) for step in range(count)]
    return Axis(name, tuple(dict.fromkeys(values)), low, high, axis.log, whole)


def grid(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """Return every combination, the last axis fastest.

    Raises:
        RecipeError: a range without a count.
    """
    open_axes = [axis.name for axis in axes if not axis.values]
    raise_faults(
        [
            Fault(f"-p {name}", "a grid needs a count for a range", "write …:5, or --search random")
            for name in open_axes
        ],
        RecipeError,
    )
    return [dict(zip((axis.name for axis in axes), values, strict=True))
            for values in itertools.product(*(axis.values for axis in axes))]  # fmt: skip


def drawn(axes: Sequence[Axis], trials: int, *, seed: int) -> list[dict[str, Any]]:
    """Return that many different random combinations, fewer when there are no more; the same for the same seed."""
    generator = random.Random(seed)  # noqa: S311 - no secret
    found: dict[str, dict[str, Any]] = {}
    for _ in range(100 * trials):
        trial = {axis.name: generator.choice(axis.values) if axis.values else axis.at(generator.random())
                 for axis in axes}  # fmt: skip
        found.setdefault(repr(trial), trial)
        if len(found) == trials:
            break
    return list(found.values())


def halvings(
    trials: Sequence[Mapping[str, Any]], steps: Axis, *, keep: int, score: Callable[[list[dict[str, Any]]], list[float]]
) -> list[dict[str, Any]]:
    """Run trials by successive halving: all briefly, the best longer; return those of the last rung, best first.

    Args:
        trials: The combinations.
        steps: What costs, from its lowest value to its highest.
        keep: Of so many trials the best one goes on, and gets so many times the steps.
        score: Runs the trials that it is given; returns for each a number, higher is better, -inf for one that failed.

    Source:
        Jamieson and Talwalkar (2016), Non-stochastic best arm identification, arXiv:1502.07943.
    """
    alive = [dict(trial) for trial in trials]
    amount = steps.low
    while True:
        rung = [{**trial, steps.name: _amount(steps, amount)} for trial in alive]
        scores = score(rung)
        order = sorted(range(len(rung)), key=lambda one: scores[one], reverse=True)
        if amount >= steps.high or len(alive) <= 1:
            return [rung[one] for one in order]
        alive = [alive[one] for one in order[: max(1, len(alive) // keep)]]
        amount = min(steps.high, amount * keep)


def _amount(steps: Axis, amount: float) -> float | int:
    return round(amount) if steps.whole else amount

"""Two measurements of the same thing: their difference, with the interval that their own intervals allow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from kit.result import Measurement


@dataclass(frozen=True)
class Difference:
    """How one measurement changed from an older one to a newer one.

    Args:
        name: The measurement's name.
        old: The older.
        new: The newer, in the same unit and on the same split.
        value: New minus old, in that unit.
        low: Lower end of its interval; None where one of the two has no interval of a stated coverage.
        high: Upper end of its interval.
    """

    name: str
    old: Measurement
    new: Measurement
    value: float
    low: float | None
    high: float | None

    @property
    def direction(self) -> str:
        """Return "better", "worse", "same" or "changed", by the values alone."""
        if self.value == 0:
            return "same"
        if self.new.better == "neither":
            return "changed"
        return "better" if (self.value > 0) == (self.new.better == "higher") else "worse"

    @property
    def clear(self) -> bool:
        """Return whether the interval of the difference leaves out zero; False without an interval."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high

    def __str__(self) -> str:
        text = f"{self.value:+.4g} {self.new.unit}"
        return text if self.low is None or self.high is None else f"{text} [{self.low:+.4g}, {self.high:+.4g}]"


def difference(name: str, old: Measurement, new: Measurement) -> Difference:
    """Return the difference of two measurements, taken as independent.

    Two models measured on the same items are positively correlated, as a rule; the interval is then wider than it
    need be, so that a difference it calls clear is one.

    Args:
        name: The measurement's name.
        old: The older.
        new: The newer, in the same unit.

    Returns:
        The difference with an interval of the wider of the two coverages; without one where either has none.

    Source:
        Zou and Donner (2008), Construction of confidence limits about effect measures, Statistics in Medicine 27,
        equation 8 (MOVER).

    >>> old, new = Measurement(0.5, "share", 100, 0.4, 0.6), Measurement(0.8, "share", 100, 0.72, 0.86)
    >>> str(difference("accuracy", old, new))
    '+0.3 share [+0.1719, +0.4166]'
    """
    value = new.value - old.value
    if None in {old.low, old.high, new.low, new.high} or old.level is None or old.level != new.level:
        return Difference(name, old, new, value, None, None)
    below = math.hypot(new.value - (new.low or 0.0), (old.high or 0.0) - old.value)
    above = math.hypot((new.high or 0.0) - new.value, old.value - (old.low or 0.0))
    return Difference(name, old, new, value, value - below, value + above)


def differences(old: Mapping[str, Measurement], new: Mapping[str, Measurement]) -> dict[str, Difference]:
    """Return the differences of what both measured under the same name, in the same unit, on the same split."""
    return {
        name: difference(name, old[name], found)
        for name, found in new.items()
        if name in old and (old[name].unit, old[name].split) == (found.unit, found.split)
    }

"""One base class, one subclass per kind of failure, and the one form in which kit states a fault."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where, what, what would be right, and the fix.

    Args:
        where: The place, most general first: ``recipes/stitch.yaml: sizes.laptop.epoch``.
        what: What is wrong there, with the value.
        fix: What to do about it, as an imperative; empty when ``what`` says it all.
        allowed: A list of what would be right, already worded (``Declared: epochs, seed``); may be empty.
    """

    where: str
    what: str
    fix: str = ""
    allowed: str = ""

    def __str__(self) -> str:
        """Return the fault as one to three lines, without a final newline."""
        lines = [f"{self.where}: {self.what}"]
        if self.allowed:
            lines.append(f"  {self.allowed}")
        if self.fix:
            lines.append(f"  Fix: {self.fix}")
        return "\n".join(lines)


class KitError(Exception):
    """The base of every error that kit raises on purpose; its text is meant for people.

    Args:
        faults: One fault, or all faults of one input.
    """

    def __init__(self, faults: Fault | Sequence[Fault]) -> None:
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    @classmethod
    def of(cls, where: str, what: str, fix: str = "", allowed: str = "") -> KitError:
        """Return the error for a single fault."""
        return cls(Fault(where, what, fix, allowed))

    def __reduce__(self) -> tuple[type[KitError], tuple[tuple[Fault, ...]]]:
        """Pickle by faults, so that the error survives a process boundary whole."""
        return type(self), (self.faults,)


class PartError(KitError):
    """A part cannot be had, or is not what its hash says."""


class DataError(KitError):
    """Rows, pictures or a data source are not as they must be."""


class ModelError(KitError):
    """A model cannot be named, built or loaded."""


class BundleError(KitError):
    """A bundle is damaged, incomplete, or not for this base."""


class RecipeError(KitError):
    """A recipe, its parameters or its notebook are not as they must be."""


class RunError(KitError):
    """A run could not be carried out or read back."""


class ResultError(KitError):
    """A result or a measurement is not well-formed."""


def raise_faults(faults: Sequence[Fault], error: type[KitError]) -> None:
    """Raise ``error`` with all ``faults``, or return when there are none."""
    if faults:
        raise error(faults)


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` with a leading space for the nearest allowed name, or an empty string.

    >>> did_you_mean("epoch", ["epochs", "seed"])
    " Did you mean 'epochs'?"
    """
    near = difflib.get_close_matches(str(name), [str(candidate) for candidate in allowed], n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def listed(names: Iterable[str]) -> str:
    """Return names as one sorted, comma-separated list."""
    return ", ".join(sorted(map(str, names)))

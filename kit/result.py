"""Result and Measurement: the JSON that a notebook writes and the runner checks."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kit.errors import Fault, ResultError, raise_faults

MIME = "application/vnd.kit.result+json"
SCHEMA = 1


@dataclass(frozen=True)
class Measurement:
    """One number and what it takes to believe it.

    Args:
        value: The number.
        unit: Its unit: "share", "s", "pictures/s", "rank", "x" for a ratio.
        n: Sample size: how many items (or timings) it was made from, n >= 1.
        low: Lower end of the interval; None where an interval makes no sense (a count, one timing).
        high: Upper end of the interval; None exactly when ``low`` is.
        level: Nominal coverage of the interval; None where ``low`` and ``high`` are the least and the most seen.
        method: How number and interval were made.
        baseline: What a trivial answerer gets (chance, majority, blind); None where there is none.
        split: The data it was measured on: "test", "val", …
        better: "higher", "lower" or "neither".
    """

    value: float
    unit: str
    n: int
    low: float | None = None
    high: float | None = None
    level: float | None = 0.95
    method: str = ""
    baseline: float | None = None
    split: str = ""
    better: str = "higher"

    def faults(self, where: str) -> list[Fault]:
        """Return what is wrong with this measurement, ``where`` being its place in the result."""
        found = []
        if not _is_finite(self.value):
            found.append(Fault(f"{where}.value", f"must be a finite number, got {self.value!r}"))
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 1:
            found.append(Fault(f"{where}.n", f"must be a whole number of at least 1, got {self.n!r}"))
        if (self.low is None) != (self.high is None):
            found.append(Fault(f"{where}.low", "an interval has two ends or none"))
        if not isinstance(self.unit, str) or not self.unit:
            found.append(Fault(f"{where}.unit", f"must be a word, got {self.unit!r}", "name it, e.g. 'share' or 's'"))
        for end in ("low", "high", "baseline"):
            value = getattr(self, end)
            if value is not None and not _is_finite(value):
                found.append(Fault(f"{where}.{end}", f"must be a finite number or None, got {value!r}"))
        if self.level is not None and not (_is_finite(self.level) and 0 < self.level < 1):
            found.append(Fault(f"{where}.level", f"must be above 0 and below 1, or None, got {self.level!r}"))
        if self.better not in {"higher", "lower", "neither"}:
            found.append(Fault(f"{where}.better", f"must be higher, lower or neither, got {self.better!r}"))
        return found

    def __str__(self) -> str:
        """Return the number with its interval, sample size and baseline on one line."""
        text = f"{self.value:.4g} {self.unit}"
        if self.low is not None and self.high is not None:
            text += f" [{self.low:.4g}, {self.high:.4g}]" if self.level else f" ({self.low:.4g} to {self.high:.4g})"
        text += f", n={self.n}"
        if self.baseline is not None:
            text += f", baseline {self.baseline:.4g}"
        return text


@dataclass(frozen=True)
class Result:
    """Named measurements of one run, and the bundles it left.

    Args:
        measurements: By name; names are identifiers (``recall_at_1``).
        notes: Remarks for the reader of the report.
        bundles: Folders of the bundles that the run saved, as given by the notebook.
        schema: Version of this JSON.
    """

    measurements: Mapping[str, Measurement]
    notes: tuple[str, ...] = ()
    bundles: tuple[str, ...] = ()
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        faults = [] if self.measurements else [Fault("result", "holds no measurement")]
        for name, measurement in self.measurements.items():
            if not name.isidentifier():
                faults.append(Fault(f"result.{name}", "a measurement's name must be an identifier"))
            faults += measurement.faults(f"result.{name}")
        raise_faults(faults, ResultError)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; ``from_json`` reads them back to an equal Result."""
        return {
            "schema": self.schema,
            "measurements": {name: asdict(measurement) for name, measurement in self.measurements.items()},
            "order": list(self.measurements),  # notebooks are written with sorted keys, and the author's order tells
            "notes": list(self.notes),
            "bundles": list(self.bundles),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, where: str = "result") -> Result:
        """Return the Result that ``to_json`` wrote.

        Raises:
            ResultError: a newer schema, or values that are not a result; all faults at once.
        """
        if not isinstance(values, Mapping) or "measurements" not in values:
            raise ResultError.of(where, "is not a kit result", "end the notebook with kit.save_result(...)")
        if not isinstance(values.get("schema", 0), int):
            raise ResultError.of(where, f"schema must be a whole number, got {values['schema']!r}")
        if values.get("schema", 0) > SCHEMA:
            raise ResultError.of(
                where,
                f"schema {values['schema']} is newer than this kit reads ({SCHEMA})",
                "pip install -U multimodal-kit",
            )
        try:
            found = {name: Measurement(**fields) for name, fields in values["measurements"].items()}
            order = [name for name in values.get("order", ()) if name in found]
            measurements = {name: found[name] for name in dict.fromkeys([*order, *found])}
        except (TypeError, AttributeError) as error:
            raise ResultError.of(where, f"a measurement cannot be read: {error}") from error
        return cls(
            measurements,
            notes=tuple(values.get("notes", ())),
            bundles=tuple(values.get("bundles", ())),
            schema=values.get("schema", SCHEMA),
        )

    def to_text(self) -> str:
        """Return one aligned line per measurement."""
        width = max(map(len, self.measurements))
        return "\n".join(f"{name:<{width}}  {measurement}" for name, measurement in self.measurements.items())


def run_folder() -> Path:
    """Return where a notebook puts its bundles: the run's own folder under ``kit run``, else ``kit-output`` here."""
    return Path(os.environ.get("KIT_RUN_DIR", "kit-output")).absolute()


def save_result(
    measurements: Mapping[str, Measurement], *, notes: tuple[str, ...] = (), bundles: tuple[str, ...] = ()
) -> Result:
    """Show the Result as a cell output, which is how it reaches the runner; return it.

    The output carries the JSON under ``application/vnd.kit.result+json``, so an executed notebook keeps its
    result whether kit's runner, plain papermill or a person ran it.

    Args:
        measurements: By name.
        notes: Remarks for the reader of the report.
        bundles: Folders of the bundles that the notebook saved.

    Raises:
        ResultError: a measurement is not well-formed; all faults at once.
    """
    from IPython.display import display

    result = Result(dict(measurements), notes=notes, bundles=tuple(str(bundle) for bundle in bundles))
    display({MIME: json.loads(json.dumps(result.to_json())), "text/plain": result.to_text()}, raw=True)
    return result


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

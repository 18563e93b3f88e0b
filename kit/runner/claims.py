"""A Result checked against a recipe's claims and budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kit.errors import did_you_mean
from kit.result import Measurement, Result
from kit.runner.recipe import Claim


@dataclass(frozen=True)
class Verdict:
    """One claim and what the run showed.

    Args:
        claim: The claim in words.
        observed: What was measured, with interval and sample size, or why there is nothing.
        passed: Whether the claim holds.
        kind: "claim", which fails a run; "regression" against an earlier run, which fails it too; "budget", which only
            warns; or "elsewhere", a claim that the recipe makes about other parameters than this run's, which is shown
            and not judged.
        link: Where more is said, relative to the run's folder; may be empty.
    """

    claim: str
    observed: str
    passed: bool
    kind: str = "claim"
    link: str = ""

    @property
    def label(self) -> str:
        """Return the one or two words that a table shows."""
        if self.kind == "elsewhere":
            return "not claimed here"
        if self.kind == "budget":
            return "within budget" if self.passed else "over budget"
        if self.kind == "regression":
            return "WORSE"
        return "PASS" if self.passed else "FAIL"


def check(result: Result | None, claims: Sequence[Claim], *, changed: Sequence[str] = ()) -> list[Verdict]:
    """Return a verdict for each claim; without a Result every claim fails.

    Args:
        result: What the notebook left.
        claims: What the recipe says of it.
        changed: Parameters to which the user gave other values than the recipe's. Its claims say nothing of those
            runs, so they are shown and not judged.
    """
    if result is None:
        reason = "the notebook left no result: end it with kit.save_result(...)"
        return [Verdict(str(claim), reason, passed=False) for claim in claims]
    kind = "elsewhere" if changed else "claim"
    return [_verdict(claim, result.measurements, kind) for claim in claims]


def _verdict(claim: Claim, measurements: Mapping[str, Measurement], kind: str) -> Verdict:
    found = measurements.get(claim.measurement)
    if found is None:
        hint = did_you_mean(claim.measurement, measurements) if kind == "claim" else ""
        return Verdict(str(claim), f"not measured in this run.{hint}", passed=False, kind=kind)
    if claim.operator == "at_least":
        return Verdict(str(claim), str(found), passed=found.value >= claim.bound, kind=kind)
    if claim.operator == "at_most":
        return Verdict(str(claim), str(found), passed=found.value <= claim.bound, kind=kind)
    if found.baseline is None or found.low is None or found.high is None:
        return Verdict(str(claim), f"{found} (has no baseline or no interval)", passed=False, kind=kind)
    passed = found.high < found.baseline if found.better == "lower" else found.low > found.baseline
    return Verdict(str(claim), str(found), passed=passed, kind=kind)


def check_budget(budget: Mapping[str, float], *, wall_s: float, peak_rss_gib: float) -> list[Verdict]:
    """Return a verdict for each budget of seconds and memory; they warn and never fail a run."""
    observed = {"wall_s": (wall_s, "s"), "peak_rss_gib": (peak_rss_gib, "GiB")}
    return [
        Verdict(f"{name} ≤ {budget[name]:g}", f"{value:.3g} {unit}", passed=value <= budget[name], kind="budget")
        for name, (value, unit) in observed.items()
        if name in budget
    ]

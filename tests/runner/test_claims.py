"""Claims and budgets against results."""

from __future__ import annotations

import pytest

from kit.result import Measurement, Result
from kit.runner.claims import check, check_budget
from kit.runner.recipe import Claim

SHARE = Measurement(0.5, "share", n=10, low=0.4, high=0.6, baseline=0.3)
RANK = Measurement(3, "rank", n=10, low=2, high=4, baseline=5, better="lower")
BARE = Measurement(1, "s", n=1)
RESULT = Result({"share": SHARE, "rank": RANK, "bare": BARE})


@pytest.mark.parametrize(
    ("name", "operator", "bound", "passed"),
    [
        ("share", "at_least", 0.5, True), ("share", "at_least", 0.51, False), ("share", "at_most", 0.5, True),
        ("share", "at_most", 0.49, False), ("share", "above_baseline", True, True),
        ("rank", "above_baseline", True, True),
        ("bare", "above_baseline", True, False), ("shore", "at_least", 0, False),
    ],
)  # fmt: skip
def test_each_operator_both_ways(name: str, operator: str, bound: float, passed: bool) -> None:
    (verdict,) = check(RESULT, [Claim(name, operator, bound)])
    assert verdict.passed is passed
    assert verdict.label == ("PASS" if passed else "FAIL")


def test_an_interval_that_touches_the_baseline_is_not_above_it() -> None:
    touching = Result({"share": Measurement(0.5, "share", n=10, low=0.3, high=0.7, baseline=0.3)})
    assert not check(touching, [Claim("share", "above_baseline", True)])[0].passed


def test_no_result_fails_every_claim() -> None:
    (verdict,) = check(None, [Claim("share", "at_least", 0)])
    assert not verdict.passed
    assert "save_result" in verdict.observed


def test_budgets_warn() -> None:
    wall, peak = check_budget({"wall_s": 10, "peak_rss_gib": 1, "limit_s": 5}, wall_s=11, peak_rss_gib=0.5)
    assert (wall.label, peak.label) == ("over budget", "within budget")


def test_claims_about_other_parameters_are_shown_and_not_judged() -> None:
    claims = [Claim("share", "at_least", 0.9)]
    (own,), (other,) = check(RESULT, claims), check(RESULT, claims, changed=("data",))
    assert (own.kind, own.label) == ("claim", "FAIL")
    assert (other.kind, other.label) == ("elsewhere", "not claimed here")
    assert other.observed == own.observed


def test_what_other_data_does_not_hold_is_no_misspelling() -> None:
    claims = [Claim("shore", "at_least", 0.5)]
    (own,), (other,) = check(RESULT, claims), check(RESULT, claims, changed=("data",))
    assert own.observed == "not measured in this run. Did you mean 'share'?"
    assert other.observed == "not measured in this run."

"""Plans against simulation and against what was measured before; false verdicts, exactly."""

import numpy as np
import pytest

from kit.humaneval.errors import StudyError
from kit.humaneval.planner import fixed_votes, plan, stopping_chances
from kit.humaneval.sequential import log_mixture


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_false_verdicts_over_2000_votes_are_at_most_alpha(alpha):
    total = stopping_chances(0.5, alpha=alpha, most=2000).sum()
    assert 0.5 * alpha < total <= alpha


def test_chances_are_those_of_the_test_itself():
    wins = np.cumsum(np.random.default_rng(0).random((8000, 150)) < 0.65, axis=1)
    n = np.arange(1, 151)
    crossed = log_mixture(wins, n - wins) + n * np.log(2) >= np.log(20)
    stops = np.where(crossed.any(1), crossed.argmax(1) + 1, 999)
    reached = np.cumsum(stopping_chances(0.65, alpha=0.05, most=150))
    for votes in (20, 40, 60, 100, 150):
        assert np.mean(stops <= votes) == pytest.approx(reached[votes - 1], abs=0.02)


# Votes at power 0.8 with one look, and the median of the sequential test, as simulated independently before.
@pytest.mark.parametrize(
    ("win_share", "fixed", "median"), [(0.55, 783, 744), (0.6, 194, 186), (0.7, 47, 53), (0.8, 20, 28)]
)
def test_votes_needed(win_share, fixed, median):
    found = plan(win_share=win_share, raters=4, seconds_per_vote=6)
    assert found.fixed == fixed
    assert found.median == pytest.approx(median, rel=0.04)
    assert found.minutes_per_rater == pytest.approx(found.median * 6 / 60 / 4)
    assert f"about {found.median} votes ({found.ninetieth} in nine of ten studies)" in found.to_text()


def test_ties_cost_votes():
    plain, tied = plan(win_share=0.6, raters=1), plan(win_share=0.6, raters=1, tie_rate=0.5)
    assert tied.median == 2 * plain.median
    assert tied.fixed == pytest.approx(2 * plain.fixed, abs=1)


def test_what_will_not_be_seen_is_said():
    found = plan(win_share=0.52, raters=5, max_votes=500)
    assert (found.median, found.ninetieth, found.minutes_per_rater) == (None, None, None)
    assert found.power < 0.3
    assert "a verdict in only" in found.to_text()
    some = plan(win_share=0.55, raters=5, max_votes=1000)
    assert some.ninetieth is None
    assert "more in many studies" in some.to_text()


@pytest.mark.parametrize(
    "changed",
    [{"win_share": 0.5}, {"win_share": 1.0}, {"tie_rate": 1.0}, {"alpha": 0}, {"raters": 0}, {"seconds_per_vote": 0.0}],
)
def test_bad_input(changed):
    ((name, value),) = changed.items()
    with pytest.raises(StudyError, match=f"plan: {name}: must be .*, got {value}"):
        plan(**{"win_share": 0.6, "raters": 3, **changed})


def test_all_that_is_out_of_range_is_told_at_once():
    with pytest.raises(StudyError) as caught:
        plan(win_share=1.4, raters=0)
    assert [fault.where for fault in caught.value.faults] == ["plan: win_share", "plan: raters"]


def test_the_normal_approximation_holds_by_simulation():
    generator = np.random.default_rng(0)
    n = fixed_votes(0.6, 0.0, 0.05, 0.8)
    wins = generator.binomial(n, 0.6, size=20_000)
    assert np.mean(np.abs(wins - n / 2) > 1.96 * np.sqrt(n) / 2) == pytest.approx(0.8, abs=0.02)

"""What the votes do not determine is said: against a search through all chains of wins."""

from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.humaneval.identify import identify
from kit.humaneval.ranking import Comparisons, bradley_terry
from kit.humaneval.table import VoteTable


def of(*votes):
    left, right, answers = zip(*votes, strict=True)
    return Comparisons.of(VoteTable.of(left, right, answers))


def test_everything_is_determined_where_wins_go_round():
    known = identify(of(("a", "b", "left"), ("b", "c", "left"), ("c", "a", "left")))
    assert known.core.all()
    assert known.notes == ()
    assert set(known.group) == {0}


def test_a_tie_goes_both_ways():
    assert identify(of(("a", "b", "left"), ("a", "b", "tie"))).core.all()
    assert identify(of(("a", "b", "left"), ("a", "b", "both_bad"))).core.all()


def test_a_model_that_never_lost_and_one_that_never_won():
    round_trip = [("b", "c", "left"), ("c", "b", "left")]
    known = identify(of(*round_trip, ("a", "b", "left"), ("c", "d", "left"), ("c", "d", "left")))
    names = ("b", "c", "a", "d")
    assert [name for name, inside in zip(names, known.core, strict=True) if inside] == ["b", "c"]
    assert [name for name, inside in zip(names, known.ahead, strict=True) if inside] == ["a"]
    assert [name for name, inside in zip(names, known.behind, strict=True) if inside] == ["d"]
    assert known.notes[0].startswith(
        "a: never lost to those it would be measured against, so no finite strength; won 1 of 1"
    )
    assert known.notes[1].startswith("d: never beat those")
    assert "won 0 of 2, a share of 0.00 to 0.84 (exact, 95%)" in known.notes[1]


def test_groups_that_never_met():
    known = identify(of(("a", "b", "tie"), ("c", "d", "tie")))
    assert known.group.tolist() == [0, 0, 1, 1]
    assert known.core.all()
    assert known.notes == (
        "never compared with each other, even through others, so not ranked against each other: a, b; c, d",
    )


def test_wins_that_all_went_one_way_leave_only_the_ends():
    known = identify(of(("a", "b", "left"), ("b", "c", "left")))
    assert not known.core.any()
    assert known.ahead.tolist() == [True, False, False]
    assert known.behind.tolist() == [False, False, True]
    assert any(note.startswith("b: wins went one way only") for note in known.notes)


def test_a_model_without_votes():
    table = VoteTable.of(["a"], ["b"], ["tie"])
    known = identify(
        Comparisons(("a", "b", "c"), *(getattr(Comparisons.of(table), n) for n in ("first", "second", "cell")))
    )
    assert known.core.tolist() == [True, True, False]
    assert "c: no votes" in known.notes


def chain(one, other, names, beats):
    """Whether wins lead from one model to the other, by trying every path."""
    rest = [name for name in names if name not in (one, other)]
    between = (path for n in range(len(rest) + 1) for path in permutations(rest, n))
    return any(all(step in beats for step in pairwise((one, *path, other))) for path in between)


VOTES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4), st.sampled_from(["left", "tie"])), min_size=1, max_size=9
)


@settings(max_examples=150, deadline=None)
@given(VOTES.map(lambda drawn: [(str(a), str(b), answer) for a, b, answer in drawn if a != b]).filter(bool))
def test_the_core_is_where_chains_of_wins_go_both_ways(votes):
    comparisons = of(*votes)
    names = comparisons.models
    beats = {(a, b) for a, b, _ in votes} | {(b, a) for a, b, answer in votes if answer == "tie"}
    known = identify(comparisons)
    group = dict(zip(names, known.group, strict=True))
    core = [name for name, inside in zip(names, known.core, strict=True) if inside]
    pairs = [(one, other) for one, other in permutations(core, 2) if group[one] == group[other]]
    assert all(chain(*pair, names, beats) for pair in pairs)
    for name, ahead, behind in zip(names, known.ahead, known.behind, strict=True):
        own = [other for other in core if group[other] == group[name]]
        if own and name not in core:
            assert (ahead, behind) == (chain(name, own[0], names, beats), chain(own[0], name, names, beats))
            assert not (ahead and behind)
    if len(core) == len(names) and len(set(group.values())) == 1:
        assert np.abs(bradley_terry(comparisons).strengths).max() < 15


def test_the_fit_runs_away_where_identify_says_so():
    known = of(("a", "b", "left"))
    assert identify(known).ahead.tolist() == [True, False]
    assert bradley_terry(known).strengths[0] > 10
    assert pytest.approx(0) == bradley_terry(of(("a", "b", "left"), ("b", "a", "left"))).strengths[0]

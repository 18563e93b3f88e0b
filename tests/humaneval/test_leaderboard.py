"""A ranking says what it knows, for whom, and what it does not know."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.humaneval.errors import StudyError
from kit.humaneval.leaderboard import holm, leaderboard
from kit.humaneval.simulate import simulated_votes
from kit.humaneval.table import VoteTable
from kit.result import Result


@pytest.fixture(scope="module")
def board():
    table = simulated_votes([0.8, 0.3, 0.0, -0.9], raters=5, items=80, rater_sd=0.2, item_sd=0.4, seed=1)
    return leaderboard(table, rounds=400)


def test_the_simulated_order_comes_out(board):
    assert [one.model for one in board.standings] == [f"model {n}" for n in range(4)]
    assert [one.place for one in board.standings] == [1, 2, 3, 4]
    assert board.standings[0].places == (1, 1)
    assert sum(one.strength for one in board.standings) == pytest.approx(0, abs=1e-9)
    assert (board.votes, board.prompts, board.raters) == (2400, 80, 5)
    assert board.notes == ()
    for one in board.standings:
        for span in (one.spans.these_raters, one.spans.new_raters, one.spans.sandwich, one.spans.sandwich_new):
            assert span.low < one.strength < span.high
        assert (
            one.spans.sandwich_new.high - one.spans.sandwich_new.low > one.spans.sandwich.high - one.spans.sandwich.low
        )
        assert one.votes == 1200
    assert "t with 79 degrees" in board.standings[0].spans.sandwich.method
    assert "t with 4 degrees" in board.standings[0].spans.sandwich_new.method


def test_shares_are_counts(board):
    table = simulated_votes([0.8, 0.3, 0.0, -0.9], raters=5, items=80, rater_sd=0.2, item_sd=0.4, seed=1)
    mine = [
        (a, table.left[n], table.right[n]) for n, a in enumerate(table.answer) if 2 in (table.left[n], table.right[n])
    ]
    won = sum((a == 0 and left == 2) or (a == 1 and right == 2) for a, left, right in mine)
    ties, bad = sum(a == 2 for a, *_ in mine), sum(a == 3 for a, *_ in mine)
    (one,) = [one for one in board.standings if one.model == "model 2"]
    assert one.win_share == pytest.approx((won + (ties + bad) / 2) / 1200)
    assert (one.tie_share, one.both_bad_share) == (ties / 1200, bad / 1200)


def test_measurements_are_a_result(board):
    result = Result(board.measurements())
    found = result.measurements["strength_model_0"]
    assert found.low == board.standings[0].spans.these_raters.low
    assert (found.unit, found.n, found.baseline) == ("log-odds", 2400, 0.0)


def test_text_is_a_table(board):
    lines = board.to_text().splitlines()
    assert lines[1].split()[:3] == ["1", "model", "0"]
    assert lines[-1] == "2400 votes of 5 raters on 80 items"


def test_pairs_are_tested_and_corrected(board):
    assert len(board.pairs) == 6
    assert {(pair.first, pair.second) for pair in board.pairs} == set(combinations([f"model {n}" for n in range(4)], 2))
    assert all(pair.difference > 0 and pair.p <= pair.p_holm <= 1 for pair in board.pairs)
    assert [pair.p_holm for pair in board.pairs] == holm([pair.p for pair in board.pairs])
    assert board.pairs[2].p_holm < 0.001  # model 0 against model 3


def test_pair_tests_keep_their_level():
    tests = [
        leaderboard(simulated_votes([0.0, 0.0], raters=3, items=60, item_sd=0.5, seed=n), rounds=1).pairs[0].p
        for n in range(150)
    ]
    assert 0.01 < np.mean(np.array(tests) < 0.05) < 0.10


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_holm_is_the_closure_of_bonferroni(p_values):
    def closed(one):
        # A hypothesis falls when Bonferroni rejects every set of hypotheses that it is in.
        sets = (c for n in range(1, len(p_values) + 1) for c in combinations(range(len(p_values)), n) if one in c)
        return min(1.0, max(len(c) * min(p_values[i] for i in c) for c in sets))

    assert holm(p_values) == pytest.approx([closed(one) for one in range(len(p_values))])


def test_what_the_votes_do_not_tell_is_said():
    left, right = list("aabbcdex"), list("bbaaaeyy")
    answers = ["left", "right", "left", "right", "right", "tie", "left", "left"]
    board = leaderboard(VoteTable.of(left, right, answers), rounds=50)
    by_name = {one.model: one for one in board.standings}
    assert by_name["c"].strength == -np.inf
    assert (by_name["c"].place, by_name["c"].places, by_name["c"].spans.these_raters) == (3, None, None)
    assert by_name["a"].group != by_name["d"].group
    assert by_name["y"].strength == -np.inf
    assert by_name["x"].strength == -by_name["y"].strength or np.isnan(by_name["x"].strength)
    assert any("never compared with each other" in note for note in board.notes)
    assert "Note: c: never beat" in board.to_text()
    assert not any({pair.first, pair.second} & {"c", "y"} for pair in board.pairs)


def test_one_rater_has_no_interval_for_new_ones():
    board = leaderboard(simulated_votes([0.5, -0.5], raters=1, items=40, seed=0), rounds=50)
    for one in board.standings:
        assert one.spans.these_raters is not None
        assert one.spans.new_raters is one.spans.sandwich_new is None
    assert "–" in board.to_text()


def test_one_prompt_has_no_interval_at_all():
    board = leaderboard(VoteTable.of(list("abab"), list("baba"), ["left"] * 4, items=["i"] * 4), rounds=50)
    assert board.standings[0].spans.these_raters is None
    assert board.pairs[0].p == 1.0
    assert board.measurements() == {}


def test_no_votes_are_refused():
    with pytest.raises(StudyError, match="there are no comparisons"):
        leaderboard(VoteTable.of([], [], []))
    with pytest.raises(StudyError, match="there are no comparisons"):
        leaderboard(VoteTable.of(["a"], ["b"], ["skip"]))


def test_two_raters_do_not_make_an_interval_without_width():
    for seed in range(20):  # in some of these the two-way covariance is not positive
        board = leaderboard(simulated_votes([0.1, -0.1], raters=2, items=18, seed=seed), rounds=10)
        for one in board.standings:
            these, new = one.spans.sandwich, one.spans.sandwich_new
            assert new.high - new.low >= these.high - these.low > 0

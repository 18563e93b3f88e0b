"""The test may be looked at after every vote: its errors, its e-value and its interval, got in other ways too."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import beta

from kit.humaneval.errors import StudyError
from kit.humaneval.sequential import evidence, evidence_path, fewest_outcomes, item_outcomes, verdicts
from kit.humaneval.simulate import simulated_votes
from kit.humaneval.study import Stop
from kit.humaneval.table import VoteTable

A, B = "model 0", "model 1"


def votes(answers, items=None):
    n = len(answers)
    return VoteTable.of(["a"] * n, ["b"] * n, answers, items=items)


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3, 0.01])
def test_no_verdict_falls_before_the_fewest_outcomes(alpha):
    fewest = fewest_outcomes(alpha)
    assert evidence(votes(["left"] * fewest), "a", "b", stop=Stop(alpha=alpha)).verdict == "first"
    assert evidence(votes(["left"] * (fewest - 1)), "a", "b", stop=Stop(alpha=alpha)).verdict == "undecided"


def test_the_e_value_is_a_mixture_over_a_half():
    outcomes = [1, 1, 0, 0.5, 1, 1, 0, 1, 1, 1]
    path = evidence_path(outcomes)
    for n in range(1, len(outcomes) + 1):
        wins, losses = outcomes[:n].count(1), outcomes[:n].count(0)
        mixed = quad(lambda p, a=wins, b=losses: p**a * (1 - p) ** b * beta.pdf(p, 10, 10), 0, 1)[0]
        assert np.exp(path.log_e[n - 1]) == pytest.approx(mixed / 0.5 ** (wins + losses))


def test_the_interval_is_where_the_mixture_has_not_won():
    outcomes = np.random.default_rng(0).choice([1.0, 0.5, 0.0], p=[0.5, 0.2, 0.3], size=150)
    path = evidence_path(outcomes, alpha=0.1)
    lows, highs = [0.0], [1.0]
    for n in range(1, 151):
        won = outcomes[:n].sum()
        mixed = quad(lambda p, w=won, n=n: np.exp(w * np.log(p) + (n - w) * np.log1p(-p)) * beta.pdf(p, 10, 10), 0, 1)[
            0
        ]

        def gap(p, won=won, n=n, mixed=mixed):
            return won * np.log(p) + (n - won) * np.log1p(-p) - np.log(0.1) - np.log(mixed)

        mean = min(max(won / n, 1e-9), 1 - 1e-9)
        lows.append(brentq(gap, 1e-9, mean) if gap(1e-9) < 0 else 0)
        highs.append(brentq(gap, mean, 1 - 1e-9) if gap(1 - 1e-9) < 0 else 1)
    assert path.low == pytest.approx(np.maximum.accumulate(lows[1:]), abs=1e-6)
    assert path.high == pytest.approx(np.minimum.accumulate(highs[1:]), abs=1e-6)


def test_false_verdicts_with_a_look_after_each_of_2000_votes():
    generator = np.random.default_rng(0)
    false = sum((evidence_path(generator.integers(0, 2, size=2000)).log_e >= np.log(20)).any() for _ in range(300))
    assert false / 300 <= 0.05 + 0.025  # alpha, and two standard errors of the simulation; exactly 0.036, test_planner
    assert false > 0


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.0), (0.35, 0.35, 0.3), (0.6, 0.25, 0.15)])
def test_the_interval_holds_at_every_look(shares):
    generator = np.random.default_rng(1)
    true = shares[0] + shares[2] / 2
    missed = 0
    for _ in range(300):
        path = evidence_path(generator.choice([1.0, 0.0, 0.5], p=shares, size=800))
        missed += (path.low > true).any() or (path.high < true).any()
    assert missed / 300 <= 0.05


def test_items_of_strong_tastes_do_not_make_verdicts():
    votes_false = items_false = 0
    for seed in range(150):
        table = simulated_votes([0, 0], raters=10, items=100, item_sd=1.0, tie=0.4, seed=seed)
        score = np.select([table.answer == 0, table.answer == 1], [table.left == 0, table.right == 0], 0.5)
        votes_false += (evidence_path(score).log_e >= np.log(20)).any()
        items_false += evidence(table, A, B, stop=Stop(rope=0)).verdict in {"first", "second"}
    assert items_false / 150 <= 0.05
    assert votes_false / 150 > 0.08  # why votes are not what is counted


def test_verdicts():
    table = simulated_votes([0.8, -0.8], raters=1, items=300, tie=0.3, seed=0)
    found = evidence(table, A, B, stop=Stop())
    assert (found.verdict, found.likely_left) == ("first", None)
    assert found.to_text() == f"model 0 is better, decided after {found.decided_after} votes"
    assert found.e_value > 20
    assert found.low > 0.5
    other = evidence(table, B, A, stop=Stop())
    assert (other.verdict, other.decided_after) == ("second", found.decided_after)
    assert (other.low, other.high) == pytest.approx((1 - found.high, 1 - found.low))
    shorter = table.only(np.arange(300) < found.decided_after - 1)
    assert evidence(shorter, A, B, stop=Stop()).verdict == "undecided"
    same = simulated_votes([0, 0], raters=1, items=3000, seed=0)
    found = evidence(same, A, B, stop=Stop(rope=0.1))
    assert found.verdict == "equivalent"
    assert found.high - found.low < 0.2
    assert "equivalent in practice" in found.to_text()
    ended = evidence(same, A, B, stop=Stop(rope=0.0, max_votes=50))
    assert (ended.verdict, ended.wins + ended.losses + ended.ties) == ("ended", 50)
    assert ended.to_text() == "no verdict after 50 votes, which is where the study ends"


def test_a_verdict_stays():
    answers = ["left"] * 40 + ["right"] * 200
    assert evidence(votes(answers), "a", "b", stop=Stop()).verdict == "first"


def test_alpha_is_shared_among_pairs():
    table = votes(["left"] * 18)
    alone, among = (evidence(table, "a", "b", stop=Stop(), pairs=pairs) for pairs in (1, 100))
    assert alone.e_value == among.e_value
    assert (alone.verdict, among.verdict) == ("first", "undecided")
    assert alone.low > among.low


def test_every_pair_shares_alpha():
    table = simulated_votes([1.0, 0.9, -2.0], raters=1, items=200, tie=0.3, seed=0)
    found = verdicts(table, (A, B, "model 2", "never shown"), stop=Stop())
    assert [(one.first, one.second) for one in found] == [(A, B), (A, "model 2"), (B, "model 2")]
    assert [one.verdict for one in found] == ["undecided", "first", "first"]
    assert found[1] == evidence(table, A, "model 2", stop=Stop(), pairs=6)


def test_what_is_likely_left():
    found = evidence(votes(["left", "left", "right", "tie"] * 5), "a", "b", stop=Stop())
    assert (found.verdict, found.wins, found.losses, found.ties) == ("undecided", 10, 5, 5)
    assert found.to_text() == f"a ahead, about {found.likely_left} more votes likely"
    later = evidence(votes(["left", "left", "right", "tie"] * 85), "a", "b", stop=Stop())
    assert 20 + found.likely_left == pytest.approx(later.decided_after, rel=0.35)  # it does not trust 10 to 5 quite
    level = evidence(votes(["left", "right"] * 10), "a", "b", stop=Stop())
    assert level.likely_left is None
    assert level.to_text().startswith("level, a verdict is not likely")
    empty = evidence(VoteTable.of(["a"], ["b"], ["skip"]), "a", "b", stop=Stop())
    assert (empty.verdict, empty.low, empty.high) == ("undecided", 0.0, 1.0)
    assert empty.to_text() == "no votes yet"


@pytest.mark.parametrize("votes_each", [1, 2, 3])
def test_outcomes_are_items_in_order_of_completion(votes_each):
    table = simulated_votes([0.5, 0, -0.5], raters=4, items=30, share=0.7, seed=3)
    expected, seen = [], {}
    for row in range(len(table)):
        sides = (table.left[row], table.right[row])
        if 1 in sides:
            continue
        score = 0.5 if table.answer[row] > 1 else float(sides[table.answer[row]] == 0)
        seen.setdefault(table.item[row], []).append(score)
        if len(seen[table.item[row]]) == votes_each:
            expected.append(np.mean(seen[table.item[row]]))
    assert item_outcomes(table, "model 0", "model 2", votes_each=votes_each) == pytest.approx(expected)
    assert len(expected) > 15


def test_bad_input():
    table = votes(["left"])
    for options, said in ((("a", "c"), "no such model: 'c'"), (("a", "a"), "'a' cannot be compared with itself")):
        with pytest.raises(StudyError, match=said):
            item_outcomes(table, *options)
    with pytest.raises(StudyError, match="votes_each must be at least 1"):
        item_outcomes(table, "a", "b", votes_each=0)

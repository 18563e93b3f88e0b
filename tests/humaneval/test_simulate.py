"""Simulated raters: under names that say so, through the same store as people, with the taste that they were given."""

from __future__ import annotations

import numpy as np
import pytest
from small_studies import make_study

from kit.humaneval.errors import StudyError
from kit.humaneval.items import Item, Output
from kit.humaneval.leaderboard import leaderboard
from kit.humaneval.raters import gold_accuracy, left_share, self_consistency
from kit.humaneval.schedule import tasks_of
from kit.humaneval.simulate import at_reliability, vote_simulated
from kit.humaneval.store import Store

RATERS = ("simulated 1", "simulated 2", "simulated 3")


@pytest.fixture
def store(tmp_path):
    with Store(str(tmp_path / "votes.db")) as opened:
        yield opened


def simulated_study(n=60, **changed):
    gold = tuple(Item(f"gold {i}", {"right": Output(f"r{i}"), "wrong": Output(f"w{i}")}, "p") for i in range(6))
    return make_study(n, raters=RATERS, repeats=0.1, gold=gold, gold_share=0.1, **changed)


def appeals(study, by_condition):
    return {(item.id, name): by_condition[name] for item in study.items for name in study.conditions}


def test_the_taste_comes_back_and_every_task_is_answered_once(store):
    study = simulated_study()
    store.register(study)
    count = vote_simulated(study, store, appeals(study, {"base": -0.7, "adapted": 0.7}), seed=1)
    votes = [vote for vote in store.votes("captions") if vote.rater]
    assert len(votes) == count == sum(len(tasks_of(study, rater)) for rater in RATERS)
    assert {vote.client for vote in votes} == {"simulated"}
    assert all(vote.ms == 0 for vote in votes)
    table = store.table("captions")
    best = leaderboard(table, rounds=200).standings[0]
    assert best.model == "adapted"
    assert best.spans.these_raters.low < 0.7 < best.spans.these_raters.high
    assert gold_accuracy(table).value > 0.9
    assert self_consistency(table).low < 1
    assert left_share(table).low < 0.5 < left_share(table).high


def test_a_bias_for_the_left_side_is_found(store):
    study = simulated_study()
    store.register(study)
    vote_simulated(study, store, appeals(study, {"base": 0, "adapted": 0}), left_bias=1.5, tie=0)
    assert left_share(store.table("captions")).low > 0.5


def test_it_goes_on_where_it_stopped_and_the_same_seed_votes_the_same(store, tmp_path):
    study = simulated_study(12)
    store.register(study)
    taste = appeals(study, {"base": 0, "adapted": 1})
    assert vote_simulated(study, store, taste, rater_sd=0.5, seed=3) > 0
    assert vote_simulated(study, store, taste, rater_sd=0.5, seed=3) == 0
    with Store(str(tmp_path / "other.db")) as other:
        other.register(study)
        vote_simulated(study, other, taste, rater_sd=0.5, seed=3)
        answers = [[(vote.uuid, vote.answer) for vote in one.votes("captions")] for one in (store, other)]
    assert answers[0] == answers[1]
    assert len(np.unique([answer for _, answer in answers[0]])) > 1


def test_nobody_votes_under_a_persons_name(store):
    study = make_study(4, raters=("ana", "simulated 1", "ben"))
    store.register(study)
    with pytest.raises(StudyError) as caught:
        vote_simulated(study, store, {})
    assert [fault.what for fault in caught.value.faults] == ["'ana' may be a person", "'ben' may be a person"]
    with pytest.raises(StudyError, match="this is best_of"):
        vote_simulated(make_study(4, raters=RATERS, design="best_of"), store, {})


def test_raters_choose_the_better_one_as_often_as_they_are_reliable(store):
    study = simulated_study(200)
    taste = {
        (item.id, name): float(n % 2 == (name == "base"))
        for n, item in enumerate(study.items)
        for name in study.conditions
    }
    store.register(study)
    vote_simulated(study, store, at_reliability(taste, 0.8), tie=0.0, seed=2)
    votes = [vote for vote in store.votes(study.name) if vote.kind == "first"]
    right = [taste[vote.item, vote.shown[("left", "right").index(vote.answer)]] for vote in votes]
    assert len(right) > 550
    assert abs(np.mean(right) - 0.8) < 4 * (0.16 / len(right)) ** 0.5


def test_equal_outputs_are_a_coins_and_wrong_reliabilities_are_told():
    assert at_reliability({("i", "a"): 2.0, ("i", "b"): 2.0}, 0.9) == {("i", "a"): 0.0, ("i", "b"): 0.0}
    with pytest.raises(StudyError, match=r"(?s)taste: i: two outputs are compared, got 1.*reliability: must be above"):
        at_reliability({("i", "a"): 2.0}, 1.0)


def test_the_next_rater_goes_on_where_one_stopped(store):
    study = make_study(30, raters=RATERS, repeats=0.0, raters_per_pair=1)
    store.register(study)
    count = vote_simulated(study, store, appeals(study, {"base": 0, "adapted": 0}), most_each=12)
    pairs = [vote.item for vote in store.votes(study.name) if vote.rater]
    assert len(pairs) == count == len(set(pairs))
    assert [sum(vote.rater == name for vote in store.votes(study.name)) for name in RATERS] == [12, 12, count - 24]

"""What the methods paragraph says can be checked against the votes."""

from small_studies import cast, make_study

from kit.humaneval.methods import methods
from kit.humaneval.simulate import vote_simulated
from kit.humaneval.store import Store


def test_it_names_what_was_counted_and_the_hash(store):
    study = make_study(12, repeats=0.1)
    store.register(study)
    for answer in ("left", "skip", "tie"):
        store.record(study, cast(study, store.hand_out(study, "ana", holder="w"), answer))
    text = methods(study, store.table("captions"))
    assert "2 raters compared 2 conditions on 12 items" in text
    assert "Counted were 2 votes; 0 repeats, 0 gold votes, 1 pairs of identical outputs" in text
    assert "and 1 skips" in text
    assert text.endswith(f"its SHA-256 is {study.digest}.")
    assert "simulated" not in text


def test_it_says_how_pairs_were_chosen(store):
    study = make_study(4, conditions=("a", "b", "c"), informative=0.8)
    store.register(study)
    assert "80% of the comparisons came next where a vote told most" in methods(study, store.table("captions"))


def test_simulated_raters_are_named_as_such(tmp_path):
    with Store(str(tmp_path / "votes.db")) as store:
        study = make_study(4, raters=("simulated 1", "ben"))
        store.register(study)
        assert "2 raters, 1 of them simulated by a program, compared" in methods(study, store.table("captions"))
        alone = make_study(4, raters=("simulated 1",), name="alone")
        store.register(alone)
        vote_simulated(alone, store, {(f"item {n}", name): 0.0 for n in range(4) for name in alone.conditions})
        assert "One rater, all of them simulated by a program and none a person" in methods(alone, store.table("alone"))

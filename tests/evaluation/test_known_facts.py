"""Facts before and after: what counts as said, and shares whose pairs are kept together."""

import pytest
from scipy.stats import binomtest

from kit.data.facts import Fact, load_facts
from kit.errors import DataError
from kit.evaluation.known_facts import facts_kept, says

PARIS = Fact("1", "What is the capital of France?", ("Paris",), "capital")
GAS = Fact("2", "Which gas?", ("carbon dioxide", "CO2"), "other")


@pytest.mark.parametrize(
    ("said", "fact", "right"),
    [
        ("The capital of France is Paris.", PARIS, True),
        ("PARIS!", PARIS, True),
        ("Parisian", PARIS, False),
        ("no", PARIS, False),
        ("", PARIS, False),
        ("They take Carbon Dioxide.", GAS, True),
        ("CO2", GAS, True),
        ("CO22", GAS, False),
        ("carbon", GAS, False),
    ],
)
def test_a_right_word_counts_as_a_word(said, fact, right):
    assert says(said, fact) is right


def test_shares_and_their_difference():
    facts = load_facts(limit=40)
    right = [f"It is {fact.answers[0]}." for fact in facts]
    before, after = right[:30] + ["no"] * 10, right[:12] + ["no"] * 28
    found = facts_kept(facts, before, after)
    assert (found["facts_before"].value, found["facts_after"].value) == (0.75, 0.3)
    ends = binomtest(12, 40).proportion_ci(0.95, method="exact")
    assert (found["facts_after"].low, found["facts_after"].high) == pytest.approx((ends.low, ends.high))
    gain = found["facts_gain"]
    assert gain.value == pytest.approx(-0.45)
    assert (gain.baseline, gain.n) == (0.0, 40)
    assert -0.62 < gain.low < -0.45 < gain.high < -0.28


def test_pairs_are_kept_together():
    facts = load_facts(limit=20)
    said = [fact.answers[0] if number % 2 else "no" for number, fact in enumerate(facts)]
    gain = facts_kept(facts, said, said)["facts_gain"]
    assert (gain.value, gain.low, gain.high) == (0, 0, 0)


def test_unequal_lists_are_refused():
    facts = load_facts(limit=3)
    with pytest.raises(DataError, match="3 facts, 3 answers before and 2 after"):
        facts_kept(facts, ["a"] * 3, ["a"] * 2)
    with pytest.raises(DataError, match="0 facts"):
        facts_kept([], [], [])

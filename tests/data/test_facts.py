"""Facts: short, one right answer, which the question does not give away."""

import re
from collections import Counter

import pytest

from kit.data.facts import load_facts
from kit.errors import DataError


def test_facts_are_distinct_and_give_nothing_away():
    facts = load_facts()
    assert len(facts) >= 50
    assert len(set(facts.texts())) == len({fact.id for fact in facts}) == len({fact.digest() for fact in facts})
    assert set(Counter(fact.group for fact in facts)) == {"capital", "opposite", "other"}
    for fact in facts:
        assert fact.question.endswith("?")
        assert fact.answers
        assert all(answer == answer.strip() and answer for answer in fact.answers)
        words = set(re.findall(r"\w+", fact.question.casefold()))
        assert not words & {word for answer in fact.answers for word in answer.casefold().split()}, fact


def test_some_of_them():
    by_question = {fact.question: fact.answers for fact in load_facts()}
    assert by_question["What is the capital of Sweden?"] == ("Stockholm",)
    assert by_question["What is the opposite of big?"] == ("small", "little")
    assert by_question["Which gas do plants take from the air?"] == ("carbon dioxide", "CO2", "CO₂")


def test_a_limit_draws_the_same_again():
    some = load_facts(limit=9, seed=3)
    assert len(some) == 9
    assert set(some.items) <= set(load_facts(limit=20, seed=3).items)
    assert some.digest() == load_facts(limit=9, seed=3).digest() != load_facts(limit=9).digest()
    with pytest.raises(DataError, match="limit"):
        load_facts(limit=0)

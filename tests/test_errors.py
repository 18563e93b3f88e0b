"""Errors are for people, hold all faults at once, and cross process boundaries."""

import pickle

import pytest

from kit import errors
from kit.errors import Fault, KitError, ModelError, did_you_mean, listed, raise_faults

KINDS = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, KitError)),
    key=lambda kind: kind.__name__,
)


def test_every_kind_of_failure_has_one_base():
    assert len(KINDS) == 8
    assert all(kind.__mro__[1] in {KitError, Exception} for kind in KINDS), "the tree is flat"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_survives_pickling_whole(kind, protocol):
    error = kind([Fault("here", "is wrong", "mend it", "Allowed: a."), Fault("there", "too")])
    back = pickle.loads(pickle.dumps(error, protocol))
    assert type(back) is kind
    assert back.faults == error.faults
    assert str(back) == str(error)


def test_the_form_of_a_fault():
    fault = Fault("recipes/stitch.yaml: sizes.laptop.epoch", "not a parameter.", "rename it", "Declared: epochs.")
    assert str(fault).splitlines() == [
        "recipes/stitch.yaml: sizes.laptop.epoch: not a parameter.",
        "  Declared: epochs.",
        "  Fix: rename it",
    ]
    assert str(Fault("a", "b")) == "a: b"


def test_all_faults_are_stated_in_order():
    with pytest.raises(ModelError) as caught:
        raise_faults([Fault("one", "1"), Fault("two", "2")], ModelError)
    assert str(caught.value) == "one: 1\ntwo: 2"
    raise_faults([], ModelError)


def test_a_single_fault_needs_no_list():
    error = ModelError.of("where", "what", "fix", "allowed")
    assert type(error) is ModelError
    assert error.faults == (Fault("where", "what", "fix", "allowed"),)


def test_the_nearest_name():
    assert did_you_mean("epoch", ["epochs", "seed"]) == " Did you mean 'epochs'?"
    assert did_you_mean("xyz", ["epochs", "seed"]) == ""
    assert did_you_mean(3, [3.5, "x"]) == "" or "3.5" in did_you_mean(3, [3.5, "x"])
    assert listed(["b", "a"]) == "a, b"

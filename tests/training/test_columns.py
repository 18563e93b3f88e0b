"""What batches are made of."""

import numpy as np
import pytest
import torch

from kit.errors import DataError
from kit.models.activations import ActivationStore
from kit.training.columns import Fixed, OneOf, as_columns


def chance(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture
def stored(tmp_path):
    def compute(positions):
        yield np.array([[position, -position] for position in positions], dtype=np.float32)

    return ActivationStore(tmp_path, limit_gib=1).fetch("k", [str(n) for n in range(5)], compute)


def test_a_fixed_column_is_a_tensor_or_activations(stored):
    tensor = torch.arange(10.0).reshape(5, 2)
    assert torch.equal(Fixed(tensor).draw(np.array([3, 0, 3]), chance()), tensor[[3, 0, 3]])
    assert Fixed(stored).draw(np.array([3, 0, 3]), chance()).tolist() == [[3, -3], [0, 0], [3, -3]]
    assert len(Fixed(stored)) == 5


def test_the_digest_is_the_contents():
    tensor = torch.arange(10.0)
    assert Fixed(tensor).digest() == Fixed(tensor.clone()).digest()
    assert Fixed(tensor).digest() == Fixed(torch.arange(20.0)[::2].mul(0.5)).digest(), "strides do not count"
    assert Fixed(tensor).digest() != Fixed(tensor + 1e-6).digest()
    assert Fixed(tensor).digest() != Fixed(tensor.int()).digest()
    shaped = Fixed(tensor.reshape(5, 2)).digest(), Fixed(tensor.reshape(2, 5)).digest()
    assert shaped[0] != shaped[1]


def test_one_of_draws_each_variant_about_as_often_and_never_mixes_rows():
    variants = tuple(Fixed(torch.arange(1000.0).unsqueeze(1) + 10_000 * number) for number in range(4))
    column = OneOf(variants)
    indices = np.arange(1000)
    drawn = column.draw(indices, chance()).squeeze(1)
    assert (drawn % 10_000).tolist() == list(range(1000))
    counts = np.bincount((drawn // 10_000).int())
    assert counts.min() > 190
    assert torch.equal(drawn, column.draw(indices, chance()).squeeze(1)), "chance is the generator's"
    assert not torch.equal(drawn, column.draw(indices, chance(1)).squeeze(1))


def test_one_of_may_hold_stored_activations(stored):
    drawn = OneOf((Fixed(stored), Fixed(torch.full((5, 2), 9.0)))).draw(np.arange(5), chance())
    assert {tuple(row) for row in drawn.tolist()} <= {(9, 9), *((n, -n) for n in range(5))}


def test_the_order_of_variants_is_in_the_digest():
    one, two = Fixed(torch.zeros(3)), Fixed(torch.ones(3))
    assert OneOf((one, two)).digest() != OneOf((two, one)).digest()


def test_columns_of_unequal_length_and_none_at_all(stored):
    assert [len(column) for column in as_columns([torch.zeros(5, 1), stored, OneOf((Fixed(stored),))])] == [5, 5, 5]
    with pytest.raises(DataError, match=r"different lengths: \[5, 4\]"):
        as_columns([stored, torch.zeros(4)])
    for nothing in ([], [torch.zeros(0, 3)]):
        with pytest.raises(DataError, match="there is nothing to train on"):
            as_columns(nothing)


def test_one_of_takes_variants_of_equal_length_and_at_least_one(stored):
    with pytest.raises(DataError):
        OneOf.of([stored, torch.zeros(4, 2)])
    with pytest.raises(DataError):
        OneOf.of([])

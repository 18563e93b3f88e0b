"""The gate: it passes what is the same model, fails what is not, and says where it broke."""

import pytest
import torch

from kit.errors import DataError
from kit.quantization.copies import merged
from kit.quantization.parity import TOLERANCES, Tolerance, drift, logits_of, parity, where_it_broke
from kit.quantization.probes import fixed_probes

PROBES = fixed_probes()


def test_probes_never_change():
    assert len(PROBES) == 20
    assert sum(probe.picture is not None for probe in PROBES) == 12
    assert len({probe.picture.digest() for probe in PROBES if probe.picture}) == 12
    assert [probe.messages for probe in PROBES] == [probe.messages for probe in fixed_probes()]
    assert PROBES[0].picture.digest() == fixed_probes()[0].picture.digest()


def test_by_hand():
    ours, theirs = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([[5.0, 6.0], [0.0, 2.0]])
    found = parity(lambda _: ours, lambda _: theirs, PROBES[:1])
    assert (found.positions, found.agreement) == (2, 0.5)
    assert found.max_logit == pytest.approx(2)  # a constant on all logits of a position means nothing
    assert found.mean_logit == pytest.approx(1)
    share = torch.tensor([2.0, 0.0]).softmax(0)
    assert found.kl_nats == pytest.approx(float((share * torch.tensor([2.0, -2.0])).sum()) / 2, abs=1e-6)
    assert found.worst == "token 2 of 'red circle'"
    same = parity(lambda _: ours, lambda _: ours, PROBES[:1])
    assert same.faults(Tolerance(0, 0, 1e-9, 1)) == []


def test_every_tolerance_can_fail():
    ours, theirs = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 0.0]])
    found = parity(lambda _: ours, lambda _: theirs, PROBES[:1], task=3.0)
    assert len(found.faults(Tolerance(0.1, 0.1, 0.1, 0.9, task=1))) == 5
    assert not found.faults(Tolerance(9, 9, 9, 0, task=9))
    rows = found.rows(Tolerance(9, 9, 9, 0.5, task=9))
    assert [row[3] for row in rows] == ["pass", "pass", "pass", "FAIL", "pass"]
    assert set(found.measurements("int8_")) == {"int8_max_logit", "int8_mean_logit", "int8_kl_nats", "int8_agreement"}


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_fails(wrong):
    ours, theirs = torch.zeros(2, 3), torch.full((2, 3), wrong)
    assert parity(lambda _: ours, lambda _: theirs, PROBES[:1]).faults(Tolerance(1e9, 1e9, 1e9, 0))


def test_other_shapes_and_no_probes_are_told():
    with pytest.raises(DataError, match="there are no probes"):
        parity(torch.zeros, torch.zeros, [])
    with pytest.raises(DataError, match=r"logits of shape \(3, 3\), the parent's are \(2, 3\)"):
        parity(lambda _: torch.zeros(2, 3), lambda _: torch.zeros(3, 3), PROBES[:1])


@pytest.mark.parametrize("layer", [1, 3])
def test_it_says_in_which_layer_a_copy_broke(bundle, layer):
    model, broken = merged(bundle), merged(bundle)
    weight = broken.language.model.layers[layer].mlp.down_proj.weight
    weight.data = weight.data.flip(0)
    found = parity(logits_of(model), logits_of(broken), PROBES)
    assert found.faults(TOLERANCES["int8"])
    assert where_it_broke(model, broken, PROBES[found.worst_probe]).startswith(f"layer {layer}: ")
    drifts = drift(model, broken, PROBES[0])
    assert max(drifts[:layer]) == 0 < drifts[layer]


def test_a_scrambled_adapter_fails_every_gate(bundle):
    model, broken = merged(bundle), merged(bundle)
    for name, one in broken.language.named_parameters():
        if "proj" in name:
            one.data = one.data[torch.randperm(len(one), generator=torch.Generator().manual_seed(0))]
    found = parity(logits_of(model), logits_of(broken), PROBES)
    assert all(found.faults(tolerance) for tolerance in TOLERANCES.values())

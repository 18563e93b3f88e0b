"""From features to tokens: sizes, norms, the same weights from the same seed, and what is refused."""

import pytest
import torch

from kit.errors import ModelError
from kit.models.projector import Projector

SIZES = {"vision_width": 30, "width": 64, "tokens": 4}


def features(n=200, seed=0):
    """Channels that differ a thousandfold in scale, one of them constant."""
    drawn = torch.randn(n, 4, 30, generator=torch.Generator().manual_seed(seed)) * torch.logspace(-1, 2, 30)
    drawn[..., 7] = 5.0
    return drawn + torch.linspace(-50, 50, 30)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("norm", [0.7, 12.0])
def test_a_calibrated_projectors_tokens_have_about_the_asked_norm(kind, norm):
    projector = Projector(**SIZES, kind=kind, norm=norm)
    projector.calibrate(features())
    found = projector(features(seed=1))
    assert found.shape == (200, 4, 64)
    scale = 1.0 if kind == "linear" else 0.3  # GELU lets a part through
    assert found.detach().norm(dim=-1).median().item() == pytest.approx(norm * scale, rel=0.5)


def test_calibrated_features_have_mean_0_and_deviation_1_in_every_channel():
    projector = Projector(**SIZES)
    projector.calibrate(features())
    even = ((features() - projector.mean) / projector.deviation).flatten(0, 1)
    assert even.mean(0).abs().max() < 1e-3
    deviations = even.std(0)
    assert deviations[7] < 1e-3, "a constant channel stays at 0"
    assert (deviations[torch.arange(30) != 7] - 1).abs().max() < 0.02
    large = Projector(**SIZES)
    large.calibrate(features() + 1e4)  # a sum of squares in float32 would lose the deviation
    torch.testing.assert_close(large.deviation, projector.deviation, rtol=1e-2, atol=1e-3)


def test_places_are_told_apart_once_trained():
    projector = Projector(**SIZES)
    same = torch.ones(1, 4, 30).cumsum(-1)
    assert torch.equal(projector(same)[0, 0], projector(same)[0, 3])
    projector.place.data[3] += 1
    assert not torch.allclose(projector(same)[0, 0], projector(same)[0, 3])


def test_the_same_seed_gives_the_same_weights_and_leaves_torchs_chance_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = Projector(**SIZES, seed=1), Projector(**SIZES, seed=1), Projector(**SIZES, seed=2)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert not torch.equal(one.layers[-1].weight, other.layers[-1].weight)


def test_saved_and_loaded_it_is_the_same():
    projector = Projector(**SIZES, kind="mlp", norm=3.0)
    projector.calibrate(features())
    again = Projector(**SIZES, kind="mlp", hidden=64, norm=3.0, seed=9)
    again.load_state_dict(projector.state_dict())
    assert torch.equal(again(features()), projector(features()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": "liner"}, r"(?s)projector: 'liner' is unknown. Did you mean 'linear'\?.*Allowed: linear, mlp."),
        ({"norm": 0.0}, "projector: norm: must be a number above 0, got 0.0"),
        ({"norm": float("nan")}, "must be a number above 0, got nan"),
        ({"kind": "mlp", "hidden": -2}, "hidden: must be a whole number of at least 1, or 0 for the width, got -2"),
        ({"hidden": 32}, r"(?s)hidden: a linear projector has one layer.*Fix: leave it out"),
        ({"kind": "big", "norm": -1}, r"(?s)'big' is unknown.*got -1"),
    ],
)
def test_settings_that_make_no_projector_are_said(options, said):
    with pytest.raises(ModelError, match=said):
        Projector(**SIZES, **options)


@pytest.mark.parametrize("shape", [(0, 4, 30), (5, 4, 29)])
def test_features_of_another_tower_are_refused(shape):
    with pytest.raises(ModelError, match=r"calibrate: must be features of 30 numbers, got shape \("):
        Projector(**SIZES).calibrate(torch.zeros(shape))

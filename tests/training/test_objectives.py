"""The losses against their definitions, written by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kit.errors import ModelError
from kit.models.cut import Pairs
from kit.training.objectives import Contrastive


class Two(nn.Module):
    """Two linear projections with a learned temperature, and a bias where the sigmoid loss wants one."""

    def __init__(self, bias=True):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(6, 4), nn.Linear(5, 4)
        self.scale = nn.Parameter(torch.tensor(math.log(10)))
        self.bias = nn.Parameter(torch.tensor(-3.0)) if bias else None

    def forward(self, image, text):
        unit = [F.normalize(self.image(image), dim=-1), F.normalize(self.text(text), dim=-1)]
        return Pairs(*unit, self.scale.exp(), self.bias)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(7, 6, generator=generator), torch.randn(7, 5, generator=generator)


def test_clip_is_the_symmetric_cross_entropy(batch):
    model = Two(bias=False)
    pairs = model(*batch)
    logits = (pairs.scale * pairs.image @ pairs.text.T).double()
    by_row = [logits[i, i] - torch.log(torch.exp(logits[i]).sum()) for i in range(7)]
    by_column = [logits[i, i] - torch.log(torch.exp(logits[:, i]).sum()) for i in range(7)]
    expected = -(sum(by_row) + sum(by_column)) / 14
    found = Contrastive("clip")(model, *batch)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    assert found.shape == ()


def test_siglip_is_a_logistic_loss_over_all_pairs(batch):
    model = Two()
    pairs = model(*batch)
    logits = (pairs.scale * pairs.image @ pairs.text.T + pairs.bias).double()
    expected = 0.0
    for i in range(7):
        for j in range(7):
            sign = 1 if i == j else -1
            expected += math.log1p(math.exp(-sign * logits[i, j].item()))
    assert Contrastive("siglip")(model, *batch).item() == pytest.approx(expected / 7, rel=1e-6)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_temperature_and_bias_are_learned(kind, batch):
    model = Two(bias=kind == "siglip")
    Contrastive(kind)(model, *batch).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients.values()), gradients
    assert "scale" in gradients


def test_a_batch_of_perfect_pairs_has_the_least_loss():
    eye = torch.eye(4)

    class Given(nn.Module):
        def forward(self, image, text):
            return Pairs(image, text, torch.tensor(100.0), None)

    assert Contrastive()(Given(), eye, eye).item() == pytest.approx(0, abs=1e-6)
    assert Contrastive()(Given(), eye, eye.flip(0)).item() == pytest.approx(100, abs=1e-3)


def test_an_unknown_kind():
    with pytest.raises(ModelError, match=r"(?s)'sigclip' is unknown. Did you mean 'siglip'\?.*Allowed: clip, siglip"):
        Contrastive("sigclip")


def test_siglip_needs_a_bias(batch):
    with pytest.raises(ModelError, match=r"(?s)needs a model with a logit bias.*build it with objective='siglip'"):
        Contrastive("siglip")(Two(bias=False), *batch)

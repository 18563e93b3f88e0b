"""Folding batch norms changes the speed and nothing else, or is not done."""

import pytest
import timm
import torch
from torch import nn

from kit.models.frozen import folded, quick


def shaken(tower):
    """Return a tower whose batch norms do something."""
    torch.manual_seed(0)
    for module in tower.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.2, 0.2)
            module.weight.data.uniform_(0.8, 1.2)
    return tower.eval()


def norms(tower):
    return sum(isinstance(module, nn.BatchNorm2d) for module in tower.modules())


@pytest.mark.weights
def test_the_folded_packaged_tower_gives_the_same_features(stitched):
    trunk = stitched.clip.visual.trunk
    pixels = torch.rand(4, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    with torch.no_grad():
        expected = trunk(pixels)
        fast = folded(trunk)
        found = fast(pixels)
    assert norms(trunk) == 49
    assert norms(fast) == 0
    assert float((found - expected).abs().max()) < 1e-4
    assert all(torch.equal(tensor, before[name]) for name, tensor in trunk.state_dict().items()), "only a copy changed"


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_other_towers_fold_too(name):
    tower = shaken(timm.create_model(name, num_classes=0))
    pixels = torch.randn(1, 3, 96, 96)
    fast = quick(tower, pixels)
    assert norms(fast) == 0
    with torch.no_grad():
        expected = tower(pixels)
        assert torch.allclose(fast(pixels), expected, atol=1e-4 * float(expected.abs().max()))


class OutOfOrder(nn.Module):
    """Declares a convolution and a norm one after the other, and runs them the other way round."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.bn = nn.BatchNorm2d(3)

    def forward(self, pixels):
        return self.conv(self.bn(pixels)).mean((2, 3))


def test_a_tower_where_folding_does_not_hold_is_left_alone():
    tower = shaken(OutOfOrder())
    pixels = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        assert not torch.allclose(folded(tower)(pixels), tower(pixels), atol=1e-3)
    assert quick(tower, pixels) is tower


def test_a_tower_without_batch_norms_is_shared():
    tower = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=0).eval()
    assert quick(tower, torch.randn(1, 3, 32, 32)) is tower

"""Rounding to 8 and 4 bits: near what it was, and near in what comes out where moments are given."""

import numpy as np
import pytest
import torch
from torch import nn

from kit.data.prose import load_prose
from kit.errors import DataError
from kit.quantization.copies import merged
from kit.quantization.moments import moments, usual_samples
from kit.quantization.probes import fixed_probes
from kit.quantization.rounding import BLOCK, quantise, quantise_4


def restored(matrix, bits, given=None):
    """What a graph multiplies by."""
    if bits == 8:
        numbers, scales = quantise(matrix, given)
        return torch.from_numpy((numbers.astype(np.float32) - 128) * scales[..., None]).reshape(matrix.shape)
    packed, scales, zeros = quantise_4(matrix, given)
    numbers = np.stack([packed & 15, packed >> 4], -1).reshape(*scales.shape, BLOCK).astype(np.float32)
    zeros = np.stack([zeros & 15, zeros >> 4], -1).reshape(len(scales), -1)[:, : scales.shape[1]]
    return torch.from_numpy((numbers - zeros[..., None]) * scales[..., None]).reshape(matrix.shape)


def test_quantised_blocks_are_near_what_they_were():
    matrix = torch.randn(6, 3 * BLOCK, generator=torch.Generator().manual_seed(0))
    numbers, scales = quantise(matrix)
    back = (numbers.astype(np.float32) - 128) * scales[..., None]
    assert np.abs(back.reshape(6, -1) - matrix.numpy()).max() <= scales.max() * 0.51
    packed, scales, zeros = quantise_4(matrix)
    assert (packed.shape, scales.shape, zeros.shape) == ((6, 3, BLOCK // 2), (6, 3), (6, 2))
    numbers = np.stack([packed & 15, packed >> 4], -1).reshape(6, 3, BLOCK)
    zeros = np.stack([zeros & 15, zeros >> 4], -1).reshape(6, 4)[:, :3]
    back = (numbers.astype(np.float32) - zeros[..., None]) * scales[..., None]
    error = np.abs(back.reshape(6, -1) - matrix.numpy())
    assert error.mean() < 0.09
    plain = (matrix.reshape(6, 3, BLOCK).amax(-1) - matrix.reshape(6, 3, BLOCK).amin(-1)) / 15
    assert (error**2).mean() < float((plain**2 / 12).mean()) * 1.05  # rounding to the whole range's levels


def test_values_on_a_grid_of_16_levels_are_kept_as_they_are():
    grid = torch.randint(0, 16, (4, 2 * BLOCK), generator=torch.Generator().manual_seed(0)).float()
    grid[:, ::BLOCK], grid[:, 1::BLOCK] = 0, 15
    matrix = (grid - 6) * 0.1
    packed, scales, zeros = quantise_4(matrix)
    numbers = np.stack([packed & 15, packed >> 4], -1).reshape(4, 2, BLOCK)
    back = (numbers.astype(np.float32) - (zeros & 15)[..., None]) * scales[..., None]
    np.testing.assert_allclose(back.reshape(4, -1), matrix.numpy(), atol=1e-6)


@pytest.mark.parametrize("bits", [8, 4])
def test_with_moments_outputs_stay_nearer_on_inputs_that_were_not_seen(bits):
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(48, 4 * BLOCK, generator=generator)
    mixing = torch.randn(12, 4 * BLOCK, generator=generator)  # inputs of fewer dimensions than columns, as in a model
    seen, unseen = (
        torch.randn(400, 12, generator=generator) @ mixing + 0.1 * torch.randn(400, 4 * BLOCK, generator=generator)
        for _ in range(2)
    )
    lost = {
        name: float(((restored(matrix, bits, given) - matrix) @ unseen.T).square().mean())
        for name, given in {"nearest": None, "moments": seen.T @ seen / len(seen)}.items()
    }
    assert lost["moments"] < 0.2 * lost["nearest"]


@pytest.mark.parametrize("bits", [8, 4])
def test_moments_that_tell_nothing_change_nothing(bits):
    matrix = torch.randn(6, 3 * BLOCK, generator=torch.Generator().manual_seed(0))
    given = restored(matrix, bits, torch.eye(3 * BLOCK))
    torch.testing.assert_close(given, restored(matrix, bits), rtol=0, atol=1e-5)
    for useless in (torch.zeros(3 * BLOCK, 3 * BLOCK), torch.ones(3 * BLOCK, 3 * BLOCK)):
        assert torch.isfinite(restored(matrix, bits, useless)).all()


def test_moments_are_of_what_each_matrix_reads(bundle):
    model = merged(bundle)
    read = []
    hook = model.language.model.layers[3].mlp.down_proj.register_forward_pre_hook(
        lambda _, given: read.append(given[0])
    )
    samples = [fixed_probes()[0], next(iter(load_prose(limit=1)))]
    found = moments(model, samples)
    hook.remove()
    assert len(found) == 4 * 4
    rows = torch.cat([one.reshape(-1, one.shape[-1]) for one in read])
    torch.testing.assert_close(found[3, "down"], rows.T @ rows / len(rows), rtol=1e-4, atol=1e-7)
    assert not [one for one in model.language.modules() if isinstance(one, nn.Linear) and one._forward_pre_hooks]
    with pytest.raises(DataError, match="there are no samples"):
        moments(model, [])


def test_what_calibrates_by_default_leaves_out_what_cannot_be_had():
    assert len(usual_samples(["folder:/nowhere"])) == len(usual_samples([])) > 8

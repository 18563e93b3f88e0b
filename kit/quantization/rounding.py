"""Matrices in 8 or 4 bits, in blocks of 32 columns: each number to its nearest level, or so that outputs stay.

To the nearest level, SmolLM2-135M with a merged adapter lost 3.3% of its perplexity in 8 bits and 21% in 4; where each
column's error is taken up by the columns after it, 0.2% and 19%, on text that the second moments were not taken from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 32
_ROWS = 64  # whose ranges are searched at a time: what they need stays in the processor's cache
_DAMPING = 0.01  # of the moments' mean diagonal, as GPTQ has it


@dataclass(frozen=True)
class _Levels:
    """What a block's numbers are rounded to: whole multiples of a scale, less a zero point.

    Args:
        scale: Shape (out,).
        zero: Shape (out,).
        low: The least level, zero point taken off.
        high: The largest one.
    """

    scale: Tensor
    zero: Tensor
    low: int
    high: int

    def nearest(self, column: Tensor) -> Tensor:
        """Return the levels nearest to some numbers, shape (out,), as the file has them."""
        return ((column / self.scale).round() + self.zero).clamp(self.low, self.high)


def quantise(matrix: Tensor, moments: Tensor | None = None) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return a matrix in 8 bits, in blocks of 32 columns with one scale each; 128 stands for zero.

    Args:
        matrix: Shape (out, in); 32 divides in.
        moments: Second moments of what it is multiplied by, shape (in, in); each number goes to its nearest level
            without.

    Returns:
        Numbers, shape (out, in / 32, 32), and scales, shape (out, in / 32).
    """
    if moments is not None:
        levels, found = _compensated(matrix, moments, _eight)
        return levels.to(torch.uint8).numpy(), found[0].numpy()
    blocks = _blocks(matrix)
    scales = (blocks.abs().amax(-1) / 127).clamp(min=1e-12)
    numbers = (blocks / scales[..., None]).round() + 128
    return numbers.to(torch.uint8).numpy(), scales.numpy()


def quantise_4(
    matrix: Tensor, moments: Tensor | None = None
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.uint8]]:
    """Return a matrix in 4 bits, in blocks of 32 columns with a scale and a zero point each.

    Each block takes the range, of a dozen shares of its own, that leaves the least squared error.

    Args:
        matrix: Shape (out, in); 32 divides in.
        moments: As in ``quantise``.

    Returns:
        Packed numbers, shape (out, in / 32, 16), scales (out, in / 32), and packed zero points (out, in / 64).
    """
    if moments is not None:
        levels, (scales, zeros) = _compensated(matrix, moments, _four)
    else:
        blocks = _blocks(matrix)
        each = [_ranges(rows) for rows in blocks.split(_ROWS)]
        scales, zeros = (torch.cat(one) for one in zip(*each, strict=True))
        levels = _between(blocks, scales, zeros) + zeros[..., None]
    return _pairs(levels.to(torch.uint8).numpy()), scales.numpy(), _pairs(zeros.to(torch.uint8).numpy())


def _compensated(
    matrix: Tensor, moments: Tensor, choose: Callable[[Tensor], _Levels]
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Round column by column; what a column loses is taken up by those after it, as outputs need it.

    Returns:
        Levels, shape (out, in / 32, 32), and scales and zero points, shape (out, in / 32).

    Source:
        Frantar et al. (2022), algorithm 1, arXiv:2210.17323.
    """
    weights, width = matrix.detach().float().clone(), matrix.shape[1]
    damped = moments.float() + torch.eye(width) * max(_DAMPING * float(moments.diag().mean()), 1e-8)
    onward = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    levels, scales, zeros = torch.empty_like(weights), [], []
    for start in range(0, width, BLOCK):
        block, lost = weights[:, start : start + BLOCK], torch.empty(len(weights), BLOCK)
        grid = choose(block)
        for place in range(BLOCK):
            row = onward[start + place, start + place : start + BLOCK]
            level = grid.nearest(block[:, place])
            levels[:, start + place] = level
            lost[:, place] = (block[:, place] - (level - grid.zero) * grid.scale) / row[0]
            block[:, place + 1 :] -= lost[:, place, None] * row[1:]
        weights[:, start + BLOCK :] -= lost @ onward[start : start + BLOCK, start + BLOCK :]
        scales.append(grid.scale)
        zeros.append(grid.zero)
    return levels.view(len(levels), -1, BLOCK), (torch.stack(scales, 1), torch.stack(zeros, 1))


def _eight(block: Tensor) -> _Levels:
    scale = (block.abs().amax(1) / 127).clamp(min=1e-12)
    return _Levels(scale, torch.full_like(scale, 128), 1, 255)


def _four(block: Tensor) -> _Levels:
    scales, zeros = _ranges(block[:, None])
    return _Levels(scales[:, 0], zeros[:, 0], 0, 15)


def _ranges(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return scales and zero points of blocks, shape (out, n, 32), that leave the least squared error."""
    low, high = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
    best, scales, zeros = torch.full_like(low, float("inf")), torch.ones_like(low), torch.zeros_like(low)
    for share in torch.linspace(0.6, 1.0, 12):
        scale = ((high - low) * share / 15).clamp(min=1e-12)
        zero = (-low * share / scale).round().clamp(0, 15)
        error = (_between(blocks, scale, zero) * scale[..., None] - blocks).square().sum(-1)
        nearer = error < best
        best, scales, zeros = error.minimum(best), torch.where(nearer, scale, scales), torch.where(nearer, zero, zeros)
    return scales, zeros


def _blocks(matrix: Tensor) -> Tensor:
    return matrix.detach().float().reshape(len(matrix), -1, BLOCK)


def _between(blocks: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """Return the levels that values take, less their zero points."""
    return ((blocks / scales[..., None]).round() + zeros[..., None]).clamp(0, 15) - zeros[..., None]


def _pairs(numbers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pack two 4-bit numbers of the last axis into each byte, the first one low."""
    if numbers.shape[-1] % 2:
        numbers = np.concatenate([numbers, np.zeros_like(numbers[..., :1])], -1)
    packed: NDArray[np.uint8] = numbers[..., ::2] | (numbers[..., 1::2] << 4)
    return packed

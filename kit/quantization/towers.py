"""How fast copies of a CLIP see: in each round every copy encodes the same pictures, in an order drawn anew."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kit.errors import DataError
from kit.result import Measurement

_BATCH = 8


@torch.inference_mode()
def race_towers(
    encoders: Mapping[str, Any], pixels: Tensor, reference: str, *, rounds: int = 5, seed: int = 0
) -> dict[str, dict[str, Measurement]]:
    """Time the picture towers of dual encoders against each other.

    Args:
        encoders: The dual encoders by name; each has ``encode_image``.
        pixels: Pictures as the towers take them, shape (n, 3, height, width); read in batches of 8.
        reference: The encoder that ratios are against.
        rounds: How often; one more round before them is not counted.
        seed: Of the orders.

    Returns:
        For each encoder ``pictures`` a second and the ``ratio`` to the reference: medians over rounds, with the least
        and the most seen.

    Raises:
        DataError: no such reference, or no pictures.
    """
    if reference not in encoders or not len(pixels):
        what = f"{reference!r} is not among the encoders" if len(pixels) else "there are no pictures"
        raise DataError.of("race_towers", what, "time the reference along with the copies, on some pictures")
    draw = random.Random(seed)  # noqa: S311 - no secret
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    for number in range(-1, rounds):
        for name in draw.sample(list(encoders), len(encoders)):
            begin = time.perf_counter()
            for part in pixels.split(_BATCH):
                encoders[name].encode_image(part)
            if number >= 0:
                seconds[name].append(time.perf_counter() - begin)
    found = {}
    for name, own in seconds.items():
        rates = [len(pixels) / one for one in own]
        ratios = [base / one for one, base in zip(own, seconds[reference], strict=True)]
        found[name] = {"pictures": _median(rates, "pictures/s"), "ratio": _median(ratios, "x")}
    return found


def _median(numbers: list[float], unit: str) -> Measurement:
    method = f"median of {len(numbers)} interleaved rounds"
    return Measurement(
        statistics.median(numbers), unit, len(numbers), min(numbers), max(numbers), level=None, method=method,
        better="higher",
    )  # fmt: skip

"""The race of picture towers: every copy in every round, ratios of one moment, and faults told."""

import time

import pytest
import torch

from kit.errors import DataError
from kit.quantization.towers import race_towers

PIXELS = torch.zeros(20, 3, 4, 4)


class Tower:
    def __init__(self, name, seconds, log):
        self.name, self.seconds, self.log = name, seconds, log

    def encode_image(self, pixels):
        self.log.append((self.name, len(pixels)))
        begin = time.perf_counter()
        while time.perf_counter() - begin < self.seconds * len(pixels):
            pass
        return pixels


def test_each_round_has_every_copy_and_every_picture():
    log = []
    towers = {name: Tower(name, seconds, log) for name, seconds in (("slow", 8e-4), ("fast", 1e-4))}
    found = race_towers(towers, PIXELS, "slow", rounds=5)
    assert len(log) == 2 * 3 * 6  # copies, batches of 8, rounds and the one before them
    assert sum(size for name, size in log if name == "fast") == 20 * 6
    assert {log[place][0] for place in range(0, 36, 3)} == {"slow", "fast"}
    assert len({tuple(name for name, _ in log[at : at + 6]) for at in range(0, 36, 6)}) == 2, "always the same order"
    assert found["slow"]["ratio"].value == pytest.approx(1)
    ratio = found["fast"]["ratio"]
    assert ratio.value > 3
    assert ratio.low <= ratio.value <= ratio.high
    assert ratio.n == 5
    assert found["slow"]["pictures"].value <= 1 / 8e-4


@pytest.mark.parametrize(("reference", "pixels", "what"), [("none", PIXELS, "not among"), ("a", PIXELS[:0], "no pict")])
def test_what_cannot_be_raced_is_told(reference, pixels, what):
    with pytest.raises(DataError, match=what):
        race_towers({"a": Tower("a", 0, [])}, pixels, reference)

"""What kind of thing an emoji shows, by its code point: Unicode keeps animals beside animals and food beside food."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# Ranges of first code points, both ends counted. Left out is what a person would argue about: a paw print, a
# chopstick, a roller skate.
_RANGES: Mapping[str, tuple[tuple[int, int], ...]] = MappingProxyType(
    {
        "an animal": (
            (0x1F400, 0x1F419), (0x1F41B, 0x1F43C), (0x1F43F, 0x1F43F), (0x1F54A, 0x1F54A), (0x1F577, 0x1F577),
            (0x1F980, 0x1F99F), (0x1F9A1, 0x1F9A9), (0x1F9AB, 0x1F9AE), (0x1FAB0, 0x1FAB3), (0x1FABC, 0x1FABC),
            (0x1FABF, 0x1FABF), (0x1FACE, 0x1FACF),
        ),
        "food or drink": (
            (0x1F32D, 0x1F330), (0x1F33D, 0x1F33D), (0x1F345, 0x1F373), (0x1F375, 0x1F37B), (0x1F37E, 0x1F37F),
            (0x1F950, 0x1F961), (0x1F963, 0x1F96F), (0x1F9C0, 0x1F9C9), (0x1F9CB, 0x1F9CB), (0x1FAD0, 0x1FAD5),
            (0x1FAD8, 0x1FAD8), (0x1FADA, 0x1FADC),
        ),
        "a vehicle": (
            (0x26F4, 0x26F5), (0x2708, 0x2708), (0x1F3CD, 0x1F3CE), (0x1F680, 0x1F688), (0x1F68A, 0x1F68E),
            (0x1F690, 0x1F6A2), (0x1F6A4, 0x1F6A4), (0x1F6B2, 0x1F6B2), (0x1F6F3, 0x1F6F8), (0x1F6FA, 0x1F6FB),
        ),
        "a face": (
            (0x1F600, 0x1F637), (0x1F641, 0x1F644), (0x1F910, 0x1F915), (0x1F917, 0x1F917), (0x1F920, 0x1F925),
            (0x1F927, 0x1F92F), (0x1F970, 0x1F976), (0x1F978, 0x1F97A), (0x1F9D0, 0x1F9D0), (0x1FAE0, 0x1FAE5),
            (0x1FAE8, 0x1FAEA),
        ),
        "a building": (
            (0x26EA, 0x26EA), (0x1F3D8, 0x1F3D8), (0x1F3DA, 0x1F3DB), (0x1F3DF, 0x1F3E6), (0x1F3E8, 0x1F3ED),
            (0x1F3EF, 0x1F3F0), (0x1F54C, 0x1F54D), (0x1F5FC, 0x1F5FC),
        ),
    }
)  # fmt: skip
KINDS = tuple(_RANGES)
# Cats have faces and lobsters are eaten: nobody is asked about these.
_BOTH = frozenset({frozenset({"an animal", "a face"}), frozenset({"an animal", "food or drink"})})


def kind_of(points: str) -> str:
    """Return what kind of thing an emoji shows, or an empty string.

    Args:
        points: Its code points in hex, joined by hyphens, as OpenMoji's files are named.

    >>> kind_of("1F40D"), kind_of("1F34E"), kind_of("1F43E")
    ('an animal', 'food or drink', '')
    """
    first = int(points.partition("-")[0], 16)
    for kind, ranges in _RANGES.items():
        if any(low <= first <= high for low, high in ranges):
            return kind
    return ""


def excludes(kind: str, other: str) -> bool:
    """Tell whether a picture of one kind certainly shows nothing of the other.

    >>> excludes("a vehicle", "an animal"), excludes("a face", "an animal")
    (True, False)
    """
    return kind != other and "" not in {kind, other} and frozenset({kind, other}) not in _BOTH

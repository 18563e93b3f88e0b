"""Splits that never move: a hash decides, and what belongs together stays together."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

from kit.data.rows import SPLITS

# Of 10,000 hash buckets; the rest is test. OpenMoji's concepts without flags become 943, 105 and 347.
TRAIN_SHARE, VAL_SHARE = 7_000, 600
NAMES: Mapping[str, str] = {name: name for name in SPLITS} | {"validation": "val", "valid": "val", "dev": "val"}

K = TypeVar("K", bound=Hashable)


def split_of(key: str) -> str:
    """Return the split of a key: its SHA-256 decides, alone, without a seed and forever.

    >>> split_of("running") == split_of("running")
    True
    """
    bucket = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) % 10_000
    if bucket < TRAIN_SHARE:
        return "train"
    return "val" if bucket < TRAIN_SHARE + VAL_SHARE else "test"


def together(keys: Mapping[K, tuple[str, str]]) -> dict[K, str]:
    """Return one key for all that share the first key (a concept, a caption) or the second (a picture's hash).

    Norway and Svalbard fly one flag: under two names such a picture could stand in training and in test.
    Shared keys chain, as in a union-find forest; the alphabetically first first-key names the group.

    >>> together({"a": ("norway", "1"), "b": ("svalbard", "1"), "c": ("chad", "2")})
    {'a': 'norway', 'b': 'norway', 'c': 'chad'}
    """
    above: dict[tuple[int, str], tuple[int, str]] = {}

    def root(node: tuple[int, str]) -> tuple[int, str]:
        while above.setdefault(node, node) != node:
            node = above[node]
        return node

    for first, second in keys.values():
        low, high = sorted((root((0, first)), root((1, second))))
        above[high] = low
    return {item: root((0, first))[1] for item, (first, _) in keys.items()}


def counts(splits: Iterable[str]) -> str:
    """Return how many rows each split has, for messages: ``train 5, val 0, test 1``."""
    seen = list(splits)
    return ", ".join(f"{name} {seen.count(name)}" for name in SPLITS)

"""Search is exact: the same as float32 on the same float16 vectors, while it grows, and among some."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.sharing import nearest
from kit.sharing.nearest import Vectors


def unit(n: int, width: int, seed: int) -> torch.Tensor:
    values = np.random.default_rng(seed).standard_normal((n, width), dtype=np.float32)
    return torch.from_numpy(values / np.linalg.norm(values, axis=1, keepdims=True))


def oracle(vectors: torch.Tensor, query: torch.Tensor, k: int) -> list[int]:
    scores = vectors.half().double().numpy() @ query.double().numpy()
    return np.lexsort((np.arange(len(scores)), -scores))[:k].tolist()


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 400),
    width=st.integers(2, 64),
    k=st.integers(1, 30),
    seed=st.integers(0, 9),
    cut=st.integers(1, 90),
)
def test_what_is_found_is_what_float64_finds(n: int, width: int, k: int, seed: int, cut: int) -> None:
    vectors, query = unit(n, width, seed), unit(1, width, seed + 100)[0]
    kept = Vectors(width)
    for part in vectors.split(cut):
        kept.add(part)
    found = kept.top(query, k)
    assert len(kept) == n
    assert len(found) == min(k, n)
    right = (vectors.half().double() @ query.double())[[place for place, _ in found]]
    best = sorted((vectors.half().double() @ query.double()).tolist(), reverse=True)[: len(found)]
    # By score and not by place: two that differ by less than float32 resolves may change places.
    assert np.allclose(right.numpy(), best, atol=1e-6)
    assert np.allclose([score for _, score in found], best, atol=1e-6)


def test_near_twins_that_float16_cannot_tell_apart_are_put_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "BLOCK", 100)
    query = unit(1, 64, 0)[0]
    near = torch.nn.functional.normalize(query + 0.003 * unit(1000, 64, 1), dim=1)
    kept = Vectors(64)
    kept.add(near)
    found = [place for place, _ in kept.top(query, 10)]
    assert found == oracle(near, query, 10)
    rough = (near.half() @ query.half()).argsort(descending=True)[:10].tolist()
    assert rough != found, "float16 alone would have done, and this test shows nothing"


def test_only_among_some() -> None:
    vectors, kept = unit(50, 16, 3), Vectors(16)
    kept.add(vectors)
    among = torch.arange(50) % 2 == 1
    found = kept.top(vectors[4], 50, among=among)
    assert len(found) == 25
    assert all(place % 2 for place, _ in found)
    assert kept.top(vectors[4], 3, among=torch.zeros(50, dtype=torch.bool)) == []
    assert Vectors(16).top(vectors[0], 3) == []


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(n, 16\) is needed, got \(3, 8\)"):
        Vectors(16).add(unit(3, 8, 0))

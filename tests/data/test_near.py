"""Near-duplicates: whoever goes is near the row that is named, nobody who stays is near another, in bounded memory."""

import numpy as np
import pytest

from kit.data import near_search
from kit.data.near import near_pairs, thin
from kit.data.near_search import CellSearch, ExactSearch, search_of, unit
from kit.errors import DataError


def planted(n, copies, width=32, noise=0.1, seed=0):
    """Random vectors, and copies of the first of them with noise; returned with each row's original."""
    rng = np.random.default_rng(seed)
    rows = unit(rng.normal(size=(n, width)))
    originals = rng.integers(0, n // 2, copies)
    near = unit(rows[originals] + noise * unit(rng.normal(size=(copies, width))))
    return np.concatenate([rows, near]), np.concatenate([np.arange(n), originals])


def all_pairs(vectors, at_least):
    """Every near pair, by definition."""
    cosines = unit(vectors) @ unit(vectors).T
    return {(i, j) for i, j in zip(*np.nonzero(cosines >= at_least), strict=True) if i < j}


def greedy(vectors, at_least, order):
    """Which rows stay, row by row."""
    cosines, kept = unit(vectors) @ unit(vectors).T, []
    for row in order:
        if not any(cosines[row, other] >= at_least for other in kept):
            kept.append(row)
    return set(kept)


@pytest.mark.parametrize("neighbours", [1, 2, 16])
def test_what_stays_is_what_the_definition_says_however_few_neighbours_are_kept(neighbours):
    vectors, _ = planted(120, 200)
    weight = np.random.default_rng(1).normal(size=len(vectors))
    found = thin(vectors, at_least=0.97, priority=weight, neighbours=neighbours)
    cosines = unit(vectors) @ unit(vectors).T
    stays = set(range(len(vectors))) - set(found.dropped.tolist())
    assert not [(i, j) for i, j in all_pairs(vectors, 0.97) if i in stays and j in stays], "two near rows stayed"
    for gone, kept, cosine in zip(found.dropped, found.kept, found.cosine, strict=True):
        assert kept in stays
        assert weight[kept] > weight[gone]
        assert cosine == pytest.approx(cosines[gone, kept], abs=1e-5)
        assert cosine >= 0.97
    assert stays == greedy(vectors, 0.97, np.argsort(-weight))
    assert found.recall is None


def test_the_earlier_row_stays_without_a_priority_and_likeness_does_not_chain():
    angles = np.deg2rad([0, 10, 20])  # neighbours are near, the ends are not
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1)
    found = thin(vectors, at_least=np.cos(np.deg2rad(12)))
    assert found.dropped.tolist() == [1]
    assert found.kept.tolist() == [0]


def test_a_crowd_of_equal_rows_goes_though_two_neighbours_of_each_are_kept():
    found = thin(np.ones((500, 8)), neighbours=2)
    assert len(found.dropped) == 499
    assert set(found.kept) == {0}


def test_a_pair_must_be_confirmed():
    found = thin(np.ones((6, 4)), confirm=lambda left, right: left % 2 == right % 2, neighbours=3)
    assert found.dropped.tolist() == [2, 3, 4, 5]
    assert found.kept.tolist() == [0, 1, 0, 1]


def test_exact_search_in_blocks_is_a_sort(monkeypatch):
    vectors, _ = planted(300, 0)
    queries = unit(vectors[:40])
    monkeypatch.setattr(near_search, "_PRODUCTS", 40 * 64)
    scores, places = ExactSearch(vectors).nearest(queries, 5)
    expected = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :5]
    assert (places == expected).all()
    assert scores[:, 0] == pytest.approx(np.ones(40), abs=1e-5)
    _, few = ExactSearch(vectors[:3]).nearest(queries, 5)
    assert (np.sort(few[:, :3], 1) == np.arange(3)).all()
    assert (few[:, 3:] == -1).all()
    assert (
        ExactSearch(vectors).around(queries[:1], 0.2).tolist() == np.flatnonzero(vectors @ queries[0] >= 0.2).tolist()
    )


def test_cells_find_what_exact_search_finds_and_say_how_much_of_it(monkeypatch, tmp_path):
    pytest.importorskip("faiss")
    monkeypatch.setattr(near_search, "EXACT_ROWS", 1000)
    plain, _ = planted(6000, 1500)
    file = tmp_path / "vectors.f16"
    plain.astype(np.float16).tofile(file)
    vectors = np.memmap(file, dtype=np.float16, mode="r", shape=plain.shape)
    search = search_of(vectors, at_least=0.97)
    assert isinstance(search, CellSearch)
    assert search.recall.low >= 0.9
    pairs = near_pairs(search, vectors, np.arange(len(vectors)), at_least=0.97)
    found = {(min(i, j), max(i, j)) for i, j in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)}
    wanted = all_pairs(vectors, 0.97)
    assert found <= wanted
    assert len(found) >= 0.97 * len(wanted) > 1000
    thinned = thin(vectors, at_least=0.97)
    assert abs(len(thinned.dropped) - len(thin(plain[:1000], at_least=0.97).dropped) - 1500) < 75
    few = thin(vectors, at_least=0.97, neighbours=1)
    assert abs(len(few.dropped) - len(thinned.dropped)) <= 10, "range search says what lists were too short for"


def test_many_vectors_without_faiss_say_what_to_install(monkeypatch):
    monkeypatch.setattr(near_search, "EXACT_ROWS", 10)
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(DataError, match=r"(?s)11 vectors need the package faiss-cpu.*multimodal-kit\[curate\]"):
        thin(np.ones((11, 2)))


def test_what_does_not_fit_is_said_at_once():
    with pytest.raises(DataError, match=r"(?s)at_least: must be.*priority: one finite.*neighbours: must"):
        thin(np.ones((3, 2)), at_least=2, priority=[1.0, np.nan, 0.0], neighbours=0)
    with pytest.raises(DataError, match="a matrix"):
        thin(np.ones(3))
    with pytest.raises(DataError, match="1 of a block are no finite numbers"):
        thin(np.array([[1.0, 2.0], [np.nan, 1.0]]))

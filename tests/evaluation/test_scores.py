"""Scores: seeds averaged by query, intervals over queries or concepts, baselines of trivial answerers."""

import numpy as np
import pytest
import torch
from dual_encoders import noise_pictures

from kit.errors import DataError
from kit.evaluation.metrics import ranks
from kit.evaluation.scores import TEMPLATES, retrieval, zero_shot
from kit.intervals import exact
from kit.models.activations import ActivationStore
from kit.models.encode import PrefixEncoder
from kit.result import Result


def matrices(seeds=3, n=30, signal=1.5):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, n, generator=generator) + signal * torch.eye(n) for _ in range(seeds)]


def test_one_seed_by_hand():
    (matrix,) = matrices(1)
    found = retrieval([matrix], split="test")
    assert set(found) == {
        f"{direction}{name}"
        for direction in ("", "image_to_text_")
        for name in ("recall_at_1", "recall_at_5", "recall_at_10", "median_rank")
    }
    for direction, turned in (("", matrix), ("image_to_text_", matrix.T)):
        for k in (1, 5, 10):
            one = found[f"{direction}recall_at_{k}"]
            assert one.value == pytest.approx(float((ranks(turned) <= k).double().mean()))
            assert one.baseline == k / 30
            assert (one.unit, one.n, one.split, one.better) == ("share", 30, "test", "higher")
            assert one.low <= one.value <= one.high
        assert found[f"{direction}median_rank"].value == np.median(ranks(turned).numpy())
        assert found[f"{direction}median_rank"].baseline == 15.5
        assert found[f"{direction}median_rank"].better == "lower"
    Result(found)


def test_the_baseline_is_what_a_random_order_gets():
    found = retrieval([torch.rand(30, 30, generator=torch.Generator().manual_seed(s)) for s in range(400)], split="x")
    for name in ("recall_at_1", "recall_at_5", "recall_at_10"):
        assert found[name].value == pytest.approx(found[name].baseline, rel=0.1)


def test_seeds_are_averaged_by_query_and_not_counted_as_queries():
    seeds = matrices(3)
    found = retrieval(seeds, split="test")["recall_at_1"]
    assert found.value == pytest.approx(np.mean([float((ranks(m) <= 1).double().mean()) for m in seeds]))
    assert found.n == 30
    assert found.method.startswith("mean of 3 seeds, percentile bootstrap over items")
    copies = retrieval(seeds[:1] * 3, split="test")["recall_at_1"]
    alone = retrieval(seeds[:1], split="test")["recall_at_1"]
    assert (copies.low, copies.high) == (alone.low, alone.high), "three copies are no more evidence"


def test_concepts_widen_the_interval():
    hits = torch.diag((torch.arange(60) // 10 % 2).float() * 2 - 1)  # whole concepts are found, or missed
    plain = retrieval([hits], split="test")["recall_at_1"]
    clustered = retrieval([hits], split="test", clusters=[str(n // 10) for n in range(60)])["recall_at_1"]
    assert clustered.value == plain.value == 0.5
    assert clustered.high - clustered.low > 1.5 * (plain.high - plain.low)


def test_a_prefix_and_few_rows():
    found = retrieval([torch.eye(3)], split="test", prefix="flags_")
    assert found["flags_recall_at_10"].value == found["flags_recall_at_10"].baseline == 1
    assert found["flags_recall_at_1"].value == 1


def test_nothing_to_score():
    with pytest.raises(DataError, match="no similarities or no queries"):
        retrieval([], split="test")
    with pytest.raises(ValueError, match="a square matrix"):
        retrieval([torch.zeros(2, 3)], split="test")


@pytest.fixture
def prefixes(tiny, tmp_path):
    return PrefixEncoder(tiny, ActivationStore(tmp_path, limit_gib=1))


def test_zero_shot_is_open_clips_own_recipe(prefixes, tiny):
    pictures, labels = noise_pictures(9), ["cat", "dog", "cat", "cat", "owl", "dog", "cat", "cat", "owl"]
    found = zero_shot(prefixes, pictures, labels, split="test")
    classes = sorted(set(labels))
    right = 0
    with torch.no_grad():
        weights = []
        for name in classes:
            mean = tiny.encode_text(tiny.tokenize([template.format(name) for template in TEMPLATES])).mean(0)
            weights.append(mean / mean.norm())
        for picture, label in zip(pictures, labels, strict=True):
            image = tiny.encode_image(tiny.preprocess(picture.open()).unsqueeze(0))
            right += classes[int((image @ torch.stack(weights).T).argmax())] == label
    assert found.value == right / 9
    expected = exact(right, 9)
    assert (found.low, found.high) == (expected.low, expected.high)
    assert found.baseline == 5 / 9, "the majority class"
    assert found.n == 9
    assert "3 classes, 4 prompts each; Clopper-Pearson exact" in found.method


@pytest.mark.parametrize(
    ("labels", "templates", "said"),
    [
        (["a", "b"], TEMPLATES, "got 3 and 2 labels of 2"),
        (["a", "a", "a"], TEMPLATES, "at least two classes"),
        (["a", "b", "a"], ["a picture"], r"templates: no place for the label in \['a picture'\]"),
        (["a", "b", "a"], [], "templates: there are none"),
    ],
)
def test_what_makes_no_zero_shot(prefixes, labels, templates, said):
    with pytest.raises(DataError, match=said):
        zero_shot(prefixes, noise_pictures(3), labels, split="test", templates=templates)


def test_braces_in_a_label_are_only_a_label(prefixes):
    assert zero_shot(prefixes, noise_pictures(2), ["{x}", "{}"], split="test").n == 2


def test_a_subset_asks_and_all_are_searched() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.1, 0.9], [0.0, 0.5, 0.6]])
    found = retrieval([similarity], split="test", asking=[1, 2])
    assert found["recall_at_1"].value == 0.5  # of rows 1 and 2 the second finds its own
    assert found["recall_at_1"].n == 2
    assert found["recall_at_1"].baseline == pytest.approx(1 / 3), "chance among all three"
    with pytest.raises(DataError, match="no queries"):
        retrieval([similarity], split="test", asking=[])

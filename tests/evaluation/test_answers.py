"""Answer metrics against their definitions, and intervals that count pictures and not questions."""

from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
import torch
from dual_encoders import noise_pictures
from hypothesis import given
from hypothesis import strategies as st

from kit.data.rows import Question
from kit.errors import DataError
from kit.evaluation.answers import (
    caption_recall,
    exact_match,
    references,
    row_scores,
    score_answers,
    token_f1,
    vqa_accuracy,
)
from kit.intervals import bootstrap, exact
from kit.result import Result

PICTURES = noise_pictures(40)


def questions(n=40, per_picture=1, **fields):
    """Return n questions whose right answer is "yes" where their number is even."""
    return [
        Question(f"q{i}", PICTURES[i // per_picture], "is it?", "no" if i % 2 else "yes", split="test", **fields)
        for i in range(n)
    ]


def test_exact_match_takes_any_right_answer():
    assert exact_match("A red Apple!", ["pear", "red apple"]) == 1
    assert exact_match("red", ["red apple"]) == 0
    assert exact_match("", ["yes"]) == 0


@pytest.mark.parametrize(
    ("said", "right", "f1"),
    [
        ("red apple", ["red apple"], 1),
        ("red", ["red apple"], 2 / 3),
        ("the red red apple", ["red apple"], 0.8),
        ("pear", ["red apple"], 0),
        ("red pear", ["green apple", "red apple pie"], 0.4),
        ("", ["the"], 1),
        ("", ["yes"], 0),
        ("yes", [""], 0),
    ],
)
def test_token_f1_by_hand(said, right, f1):
    assert token_f1(said, right) == pytest.approx(f1)


def by_definition(said, people):
    """Leave each person out and count matches among the others, literally."""
    subsets = combinations(range(len(people)), len(people) - 1)
    return np.mean([min(sum(people[other] == said for other in subset) / 3, 1) for subset in subsets])


@given(st.lists(st.sampled_from(["yes", "no", "red"]), min_size=4, max_size=10), st.sampled_from(["yes", "no", "x"]))
def test_vqa_accuracy_is_its_definition(people, said):
    assert vqa_accuracy(said, people) == pytest.approx(by_definition(said, people))


@pytest.mark.parametrize(("matches", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_vqa_accuracy_of_ten_people_by_the_papers_table(matches, accuracy):
    assert vqa_accuracy("Yes.", ["yes"] * matches + ["no"] * (10 - matches)) == pytest.approx(accuracy)


def test_vqa_accuracy_of_one_answer_is_right_or_wrong():
    assert [vqa_accuracy(said, ["two dogs"]) for said in ("2 dogs", "dogs")] == [1, 0]


def test_references_are_all_that_a_source_knows():
    plain, *_ = questions(1)
    assert references(plain) == ("yes",)
    assert references(questions(1, meta={"answers": ["yes", "yeah"]})[0]) == ("yes", "yeah")
    people = [{"answer": "yes", "answer_confidence": "yes", "answer_id": 1}, {"answer": "no"}]
    assert references(questions(1, meta={"answers": people})[0]) == ("yes", "no")
    assert references(questions(1, meta={"answers": "yes"})[0]) == ("yes",)


def test_one_question_a_picture_has_an_exact_interval():
    rows = questions()
    said = ["yes"] * 40
    (found,) = score_answers([said], rows, split="test", baseline=["no"] * 40).values()
    expected = exact(20, 40)
    assert (found.value, found.low, found.high) == (0.5, expected.low, expected.high)
    assert (found.unit, found.n, found.split, found.baseline, found.method) == (
        "share", 40, "test", 0.5, "Clopper-Pearson exact",
    )  # fmt: skip
    Result({"exact_match": found})


def test_questions_of_one_picture_are_one_draw():
    rows = questions(40, per_picture=8)
    said = [row.answer if number // 8 in {0, 1} else "?" for number, row in enumerate(rows)]
    found = score_answers([said], rows, split="test")["exact_match"]
    labels = [number // 8 for number in range(40)]
    expected = bootstrap([float(label in {0, 1}) for label in labels], clusters=labels)
    assert (found.value, found.low, found.high) == (0.4, expected.low, expected.high)
    assert "over clusters" in found.method
    assert found.high - found.low > 1.5 * (exact(16, 40).high - exact(16, 40).low)
    right = score_answers([[row.answer for row in rows]], rows, split="test")["exact_match"]
    assert (right.low, right.high) == (exact(5, 5).low, 1), "forty right answers about five pictures"
    wrong = score_answers([["?"] * 40], rows, split="test")["exact_match"]
    assert (wrong.low, wrong.high) == (0, exact(0, 5).high)


def test_seeds_are_averaged_row_by_row():
    rows = questions()
    seeds = [["yes"] * 40, ["no"] * 20 + ["yes"] * 20, [row.answer for row in rows]]
    scores = row_scores(seeds, rows, "exact_match")
    expected = [np.mean([said[i] == rows[i].answer for said in seeds]) for i in range(40)]
    assert scores == pytest.approx(expected)
    found = score_answers(seeds, rows, split="test")["exact_match"]
    assert found.value == pytest.approx(2 / 3)
    assert found.n == 40
    assert found.method.startswith("mean of 3 seeds, percentile bootstrap")
    copies, alone = (score_answers(seeds[1:2] * n, rows, split="test")["exact_match"] for n in (3, 1))
    assert (copies.low, copies.high) == (alone.low, alone.high), "three copies are no more evidence"


def test_groups_apart_and_their_own_baselines():
    rows = [
        Question(f"{kind}{i}", PICTURES[i], "?", answer, group=kind)
        for (kind, answers), i in product({"yes/no": ("yes", "no"), "shape": ("circle", "square")}.items(), range(20))
        for answer in [answers[i % 2]]
    ]
    said = ["yes"] * 20 + ["circle"] * 10 + ["square"] * 10
    trivial = ["yes"] * 20 + ["circle", "?", "?", "?"] * 5
    found = score_answers([said], rows, split="val", metrics=("exact_match", "token_f1"), baseline=trivial, prefix="a_")
    names = [f"a_{metric}{group}" for metric in ("exact_match", "token_f1") for group in ("", "_shape", "_yes_no")]
    assert list(found) == names
    assert found["a_exact_match_shape"].n == 20
    baselines = [found[f"a_exact_match{group}"].baseline for group in ("", "_yes_no", "_shape")]
    assert baselines == [15 / 40, 0.5, 0.25]
    counts = Counter(said[i] == rows[i].answer for i in range(20, 40))
    assert found["a_exact_match_shape"].value == counts[True] / 20
    Result(found)


def test_a_single_group_is_not_reported_twice():
    assert list(score_answers([["yes"] * 40], questions(group="only"), split="test")) == ["exact_match"]


@pytest.mark.parametrize(
    ("answers", "n", "metric", "said"),
    [
        ([["yes"]], 0, "exact_match", "there are no questions"),
        ([["yes"]], 2, "exact_match", "1 answers for 2 questions"),
        (["yes", "no"], 2, "exact_match", "one list per training seed is needed"),
        ([], 2, "exact_match", "one list per training seed is needed"),
        ([["yes", "no"]], 2, "exact_mach", "Did you mean 'exact_match'?"),
    ],
)
def test_what_cannot_be_scored(answers, n, metric, said):
    with pytest.raises(DataError) as caught:
        row_scores(answers, questions(n), metric)
    assert said in str(caught.value)


def test_all_faults_at_once():
    with pytest.raises(DataError) as caught:
        row_scores([["a"], ["b", "c", "d"]], questions(2), "f1")
    assert len(caught.value.faults) == 3


def test_two_people_are_too_few():
    with pytest.raises(DataError, match="vqa_accuracy: right: one answer, or at least four, got 2"):
        row_scores([["yes"]], questions(1, meta={"answers": ["yes", "no"]}), "vqa_accuracy")


def test_groups_that_would_share_a_name():
    rows = [Question("a", PICTURES[0], "?", "x", group="yes/no"), Question("b", PICTURES[0], "?", "x", group="yes no")]
    with pytest.raises(DataError, match="'yes/no' and 'yes no' share a name"):
        score_answers([["x", "x"]], rows, split="test")


def test_captions_find_their_pictures():
    found = caption_recall([torch.eye(12)], split="test")
    assert set(found) == {"caption_recall_at_1", "caption_recall_at_5", "caption_recall_at_10", "caption_median_rank"}
    assert found["caption_recall_at_1"].value == 1
    assert found["caption_recall_at_1"].baseline == pytest.approx(1 / 12)
    # One sentence of all pictures: each row is the same, and as good as chance.
    same = caption_recall([torch.rand(12, generator=torch.Generator().manual_seed(0)).repeat(12, 1)], split="test")
    assert same["caption_recall_at_1"].value == pytest.approx(1 / 12)
    assert caption_recall([torch.ones(12, 12)], split="test")["caption_recall_at_10"].value == 0

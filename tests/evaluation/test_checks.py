"""Checks that can fail: answerers that look at the picture pass, answerers that only read the question do not."""

import io

import pytest
from dual_encoders import noise_pictures
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.data.looks import look
from kit.data.picture import Picture
from kit.data.rows import Question
from kit.errors import DataError, ResultError
from kit.evaluation.answers import row_scores, score_answers
from kit.evaluation.checks import blind, image_gain, image_matters, majority, other_pictures, seen, shuffled
from kit.intervals import bootstrap
from kit.result import Result

PICTURES = noise_pictures(12)


def red(picture):
    pixels = picture.open().resize((1, 1)).getpixel((0, 0))
    return "yes" if pixels[0] > pixels[1] else "no"


def looker(pictures, questions):
    """Answers from the picture; guesses "no" where it sees none."""
    return ["no" if picture is None else red(picture) for picture in pictures]


def reader(pictures, questions):
    """Answers from the question's words alone."""
    return ["yes" if "redder" in question else "no" for question in questions]


def rows_of(pictures=PICTURES, per_picture=3):
    return [
        Question(f"{number}/{again}", picture, f"is it redder than green ({again})?", red(picture))
        for number, picture in enumerate(pictures)
        for again in range(per_picture)
    ]


ROWS = rows_of()
EYES = {name: [ask(looker, ROWS)] for name, ask in (("seen", seen), ("blind", blind), ("shuffled", shuffled))}


def test_a_blind_model_gets_no_picture_and_the_same_questions():
    asked = []
    blind(lambda pictures, questions: asked.append((pictures, questions)) or ["x"] * len(questions), ROWS)
    ((pictures, questions),) = asked
    assert list(pictures) == [None] * 36
    assert questions == [row.question for row in ROWS]


def test_who_looks_is_right_only_with_the_picture():
    scores = {name: row_scores(said, ROWS, "exact_match").mean() for name, said in EYES.items()}
    assert scores["seen"] == 1
    assert scores["blind"] == sum(row.answer == "no" for row in ROWS) / 36
    assert scores["shuffled"] < 0.8


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=20), st.integers(0, 99))
def test_no_question_keeps_its_picture_and_those_on_one_move_together(numbers, seed):
    pictures = [PICTURES[number] for number in numbers]
    if len(set(numbers)) < 2:
        with pytest.raises(DataError, match="needs two different pictures, got 1"):
            other_pictures(pictures, seed=seed)
        return
    moved = other_pictures(pictures, seed=seed)
    together = {}
    for before, after in zip(pictures, moved, strict=True):
        assert look(before).content != look(after).content
        together.setdefault(before.name, set()).add(after.name)
    assert all(len(others) == 1 for others in together.values())
    assert {after for others in together.values() for after in others} == set(together), "every picture is used"


def test_the_order_is_the_seeds():
    pictures = [row.picture for row in ROWS]
    assert other_pictures(pictures, seed=1) == other_pictures(pictures, seed=1)
    assert other_pictures(pictures, seed=1) != other_pictures(pictures, seed=2)


def test_equal_pixels_are_one_picture_whatever_the_file():
    file = io.BytesIO()
    PICTURES[0].open().save(file, "BMP")
    twin = Picture("twin", reader=file.getvalue)
    for seed in range(20):
        first, second, third = other_pictures([PICTURES[0], twin, PICTURES[1]], seed=seed)
        assert first == second == PICTURES[1]
        assert look(third).content == look(PICTURES[0]).content
    with pytest.raises(DataError, match="two different pictures"):
        other_pictures([PICTURES[0], twin])


def test_a_question_without_a_picture_stays_without():
    moved = other_pictures([None, PICTURES[0], PICTURES[1], None])
    assert moved == [None, PICTURES[1], PICTURES[0], None]


def test_an_answerer_that_loses_answers():
    with pytest.raises(DataError, match="answer: gave 1 answers to 36 questions"):
        seen(lambda pictures, questions: ["x"], ROWS)


def test_majority_counts_training_answers_by_question():
    def of(*pairs):
        return [Question(f"{i}", PICTURES[0], question, answer) for i, (question, answer) in enumerate(pairs)]

    train = of(
        ("Red?", "yes"), ("red? ", "yes"), ("Red?", "no"), ("Green?", "no"), ("Blue?", "no"),
        ("Shape?", "circle"), ("Shape?", "square"), ("x", "square"), ("y", "square"), ("z", "square"),
    )  # fmt: skip
    asked = of(("RED?", "?"), ("shape?", "?"), ("never asked", "?"))
    # "no" is commoner than "yes", but not there; circle and square are equally common there, but not overall.
    assert majority(train, asked) == ["yes", "square", "square"]
    assert majority(of(("a", "x"), ("a", "b")), of(("a", "?"))) == ["b"]
    assert majority(train, of(("red?", "?"))) == majority(train[::-1], of(("red?", "?")))
    with pytest.raises(DataError, match="no training questions"):
        majority([], asked)


def test_the_gain_is_paired_and_over_pictures():
    found = image_gain(EYES["seen"], ROWS, against={"blind": EYES["blind"], "shuffled": EYES["shuffled"]}, split="test")
    assert list(found) == ["image_gain", "gain_over_blind", "gain_over_shuffled"]
    one = found["gain_over_blind"]
    differences = [float(row.answer == "yes") for row in ROWS]  # seen is always right, blind where the answer is no
    expected = bootstrap(differences, clusters=[row.picture.name for row in ROWS])
    assert (one.value, one.low, one.high) == (pytest.approx(sum(differences) / 36), expected.low, expected.high)
    assert (one.baseline, one.n, one.split) == (0, 36, "test")
    assert "over 12 pictures" in one.method
    assert found["image_gain"].low == min(found["gain_over_blind"].low, found["gain_over_shuffled"].low)
    Result(found)


def test_the_picture_matters_to_who_looks():
    found = image_matters(EYES["seen"], ROWS, against={"blind": EYES["blind"]}, split="test")
    assert found["image_gain"].low > found["image_gain"].baseline


def test_it_does_not_to_who_only_reads():
    said = {name: [ask(reader, ROWS)] for name, ask in (("blind", blind), ("shuffled", shuffled))}
    with pytest.raises(ResultError) as caught:
        image_matters([seen(reader, ROWS)], ROWS, against=said, split="test")
    assert len(caught.value.faults) == 2
    assert "gain_over_shuffled: the picture does not matter: 0 share [0, 0]" in str(caught.value)


def test_nor_to_who_is_worse_with_it():
    with pytest.raises(ResultError, match="gain_over_seen: the picture does not matter: -"):
        image_matters(EYES["blind"], ROWS, against={"seen": EYES["seen"]}, split="test")


def test_a_gain_whose_interval_reaches_zero_is_none():
    lucky = [["yes" if row.answer == "yes" or number < 3 else "?" for number, row in enumerate(ROWS)]]
    other = [["?" if number < 6 else one for number, one in enumerate(lucky[0])]]
    found = image_gain(lucky, ROWS, against={"other": other}, split="test")["image_gain"]
    assert found.value > 0 >= found.low
    with pytest.raises(ResultError, match="gain_over_other: the picture does not matter"):
        image_matters(lucky, ROWS, against={"other": other}, split="test")


def test_one_comparison_that_fails_is_enough():
    with pytest.raises(ResultError) as caught:
        image_matters(EYES["seen"], ROWS, against={"blind": EYES["blind"], "itself": EYES["seen"]}, split="test")
    assert [fault.where for fault in caught.value.faults] == ["gain_over_itself"]


def test_five_pictures_can_show_nothing():
    few = [row for row in ROWS if row.answer == "yes"][: 5 * 3]
    said = {"blind": [["no"] * 15]}
    assert image_gain([["yes"] * 15], few, against=said, split="test")["image_gain"].low == 1
    with pytest.raises(ResultError, match="image_gain: 5 pictures can show nothing"):
        image_matters([["yes"] * 15], few, against=said, split="test")


def test_chance_rarely_passes():
    """An answerer whose gain is luck passes about once in forty times (one end of a 95% interval)."""
    import numpy as np

    generator = np.random.default_rng(0)
    rows = [Question(f"{i}", PICTURES[i % 12], "?", "yes") for i in range(48)]
    passed = 0
    for _ in range(200):
        one, other = ([["yes" if luck else "no" for luck in generator.random(48) < 0.5]] for _ in range(2))
        passed += image_gain(one, rows, against={"blind": other}, split="x")["image_gain"].low > 0
    assert passed / 200 < 0.08


def test_questions_without_pictures_do_not_count():
    text_only = Question("t", None, "is it redder than green (9)?", "yes")  # type: ignore[arg-type]
    rows = [*ROWS, text_only]
    found = image_gain([seen(looker, rows)], rows, against={"blind": [blind(looker, rows)]}, split="test")
    assert found["image_gain"].n == 36
    assert score_answers([seen(looker, rows)], rows, split="test")["exact_match"].n == 37
    with pytest.raises(DataError, match="no question has a picture"):
        image_gain([["yes"]], [text_only], against={"blind": [["no"]]}, split="test")
    with pytest.raises(DataError, match="nothing to compare with"):
        image_gain(EYES["seen"], ROWS, against={}, split="test")

"""Failures as pictures, and bars by group with their intervals and baselines."""

import matplotlib as mpl
import numpy as np
import pytest
from dual_encoders import noise_pictures
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer

from kit.data.rows import Question
from kit.errors import DataError
from kit.evaluation.answer_figures import COLOURS, SAID, accuracy_bars, failure_grid
from kit.evaluation.answers import score_answers

mpl.use("agg")

PICTURES = noise_pictures(12)


@pytest.fixture(autouse=True)
def close():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


def rows_of(n=12, **fields):
    return [
        Question(f"q{i}", PICTURES[i], f"What costs ${i}?", "yes", group="shape" if i < 2 else "colour", **fields)
        for i in range(n)
    ]


def tiles(figure, columns=5):
    """Return each picture's axes and those of the words under it."""
    figure.canvas.draw()
    return [(axis, figure.axes[place + columns]) for place, axis in enumerate(figure.axes) if axis.images]


def words(axis):
    return [text.get_text() for text in axis.texts]


def test_only_wrong_answers_are_shown_with_their_own_picture():
    rows = rows_of()
    said = ["yes" if i % 3 else f"no {i}" for i in range(12)]
    figure = failure_grid(rows, said, title="SmolLM2")
    found = tiles(figure)
    assert len(found) == 4
    assert figure.get_suptitle() == "SmolLM2 – 4 of 12 wrong"
    for axis, under in found:
        number = int(words(under)[0].removeprefix("said: no "))
        assert np.array_equal(np.asarray(axis.images[0].get_array()), np.asarray(PICTURES[number].open()))
        assert axis.get_title().replace("\\", "") == f"What costs ${number}?"
        assert words(under)[1] == "right: yes"
        assert to_hex(under.texts[0].get_color()) == SAID


def test_a_small_group_is_not_hidden_by_a_large_one():
    drawn = []
    for _ in range(2):
        figure = failure_grid(rows_of(), ["no"] * 12, limit=4, columns=4)
        assert figure.get_suptitle() == "12 of 12 wrong, 4 shown"
        drawn.append(
            [int(axis.get_title().rpartition("$")[2].removesuffix("?")) for axis, _ in tiles(figure, columns=4)]
        )
    assert sorted(number < 2 for number in drawn[0]) == [False, False, True, True]
    assert drawn[0] == drawn[1]


def test_nothing_wrong_and_no_picture():
    assert failure_grid(rows_of(), ["yes"] * 12).get_suptitle() == "0 of 12 wrong"
    blind = [Question("t", None, "Is it?", "yes")]  # type: ignore[arg-type]
    figure = failure_grid(blind, [""])
    assert [words(axis) for axis in (figure.axes[0], figure.axes[5])] == [
        ["no picture"], ["said: (nothing)", "right: yes"]
    ]  # fmt: skip


@pytest.mark.parametrize(("n", "options"), [(0, {}), (3, {}), (12, {"limit": 0}), (12, {"metric": "f1"})])
def test_what_cannot_be_shown(n, options):
    with pytest.raises(DataError):
        failure_grid(rows_of()[: max(n, 0)], ["x"] * (2 if n == 3 else n), **options)


def test_bars_are_the_measurements():
    rows = rows_of()
    scores = {
        "seen": score_answers([["yes"] * 10 + ["no"] * 2], rows, split="test", baseline=["yes"] * 6 + ["no"] * 6),
        "blind": score_answers([["no"] * 8 + ["yes"] * 4], rows, split="test", prefix="blind_"),
    }
    figure = accuracy_bars(scores, title="easy-VQA")
    (axis,) = figure.axes
    bars = [patch for patch in axis.patches if patch.get_width() > 0]
    assert [bar.get_height() for bar in bars] == pytest.approx([10 / 12, 8 / 10, 1, 4 / 12, 4 / 10, 0])
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [COLOURS[0]] * 3 + [COLOURS[1]] * 3
    assert bars[3].get_hatch()
    ticks = [label.get_text() for label in axis.get_xticklabels()]
    assert ticks == ["all\nn=12", "colour\nn=10", "shape\nn=2"]
    seen = scores["seen"]["exact_match"]
    first = next(found for found in axis.containers if isinstance(found, BarContainer))
    assert first.errorbar.lines[2][0].get_segments()[0][:, 1].tolist() == pytest.approx([seen.low, seen.high])
    dashed = [line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "--"]
    assert dashed == pytest.approx([0.5, 0.4, 1])
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["majority", "seen", "blind"]
    assert axis.get_title() == "easy-VQA"


def test_missing_metrics_are_told_together():
    with pytest.raises(DataError) as caught:
        accuracy_bars({"a": {}, "b": {}}, metric="token_f1")
    assert len(caught.value.faults) == 2
    with pytest.raises(DataError, match="nothing to show"):
        accuracy_bars({})

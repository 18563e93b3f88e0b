"""Figures show the numbers they are about; nothing finite or nobody is refused."""

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest

from kit.humaneval.errors import StudyError
from kit.humaneval.figures import evidence_figure, leaderboard_figure, rater_figure, win_matrix_figure
from kit.humaneval.leaderboard import leaderboard
from kit.humaneval.ranking import Comparisons
from kit.humaneval.raters import rater_reports
from kit.humaneval.sequential import evidence_path, item_outcomes
from kit.humaneval.simulate import simulated_votes
from kit.humaneval.study import Stop
from kit.humaneval.table import VoteTable

mpl.use("Agg")


@pytest.fixture(scope="module")
def table():
    return simulated_votes([0.9, 0.1, -1.0], raters=4, items=40, item_sd=0.3, seed=2)


def test_leaderboard(table):
    board = leaderboard(table, rounds=100)
    figure = leaderboard_figure(board)
    (axes,) = figure.axes
    figure.canvas.draw()
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"{n + 1}. model {n}" for n in range(3)]
    drawn = [tuple(line.get_xdata()) for line in axes.lines]
    for one in board.standings:
        assert (one.spans.these_raters.low, one.spans.these_raters.high) in drawn
        assert (one.spans.sandwich_new.low, one.spans.sandwich_new.high) in drawn
    assert axes.get_title() == "480 votes of 4 raters on 40 items"


def test_leaderboard_names_who_has_no_strength():
    board = leaderboard(VoteTable.of(list("aabb"), list("bbac"), ["left", "right", "tie", "left"]), rounds=20)
    assert "without a finite strength: c" in leaderboard_figure(board).axes[0].get_xlabel()
    with pytest.raises(StudyError, match="no model has a finite strength"):
        leaderboard_figure(leaderboard(VoteTable.of(["a"], ["b"], ["left"])))


def test_win_matrix(table):
    figure = win_matrix_figure(table)
    texts = {text.get_text() for text in figure.axes[0].texts}
    won, _, tied = Comparisons.of(table).counts[:, 0]
    assert f"{(won + tied / 2) / 160:.2f}\n160" in texts
    assert len(figure.axes[0].texts) == 6
    with pytest.raises(StudyError, match="no comparisons"):
        win_matrix_figure(VoteTable.of([], [], []))


def test_evidence(table):
    figure = evidence_figure(table, "model 0", "model 2", stop=Stop())
    above, below = figure.axes
    path = evidence_path(item_outcomes(table, "model 0", "model 2"))
    assert above.lines[0].get_ydata() == pytest.approx(path.log_e / np.log(10))
    assert below.lines[0].get_ydata()[-1] == pytest.approx(item_outcomes(table, "model 0", "model 2").mean())
    lonely = VoteTable.of(["a", "b"], ["b", "c"], ["left", "left"])
    with pytest.raises(StudyError, match="nobody compared"):
        evidence_figure(lonely, "a", "c", stop=Stop())


def test_raters(table):
    reports = rater_reports(replace(table, ms=np.full(len(table), 3000, np.int32)))
    figure = rater_figure(reports)
    figure.canvas.draw()
    assert [axis.get_title() for axis in figure.axes] == ["chose left", "seconds a vote", "pull, log-odds"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        f"simulated rater {n} (120)" for n in range(4)
    ]
    assert {line.get_xdata()[0] for line in figure.axes[1].lines} == {3.0}
    with pytest.raises(StudyError, match="there are no raters"):
        rater_figure(())

"""Figures of a study: leaderboard, win matrix, evidence over votes, rater by rater."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kit.humaneval.errors import StudyError
from kit.humaneval.leaderboard import Leaderboard
from kit.humaneval.ranking import Comparisons
from kit.humaneval.raters import RaterReport
from kit.humaneval.sequential import evidence_path, item_outcomes
from kit.humaneval.study import Stop
from kit.humaneval.table import VoteTable
from kit.intervals import Interval
from kit.result import Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind tell apart; lines also differ in style and width, for print.
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#999999"


def leaderboard_figure(board: Leaderboard) -> Figure:
    """Return strengths with intervals for these raters (thick) and for new ones (thin), best on top.

    Models without a finite strength are named below the axis.

    Raises:
        StudyError: no model has a finite strength.
    """
    import matplotlib.pyplot as plt

    ranked = [one for one in board.standings if np.isfinite(one.strength)]
    if not ranked:
        raise StudyError.of("figure", "no model has a finite strength", "see the leaderboard's notes")
    figure, axes = plt.subplots(figsize=(7, 1.2 + 0.42 * len(ranked)), layout="constrained")
    for row, one in enumerate(ranked):
        _bar(axes, row, one.spans.sandwich_new, color=ORANGE, linewidth=1.2, label="new raters")
        _bar(axes, row, one.spans.these_raters, color=BLUE, linewidth=4.0, label="these raters")
        axes.plot(one.strength, row, "o", color="black", markersize=5)
    axes.set_yticks(range(len(ranked)), [f"{one.place}. {one.model}" for one in ranked])
    axes.set_ylim(len(ranked) - 0.5, -0.5)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    rest = [one.model for one in board.standings if not np.isfinite(one.strength)]
    below = f"\nwithout a finite strength: {', '.join(rest)}" if rest else ""
    axes.set_xlabel(f"strength, log-odds against the average (95% intervals){below}")
    axes.set_title(f"{board.votes} votes of {board.raters} raters on {board.prompts} items")
    handles, labels = axes.get_legend_handles_labels()
    if once := dict(zip(labels, handles, strict=True)):
        axes.legend(once.values(), once, loc="best", fontsize=8)
    return figure


def win_matrix_figure(table: VoteTable) -> Figure:
    """Return how often the row's model beat the column's, ties as half, with the number of votes.

    Raises:
        StudyError: no comparison among the votes.
    """
    import matplotlib.pyplot as plt

    comparisons = Comparisons.of(table.comparisons())
    m = len(comparisons.models)
    if not len(comparisons.cell):
        raise StudyError.of("figure", "there are no comparisons", "vote first")
    won, lost, tied = comparisons.counts
    wins, votes = np.zeros((m, m)), np.zeros((m, m))
    first, second = comparisons.first, comparisons.second
    wins[first, second], wins[second, first] = won + tied / 2, lost + tied / 2
    votes[first, second] = votes[second, first] = won + lost + tied
    with np.errstate(invalid="ignore"):
        share = np.where(votes > 0, wins / votes, np.nan)
    order = np.argsort(-np.nanmean(share, axis=1), kind="stable")
    names, share, votes = [comparisons.models[one] for one in order], share[order][:, order], votes[order][:, order]
    side = 1.8 + 0.62 * m
    figure, axes = plt.subplots(figsize=(side + 1, side), layout="constrained")
    picture = axes.imshow(share, cmap="PuOr_r", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(votes), strict=True):
        dark = abs(share[row, column] - 0.5) > 0.3
        text = f"{share[row, column]:.2f}\n{votes[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    axes.set_xticks(range(m), names, rotation=45, ha="right")
    axes.set_yticks(range(m), names)
    axes.set(title="Share of votes that the row won, and votes", xlabel="against")
    figure.colorbar(picture, ax=axes, label="share won, ties as half", shrink=0.8)
    return figure


def evidence_figure(table: VoteTable, first: str, second: str, *, stop: Stop, pairs: int = 1) -> Figure:
    """Return the evidence over outcomes: e-value above, the score's confidence sequence below.

    Raises:
        StudyError: no such model, or no outcome between the two.
    """
    import matplotlib.pyplot as plt

    outcomes = item_outcomes(table, first, second)[: stop.max_votes]
    if not len(outcomes):
        raise StudyError.of("figure", f"nobody compared {first} and {second}", "vote first")
    path = evidence_path(outcomes, alpha=stop.alpha / pairs)
    n = np.arange(1, len(outcomes) + 1)
    figure, (above, below) = plt.subplots(2, 1, figsize=(7, 4.6), sharex=True, layout="constrained")
    above.plot(n, path.log_e / np.log(10), color=BLUE)
    above.axhline(
        np.log10(pairs / stop.alpha), color=ORANGE, linestyle="--", label=f"verdict at {pairs / stop.alpha:g}"
    )
    above.set(title=f"{first} against {second}", ylabel="e-value, power of 10")
    above.legend(fontsize=8)
    below.fill_between(n, path.low, path.high, color=BLUE, alpha=0.25, label="confidence sequence")
    below.plot(n, np.cumsum(outcomes) / n, color=BLUE, label="mean")
    below.axhspan(0.5 - stop.rope, 0.5 + stop.rope, color=GREY, alpha=0.3, label="equivalent in practice")
    below.set(xlabel="items judged", ylabel=f"score of {first}", ylim=(0, 1))
    below.legend(fontsize=8)
    return figure


def rater_figure(reports: Sequence[RaterReport]) -> Figure:
    """Return what is known of each rater: sides, self-consistency, gold, speed, and the pull on the ranking.

    Raises:
        StudyError: no raters.
    """
    import matplotlib.pyplot as plt

    if not reports:
        raise StudyError.of("figure", "there are no raters", "vote first")
    columns: list[tuple[str, list[Any], float | None]] = [
        ("chose left", [one.left_share for one in reports], 0.5),
        ("same again", [one.self_consistency for one in reports], None),
        ("gold right", [one.gold_accuracy for one in reports], 0.5),
        ("seconds a vote", [one.median_s for one in reports], None),
        ("pull, log-odds", [one.shift for one in reports], None),
    ]
    known = [column for column in columns if any(map(_is_known, column[1]))]
    figure, grid = plt.subplots(
        1, len(known), figsize=(1 + 2 * len(known), 1.3 + 0.36 * len(reports)), sharey=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    axes = grid[0]
    for axis, (title, values, line) in zip(axes, known, strict=True):
        for row, value in enumerate(values):
            _dot(axis, row, value)
        if line is not None:
            axis.axvline(line, color=GREY, linewidth=0.8, zorder=0)
        if line is not None or title == "same again":
            axis.set_xlim(-0.02, 1.02)
        else:
            axis.set_xlim(left=0)
        axis.set_title(title, fontsize=9)
    axes[0].set_yticks(range(len(reports)), [f"{one.rater} ({one.votes})" for one in reports])
    axes[0].set_ylim(len(reports) - 0.5, -0.5)
    figure.suptitle("Rater by rater (votes)", fontsize=11)
    return figure


def _bar(axes: Any, row: int, span: Interval | None, **style: Any) -> None:
    if span is not None:
        axes.plot([span.low, span.high], [row, row], solid_capstyle="butt", **style)


def _is_known(value: Measurement | float | None) -> bool:
    return isinstance(value, Measurement) or (value is not None and bool(np.isfinite(value)))


def _dot(axes: Any, row: int, value: Measurement | float | None) -> None:
    if isinstance(value, Measurement):
        axes.plot([value.low, value.high], [row, row], color=BLUE, linewidth=1.5)
        axes.plot(value.value, row, "o", color="black", markersize=4)
    elif _is_known(value):
        axes.plot(value, row, "o", color="black", markersize=4)

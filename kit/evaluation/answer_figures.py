"""Figures of answers: what went wrong, as pictures, and how often, group by group, beside who does not see."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from kit.errors import DataError, Fault
from kit.evaluation.answers import Asked, references, row_scores
from kit.result import Measurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind tell apart; hatches do where a printer knows no colours.
COLOURS = ("#0072b2", "#e69f00", "#bbbbbb", "#009e73", "#cc79a7")
HATCHES = ("", "///", "...", "xxx", "\\\\\\")
SAID, RIGHT = "#d55e00", "#0072b2"
_WIDE = 28  # letters of a line under a picture


def failure_grid(
    rows: Sequence[Asked],
    answers: Sequence[str],
    *,
    metric: str = "exact_match",
    limit: int = 15,
    columns: int = 5,
    title: str = "",
) -> Figure:
    """Return a figure of wrong answers: picture, question, what was said and what would have been right.

    Args:
        rows: The questions, n of them.
        answers: What a model answered, shape (n,).
        metric: A name in ``answers.METRICS``; below 1 is wrong.
        limit: At most so many, drawn by a hash of their ids, from each group in turn.
        columns: Pictures side by side.
        title: Above the figure; how many were wrong stands there by itself.

    Raises:
        DataError: no rows, unequal lengths, an unknown metric, or a limit or columns below 1.
    """
    import matplotlib.pyplot as plt

    if limit < 1 or columns < 1:
        raise DataError(Fault("failure_grid", f"limit {limit} and columns {columns} must be at least 1"))
    wrong = [number for number, score in enumerate(row_scores([answers], rows, metric)) if score < 1]
    shown = _spread(rows, wrong, limit)
    deep = max(1, -(-len(shown) // columns))
    figure, axes = plt.subplots(
        2 * deep, columns, squeeze=False, layout="constrained", figsize=(1.9 * columns, 2.6 * deep + 0.4),
        gridspec_kw={"height_ratios": [1, 0.26] * deep},
    )  # fmt: skip
    for axis in axes.flat:
        axis.axis("off")
    for place, number in enumerate(shown):
        row, column = divmod(place, columns)
        _tile(axes[2 * row][column], axes[2 * row + 1][column], rows[number], answers[number])
    counted = f"{len(wrong):,} of {len(rows):,} wrong" + (f", {len(shown)} shown" if len(shown) < len(wrong) else "")
    figure.suptitle(f"{title} – {counted}" if title else counted, fontsize=11)
    return figure


def _spread(rows: Sequence[Asked], wrong: Sequence[int], limit: int) -> list[int]:
    """Return some of the wrong rows, a group's after another's, so that a large group hides no small one."""
    luck = {number: hashlib.sha256(rows[number].id.encode()).digest() for number in wrong}
    groups: dict[str, list[int]] = {}
    for number in sorted(wrong, key=luck.__getitem__):
        groups.setdefault(rows[number].group, []).append(number)
    turns = zip_longest(*(groups[name] for name in sorted(groups)))
    drawn = [number for turn in turns for number in turn if number is not None][:limit]
    return sorted(drawn, key=lambda number: (rows[number].group, luck[number]))


def _tile(axis: Any, under: Any, row: Asked, said: str) -> None:
    if row.picture is not None:
        axis.imshow(row.picture.open())
    else:
        axis.text(0.5, 0.5, "no picture", ha="center", va="center", color="grey", transform=axis.transAxes)
    axis.set_title(_lines(row.question, 3), fontsize=8)
    for y, word, text, colour in ((1, "said", said or "(nothing)", SAID), (0.45, "right", references(row)[0], RIGHT)):
        under.text(0.5, y, _lines(f"{word}: {text}", 1), ha="center", va="top", fontsize=8, color=colour)


def _lines(text: str, most: int) -> str:
    plain = " ".join(text.split()).replace("$", r"\$")  # matplotlib reads mathematics between dollars
    return "\n".join(textwrap.wrap(plain, _WIDE, max_lines=most, placeholder=" …"))


def accuracy_bars(
    scores: Mapping[str, Mapping[str, Measurement]], *, metric: str = "exact_match", title: str = ""
) -> Figure:
    """Return a figure of scores by group: a bar for each answerer with its interval, a line at the trivial baseline.

    Args:
        scores: What ``score_answers`` returned, by answerer: ``{"with the picture": …, "blind": …, "shuffled": …}``.
            Prefixes of names do not matter.
        metric: Which of the metrics; its groups are taken from the first answerer.
        title: Above the figure.

    Raises:
        DataError: an answerer lacks the metric, or there are none; all at once.
    """
    import matplotlib.pyplot as plt
    import numpy as np

    tables = {name: _by_group(found, metric) for name, found in scores.items()}
    faults = [Fault(f"accuracy_bars: {name}", f"has no {metric}") for name, table in tables.items() if not table]
    if faults or not tables:
        raise DataError(faults or [Fault("accuracy_bars", "there is nothing to show")])
    first = next(iter(tables.values()))
    width = 0.8 / len(tables)
    figure, axis = plt.subplots(layout="constrained", figsize=(1.6 + 1.2 * len(first), 3.6))
    for nth, (name, table) in enumerate(tables.items()):
        there = [(place, table[group]) for place, group in enumerate(first) if group in table]
        places = [place - 0.4 + width * (nth + 0.5) for place, _ in there]
        values = [one.value for _, one in there]
        ends = np.array([(one.value - _end(one.low, one), _end(one.high, one) - one.value) for _, one in there]).T
        axis.bar(
            places, values, width * 0.92, yerr=ends.clip(0), label=name, color=COLOURS[nth % len(COLOURS)],
            hatch=HATCHES[nth % len(HATCHES)], edgecolor="white", ecolor="black", capsize=2, linewidth=0.5,
        )  # fmt: skip
    lines = [(place, one.baseline) for place, one in enumerate(first.values()) if one.baseline is not None]
    for place, baseline in lines:
        label = "majority" if place == lines[0][0] else None
        axis.plot([place - 0.45, place + 0.45], [baseline] * 2, color="black", linestyle="--", linewidth=1, label=label)
    axis.set_xticks(range(len(first)), [f"{_title(group)}\nn={one.n:,}" for group, one in first.items()], fontsize=8)
    axis.set_ylim(0, 1.02)
    axis.set_ylabel(f"{metric.replace('_', ' ')} (share, 95% interval)", fontsize=9)
    axis.set_title(title, fontsize=11)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return figure


def _by_group(found: Mapping[str, Measurement], metric: str) -> dict[str, Measurement]:
    parts = {name: name.partition(metric) for name in found}
    return {after.lstrip("_"): found[name] for name, (_, own, after) in parts.items() if own}


def _title(group: str) -> str:
    return group.replace("_", " ") or "all"


def _end(end: float | None, one: Measurement) -> float:
    return one.value if end is None else end

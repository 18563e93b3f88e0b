"""Figures that are read at a glance: pictures found by words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from kit.data.picture import Picture
from kit.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOUND = "#0072b2"  # Okabe and Ito's blue, which the colour-blind see too; the frame is also thicker
MISSED = "#bbbbbb"


def picture_grid(
    queries: Sequence[str],
    found: dict[str, Tensor],
    pictures: Sequence[Picture],
    own: Sequence[int] | None = None,
    *,
    columns: int = 5,
    title: str = "",
) -> Figure:
    """Return a figure with a row per query and its nearest pictures, one block of columns per model.

    Args:
        queries: The words, q of them.
        found: For each model's name, its similarities, shape (q, len(pictures)).
        pictures: What was searched.
        own: For each query, which picture is its own, to be framed; shape (q,). None where nobody knows.
        columns: Pictures shown per query and model, best first.
        title: Above the figure.

    Raises:
        DataError: no queries, or shapes that do not agree.
    """
    import matplotlib.pyplot as plt

    for name, similarity in found.items():
        if tuple(similarity.shape) != (len(queries), len(pictures)):
            shape = tuple(similarity.shape)
            raise DataError.of(f"picture_grid: {name}", f"shape {shape}, needed {(len(queries), len(pictures))}")
    if not queries or not found:
        raise DataError.of("picture_grid", "there is nothing to show")
    if own is not None and len(own) != len(queries):
        raise DataError.of("picture_grid: own", f"{len(own)} entries for {len(queries)} queries", "give one for each")
    wide = len(found) * columns
    figure, axes = plt.subplots(
        len(queries), wide + len(found), squeeze=False, layout="constrained",
        figsize=(0.78 * wide + 1.9 * len(found), 0.92 * len(queries) + 0.7),
        gridspec_kw={"width_ratios": ([2.2] + [1] * columns) + ([0.25] + [1] * columns) * (len(found) - 1)},
    )  # fmt: skip
    for row, query in enumerate(queries):
        for block, (name, similarity) in enumerate(found.items()):
            label, *cells = axes[row][block * (columns + 1) : (block + 1) * (columns + 1)]
            label.axis("off")
            if block == 0:
                label.text(1, 0.5, query, ha="right", va="center", wrap=True, fontsize=9, transform=label.transAxes)
            best = np.argsort(-similarity[row].numpy(), kind="stable")[:columns]
            _show(cells, [pictures[index] for index in best], [own is not None and index == own[row] for index in best])
            if row == 0:
                cells[0].set_title(name, fontsize=10, loc="left", fontweight="bold")
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _show(cells: Sequence[object], pictures: Sequence[Picture], right: Sequence[bool]) -> None:
    for cell in cells:
        cell.set_xticks([])  # type: ignore[attr-defined]
        cell.set_yticks([])  # type: ignore[attr-defined]
    for cell, picture, own in zip(cells, pictures, right, strict=False):
        cell.imshow(picture.open())  # type: ignore[attr-defined]
        for spine in cell.spines.values():  # type: ignore[attr-defined]
            spine.set_color(FOUND if own else MISSED)
            spine.set_linewidth(3 if own else 0.6)

"""Figures of a comparison: what each copy costs in size, quality and speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kit.quantization.compare import Line, pareto


def pareto_figure(lines: Sequence[Line], *, tokens: int = 64, title: str = "") -> Any:
    """Return a figure of perplexity against size, the front drawn as a line, and of decode rates beside it.

    Args:
        lines: From ``compare``; the first one is the parent.
        tokens: The prompt length whose decode rates are drawn.
        title: Above both.
    """
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    colours = [f"C{number % 10}" for number in range(len(lines))]
    front = pareto(lines)
    left.plot([one.mb for one in front], [one.perplexity_ratio.value for one in front], color="0.7", zorder=1)
    for line, colour in zip(lines, colours, strict=True):
        shape = "o" if line in front else "x"
        left.scatter(line.mb, line.perplexity_ratio.value, zorder=2, color=colour, marker=shape, label=line.name)
    left.set(xlabel="language tower, MB", ylabel="perplexity, times the parent's")
    left.legend(fontsize=8, title="x: another is smaller and better", title_fontsize=8)
    rates = [line.speed[f"decode_{tokens}"] for line in lines]
    right.barh([line.name for line in lines], [one.value for one in rates], color=colours)
    for place, one in enumerate(rates):
        right.plot([one.low, one.high], [place, place], color="black")
    right.invert_yaxis()
    right.set(xlabel=f"tokens a second after {tokens} (least and most seen)")
    figure.suptitle(title or "Smaller copies of one model")
    return figure


def comparison_table(lines: Sequence[Line], *, tokens: int = 64) -> str:
    """Return the comparison as aligned text, one copy a line."""
    head = ("copy", "MB", "of size", "perplexity", "points lost", "agreement", "prefill x", "decode x", "of floor")
    rows = [head]
    for line in lines:
        lost = "" if line.lost is None else f"{line.lost.value:.2f}"
        speed = [f"{line.speed[f'{what}_{tokens}'].value:.2f}" for what in ("prefill_ratio", "decode_ratio", "floor")]
        ratio = f"{line.perplexity_ratio.value:.3f} x"
        rows.append(
            (line.name, f"{line.mb:.0f}", f"{line.share:.2f}", ratio, lost, f"{line.parity.agreement:.3f}", *speed)
        )
    widths = [max(len(row[place]) for row in rows) for place in range(len(head))]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)

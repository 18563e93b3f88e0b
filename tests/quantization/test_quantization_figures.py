"""The comparison as a figure and as a table."""

import dataclasses

import matplotlib as mpl
from test_compare import LINES

from kit.quantization.figures import comparison_table, pareto_figure
from kit.result import Measurement

mpl.use("Agg")


def full(line):
    numbers = {name: Measurement(2.0, "x", 3, 1.0, 3.0, level=None) for name in ("prefill_ratio_64", "decode_ratio_64")}
    numbers |= {
        "floor_64": Measurement(0.5, "share", 3),
        "decode_64": Measurement(20, "tokens/s", 3, 10, 30, level=None),
    }
    return dataclasses.replace(line, speed=numbers)


def test_the_front_is_drawn_and_every_copy_named():
    figure = pareto_figure([full(line) for line in LINES], title="All")
    left, right = figure.axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == [line.name for line in LINES]
    assert len(left.lines[0].get_xdata()) == 4  # the slow int8 is beaten in both
    assert [label.get_text() for label in right.get_yticklabels()] == [line.name for line in LINES]
    assert figure.get_suptitle() == "All"


def test_the_table_holds_a_line_for_each_copy():
    rows = comparison_table([full(line) for line in LINES]).splitlines()
    assert len(rows) == 1 + len(LINES)
    assert rows[5].split()[:6] == ["nf4", "117", "0.22", "1.550", "x", "0.90"]
    assert len({len(row) for row in rows}) == 1

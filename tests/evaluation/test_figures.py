"""The grid shows, for each query, the nearest pictures, and frames its own."""

import matplotlib as mpl
import numpy as np
import pytest
import torch
from dual_encoders import noise_pictures
from matplotlib.colors import to_hex

from kit.errors import DataError
from kit.evaluation.figures import FOUND, MISSED, picture_grid

mpl.use("agg")


def shown(axis):
    return np.asarray(axis.images[0].get_array())


def test_the_nearest_come_first_and_the_own_one_is_framed():
    import matplotlib.pyplot as plt

    pictures = noise_pictures(4)
    similarity = torch.tensor([[0.1, 0.9, 0.5, 0.2], [0.3, 0.1, 0.2, 0.8]])
    figure = picture_grid(
        ["one", "two"], {"before": similarity, "after": similarity.flip(1)}, pictures, [2, -1], columns=3, title="t"
    )
    figure.canvas.draw()
    grid = [axis for axis in figure.axes if axis.images]
    order = [1, 2, 3, 2, 1, 0, 3, 0, 2, 0, 3, 1]  # row by row: before, after
    assert len(grid) == len(order)
    for axis, number in zip(grid, order, strict=True):
        assert np.array_equal(shown(axis), np.asarray(pictures[number].open()))
    framed = [to_hex(axis.spines["top"].get_edgecolor()) for axis in grid]
    assert framed == [FOUND if place in {1, 3} else MISSED for place in range(12)]
    assert grid[0].get_title(loc="left") == "before"
    assert {"one", "two"} <= {text.get_text() for axis in figure.axes for text in axis.texts}
    plt.close(figure)


def test_fewer_pictures_than_columns():
    import matplotlib.pyplot as plt

    figure = picture_grid(["one"], {"m": torch.tensor([[0.1, 0.9]])}, noise_pictures(2), [0])
    assert sum(bool(axis.images) for axis in figure.axes) == 2
    plt.close(figure)


@pytest.mark.parametrize(
    ("queries", "found", "own", "said"),
    [
        ([], {}, [], "there is nothing to show"),
        (["a"], {"m": torch.zeros(2, 2)}, [0], r"m: shape \(2, 2\), needed \(1, 2\)"),
        (["a"], {"m": torch.zeros(1, 2)}, [0, 1], "own: 2 entries for 1 queries"),
    ],
)
def test_shapes_that_do_not_agree(queries, found, own, said):
    with pytest.raises(DataError, match=said):
        picture_grid(queries, found, noise_pictures(2), own)

"""Pictures from the worker process are those of ``open``, and its failures are told."""

import psutil
import pytest
from PIL import Image

from kit.data.draw import draw_many
from kit.data.picture import Picture
from kit.errors import DataError

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><circle cx="5" cy="5" r="{}" fill="#0a0"/></svg>'


@pytest.fixture
def pictures(tmp_path):
    found = []
    for i in range(12):
        (tmp_path / f"{i}.svg").write_text(SVG.format(1 + i % 4))
        found.append(Picture.at(tmp_path / f"{i}.svg", size=32 + i))
    Image.new("RGBA", (30, 20), (255, 0, 0, 128)).save(tmp_path / "a.png")
    return [*found, Picture.at(tmp_path / "a.png")]


def workers():
    return [child for child in psutil.Process().children() if "kit.data.draw" in " ".join(child.cmdline())]


def test_the_same_pictures_in_order(pictures):
    drawn = list(draw_many(pictures))
    assert [image.tobytes() for image in drawn] == [picture.open().tobytes() for picture in pictures]
    assert [image.size for image in drawn] == [picture.open().size for picture in pictures]
    assert list(draw_many([])) == []
    assert workers() == []


def test_one_that_stops_early_leaves_no_process(pictures):
    stream = draw_many(pictures * 50)
    next(stream)
    assert len(workers()) == 1
    stream.close()
    assert workers() == []


def test_a_bad_picture_is_named_after_the_good_ones(pictures, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    for bad, words in (("bad.png", "is no picture that Pillow can read"), ("none.png", "cannot be read")):
        stream = draw_many([pictures[0], Picture.at(tmp_path / bad), pictures[1]])
        assert next(stream).size == (32, 32)
        with pytest.raises(DataError, match=words) as caught:
            next(stream)
        assert caught.value.faults[0].where == str(tmp_path / bad)


def test_a_worker_that_dies_is_an_error(pictures):
    stream = draw_many(pictures * 500)
    next(stream)
    workers()[0].kill()
    with pytest.raises(DataError, match="the process that draws pictures died"):
        list(stream)

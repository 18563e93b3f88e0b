"""Overlap: the same picture in another file is found, a look-alike is near, and another picture is neither."""

import io

import numpy as np
import pytest
from dual_encoders import noise_pictures
from PIL import Image

from kit.data.looks import NEAR_BITS, NEAR_COLOUR, look, looks
from kit.data.picture import Picture
from kit.data.rows import ImageText
from kit.errors import DataError
from kit.evaluation.look_alikes import _have_look_alikes, overlap
from kit.intervals import exact

RGB = {"red": (220, 30, 30), "green": (30, 160, 30)}


def saved(image, name="picture", kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Picture(name, reader=file.getvalue)


def rows(*pictures):
    return [ImageText(f"r{number}", picture, "text") for number, picture in enumerate(pictures)]


def differing(one, other):
    """Bits, and mean levels."""
    one, other = look(one), look(other)
    return int((one.bits != other.bits).sum()), float(np.abs(one.small - other.small).mean())


def near(one, other):
    bits, levels = differing(one, other)
    return bits <= NEAR_BITS and levels <= NEAR_COLOUR


def slow_bits(picture):
    """The difference hash by its definition, cell by cell."""
    small = picture.open().resize((9, 8), Image.Resampling.LANCZOS)
    bits = []
    for y in range(8):
        for x in range(8):
            left, right = small.getpixel((x, y)), small.getpixel((x + 1, y))
            bits += [int(right[channel]) - int(left[channel]) > 2 for channel in range(3)]
    return bits


def test_a_look_is_the_difference_hash_of_each_channel():
    for picture in noise_pictures(5):
        assert look(picture).bits.tolist() == slow_bits(picture)
    grey = look(saved(Image.new("RGB", (30, 30), "grey")))
    assert grey.bits.shape == (192,)
    assert not grey.bits.any(), "a flat picture has no edges"


def test_the_same_pixels_in_another_file():
    image = noise_pictures(1)[0].open()
    png, bmp, jpeg = saved(image), saved(image, kind="BMP"), saved(image, kind="JPEG", quality=90)
    assert png.digest() != bmp.digest()
    assert look(png).content == look(bmp).content
    assert look(png).content != look(jpeg).content
    assert near(png, jpeg)
    assert near(png, saved(image.resize((27, 27))))
    assert not near(*noise_pictures(2))


def heart(colour):
    image = Image.new("RGB", (40, 40), "white")
    image.paste(RGB[colour], (10, 10, 30, 30))
    return saved(image)


def test_colours_are_told_apart():
    assert differing(heart("red"), heart("green"))[0] <= NEAR_BITS, "the bits alone do not tell them apart"
    assert not near(heart("red"), heart("green"))


def test_overlap_counts_distinct_test_pictures():
    train, others = noise_pictures(6), noise_pictures(10)[6:]
    again = saved(train[0].open(), kind="BMP")
    alike = saved(train[1].open(), kind="JPEG", quality=90)
    found = overlap(rows(*train), rows(again, again, alike, *others), split="test")
    assert (found["overlap"].value, found["overlap"].n) == (1 / 6, 6)
    assert found["near_overlap"].value == 2 / 6
    expected = exact(2, 6)
    assert (found["near_overlap"].low, found["near_overlap"].high) == (expected.low, expected.high)
    assert {one.better for one in found.values()} == {"lower"}
    assert "against 6 in training" in found["overlap"].method
    clean = overlap(rows(*train), rows(*others))
    assert clean["overlap"].value == clean["near_overlap"].value == 0


def test_look_alikes_are_those_of_a_loop():
    pictures = [*noise_pictures(12), heart("green")]
    known = [heart("red")]
    known += [saved(one.open().rotate(turn), quality=90, kind="JPEG") for one in pictures[:6] for turn in (0, 2, 90)]
    loop = [any(near(one, other) for other in known) for one in pictures]
    assert 0 < sum(loop) < 12
    assert not loop[-1]
    assert _have_look_alikes(looks(pictures), looks(known)).tolist() == loop


def test_none_stays_none_and_equal_files_are_opened_once():
    picture = noise_pictures(1)[0]
    found = looks([None, picture, picture])
    assert found[0] is None
    assert found[1] is found[2]
    with pytest.raises(DataError, match="overlap: test: no row has a picture"):
        overlap(rows(picture), [])


@pytest.mark.weights
def test_of_openmoji_no_picture_is_in_two_splits():
    from kit.data.sources import load_rows

    found = overlap(load_rows("openmoji", split="train", limit=150), load_rows("openmoji", split="test", limit=60))
    assert found["overlap"].value == 0

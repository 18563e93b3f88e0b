"""Rows and pictures: ids, digests, subsets, and what a picture is."""

import io
import pickle
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from kit.data.picture import MAX_PIXELS, Picture
from kit.data.rows import Conversation, ImageText, Message, Preference, Question, Rows
from kit.errors import DataError, Fault

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><rect width="5" height="10" fill="#f00"/></svg>'


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (4, 3), "red").save(tmp_path / "red.png")
    return Picture.at(tmp_path / "red.png")


def some(picture, n=10):
    rows = tuple(ImageText(f"r{i}", picture, f"text {i}", concept=f"c{i}") for i in range(n))
    return Rows(rows, name="some", split="train", licence="MIT", attribution="me", faults=(Fault("a", "b"),), skipped=1)


def test_rows_are_a_sequence_and_a_slice_stays_rows(picture):
    rows = some(picture)
    assert len(rows) == 10
    assert rows[3].id == "r3"
    part = rows[2:4]
    assert isinstance(part, Rows)
    assert (part.texts(), part.licence, part.attribution, part.split) == (["text 2", "text 3"], "MIT", "me", "train")
    assert repr(rows) == "Rows('some', split='train', 10 rows, 1 skipped)"


def test_limit_is_deterministic_nested_and_in_order(picture):
    rows = some(picture, 50)
    five, ten = rows.limit(5, seed=1), rows.limit(10, seed=1)
    assert [row.id for row in five] == [row.id for row in rows.limit(5, seed=1)]
    assert {row.id for row in five} < {row.id for row in ten}
    assert [row.id for row in ten] == sorted((row.id for row in ten), key=lambda name: int(name[1:]))
    assert {row.id for row in five} != {row.id for row in rows.limit(5, seed=2)}
    assert rows.limit(99) == rows
    with pytest.raises(DataError, match="limit: must be at least 1, got 0"):
        rows.limit(0)


def test_a_digest_follows_every_field_and_the_file_but_not_the_place(tmp_path, picture):
    row = ImageText("a", picture, "t", "c", "g", "train", {"k": 1})
    copy = tmp_path / "copy.png"
    copy.write_bytes(picture.read())
    assert ImageText("a", Picture.at(copy), "t", "c", "g", "train", {"k": 1}).digest() == row.digest()
    Image.new("RGB", (4, 3), "blue").save(copy)
    others = [
        ImageText("b", picture, "t", "c", "g", "train", {"k": 1}),
        ImageText("a", picture, "u", "c", "g", "train", {"k": 1}),
        ImageText("a", picture, "t", "d", "g", "train", {"k": 1}),
        ImageText("a", picture, "t", "c", "h", "train", {"k": 1}),
        ImageText("a", picture, "t", "c", "g", "test", {"k": 1}),
        ImageText("a", picture, "t", "c", "g", "train", {"k": 2}),
        ImageText("a", Picture.at(copy), "t", "c", "g", "train", {"k": 1}),
    ]
    assert len({row.digest() for row in [row, *others]}) == len(others) + 1


def test_the_other_rows(picture):
    question = Question("q", picture, "what?", "red", ("blue", "red"))
    talk = Conversation("c", None, (Message("user", "hello"), Message("assistant", "hi")))
    vote = Preference("p", picture, "what?", "red", "blue", margin=0.5)
    assert Rows((question,)).texts() == ["what?"]
    assert Rows((talk,)).texts() == ["user: hello\nassistant: hi"]
    assert Rows((vote,)).texts() == ["what?"]
    assert len({row.digest() for row in (question, talk, vote)}) == 3
    assert talk.digest() != Conversation("c", None, (Message("user", "hello"), Message("user", "hi"))).digest()


def test_the_digest_of_rows_follows_order_and_rows(picture):
    rows = some(picture)
    assert rows.digest() == some(picture).digest()
    assert len({rows.digest(), rows[:9].digest(), rows[::-1].digest()}) == 3


def test_rows_can_be_pickled(picture):
    assert pickle.loads(pickle.dumps(some(picture))) == some(picture)


def test_svg_is_drawn_on_white_at_the_size_asked_for(tmp_path):
    (tmp_path / "a.svg").write_text(SVG)
    image = Picture.at(tmp_path / "a.svg", size=20).open()
    assert (image.mode, image.size) == ("RGB", (20, 20))
    assert image.getpixel((5, 10)) == (255, 0, 0)
    assert image.getpixel((15, 10)) == (255, 255, 255)
    small, large = Picture.at(tmp_path / "a.svg", size=20), Picture.at(tmp_path / "a.svg", size=21)
    assert small.digest() != large.digest()


def test_a_wide_svg_is_not_stretched(tmp_path):
    (tmp_path / "wide.svg").write_text(SVG.replace("0 0 10 10", "0 0 20 10").replace('width="5"', 'width="20"'))
    image = Picture.at(tmp_path / "wide.svg", size=40).open()
    assert image.size == (40, 40)
    assert image.getpixel((20, 20)) == (255, 0, 0)
    assert image.getpixel((20, 2)) == (255, 255, 255)


def test_transparency_becomes_white_and_rotation_is_applied(tmp_path):
    Image.new("RGBA", (2, 2), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert Picture.at(tmp_path / "clear.png").open().getpixel((0, 0)) == (255, 255, 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 10)).save(tmp_path / "turned.jpg", exif=exif)
    assert Picture.at(tmp_path / "turned.jpg").open().size == (10, 30)


def bomb(side: int) -> bytes:
    """A PNG of a few hundred bytes whose header claims side x side pixels."""
    out = io.BytesIO()
    Image.new("L", (1, 1)).save(out, "PNG")
    content = bytearray(out.getvalue())
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


def test_bad_pictures_are_errors_that_name_the_file(tmp_path):
    cases = {"text.png": b"no picture", "empty.png": b"", "bad.svg": b"<svg><rect", "binary.svg": b"<svg \xff\xfe"}
    jpeg = io.BytesIO()
    Image.effect_noise((200, 200), 90).save(jpeg, "JPEG")
    cases["cut.jpg"] = jpeg.getvalue()[:2000]
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        picture = Picture.at(tmp_path / name)
        with pytest.raises(DataError) as caught:
            picture.open()
        assert caught.value.faults[0].where == str(tmp_path / name)
        assert picture.fault() is not None
    with pytest.raises(DataError, match="cannot be read: No such file"):
        Picture.at(tmp_path / "none.png").open()


@pytest.mark.parametrize(("side", "words"), [(8_000, "8000 x 8000 pixels"), (20_000, "decompression bomb")])
def test_a_picture_that_would_fill_the_memory_is_not_decoded(tmp_path, side, words):
    assert side**2 > MAX_PIXELS
    (tmp_path / "bomb.png").write_bytes(bomb(side))
    with pytest.raises(DataError, match=words):
        Picture.at(tmp_path / "bomb.png").open()


def test_bytes_from_a_reader_are_read_when_they_are_needed(picture):
    asked = []
    lazy = Picture("lazy", reader=lambda: asked.append(1) or picture.read())
    assert asked == []
    assert lazy.open().size == (4, 3)
    assert lazy.digest() == lazy.digest() == picture.digest()
    assert len(asked) == 2, "the digest is read once"


def test_the_room_imports_no_torch():
    code = "import sys, kit.data.sources, kit.data.folder, kit.data.hub, kit.data.openmoji, kit.data.easy_vqa;"
    code += "print({'torch', 'datasets', 'PIL', 'emoji'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_rows_about_some_pictures_keep_all_their_questions(tmp_path: Path) -> None:
    pictures = []
    for number in range(5):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
        pictures.append(Picture.at(tmp_path / f"{number}.png"))
    rows = Rows(tuple(Question(f"{p}/{q}", pictures[p], f"{q}?", "yes") for p in range(5) for q in range(3)))
    some = rows.about(2, seed=1)
    assert len(some) == 6
    assert len({row.picture for row in some}) == 2
    assert set(some) <= set(rows.about(3, seed=1))
    assert list(rows.about(100)) == list(rows)
    with pytest.raises(DataError, match="pictures: must be at least 1, got 0"):
        rows.about(0)

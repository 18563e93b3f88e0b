"""Prose that is always there, and the user's own, in passages of whole paragraphs."""

import re
import sys

import pytest

from kit.data.prose import MANUAL, load_prose
from kit.errors import DataError, KitError

WORDS = "one two three four five six seven eight nine ten"


def write(path, *paragraphs):
    path.write_text("\n\n".join(paragraphs), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def manual():
    return load_prose()


def test_the_manual_is_prose(manual):
    assert len(manual) > 100
    assert len({row.document for row in manual}) > 40
    assert sum(len(text.split()) for text in manual.texts()) > 12_000
    text = "\n".join(manual.texts())
    assert "::=" not in text
    assert ">>>" not in text
    assert len(re.findall(r"\bthe\b", text)) > 800
    assert manual.name == f"python-manual {sys.version_info.major}.{sys.version_info.minor}"
    assert manual.licence == "PSF-2.0"
    assert "Python Software Foundation" in manual.attribution


def test_no_paragraph_stands_there_twice(manual):
    paragraphs = [paragraph for text in manual.texts() for paragraph in text.split("\n\n")]
    assert len(paragraphs) == len(set(paragraphs))
    assert len({row.id for row in manual}) == len(manual)


def test_the_digest_is_the_texts(manual):
    assert load_prose().digest() == manual.digest()
    assert load_prose(words=60).digest() != manual.digest()
    assert load_prose(limit=5, seed=1).digest() == load_prose(limit=5, seed=1).digest()
    assert set(load_prose(limit=5, seed=1).items) < set(manual.items)


def test_passages_are_whole_paragraphs(tmp_path):
    path = write(tmp_path / "mine.txt", "First\nline.", WORDS, WORDS, "Rest.")
    rows = load_prose(str(path), words=12)
    assert [row.text for row in rows] == [f"First line.\n\n{WORDS}", f"{WORDS}\n\nRest."]
    rows = load_prose(str(path), words=20)
    assert [row.text for row in rows] == [f"First line.\n\n{WORDS}\n\n{WORDS}"], "a short rest is left out"
    rows = load_prose(str(path), words=3)
    assert [row.text for row in rows] == [
        "First line.\n\none two three", "four five six", "seven eight nine", "ten\n\none two three", "four five six",
        "seven eight nine", "ten\n\nRest.",
    ]  # fmt: skip
    assert [row.id for row in rows][:2] == ["mine.txt/0", "mine.txt/1"]
    assert {row.document for row in rows} == {"mine.txt"}


def test_a_short_text_is_kept(tmp_path):
    assert load_prose(str(write(tmp_path / "short.md", "Only this."))).texts() == ["Only this."]


def test_a_folder_of_texts(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    write(tmp_path / "b" / "two.md", WORDS)
    write(tmp_path / "one.txt", WORDS)
    write(tmp_path / "not.csv", WORDS)
    write(tmp_path / ".hidden" / "three.txt", WORDS)
    assert [row.document for row in load_prose(f"folder:{tmp_path}")] == ["b/two.md", "one.txt"]
    assert load_prose("folder:b", base=tmp_path).name == "folder:b"
    assert load_prose("one.txt", base=tmp_path).texts() == [WORDS]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("python-manuel", f"no such text file is there. Did you mean '{MANUAL}'"),
        ("absent.txt", "is no prose that kit knows"),
        ("folder:absent", "no such folder"),
        ("folder:empty", "holds no text"),
        ("hub:org/name", "holds no prose"),
    ],
)
def test_what_is_no_prose(tmp_path, source, said):
    (tmp_path / "empty").mkdir()
    with pytest.raises(KitError) as caught:
        load_prose(source, base=tmp_path)
    assert said in str(caught.value)


def test_all_unreadable_files_at_once(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x80")
    with pytest.raises(DataError) as caught:
        load_prose(f"folder:{tmp_path}")
    assert len(caught.value.faults) == 2
    with pytest.raises(DataError, match="words: must be at least 1, got 0"):
        load_prose(words=0)


def test_a_python_without_its_manual(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(DataError, match="comes without its manual"):
        load_prose()

"""Votes become rows that say what was preferred, how strongly, and what was left out; others can read them."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from small_studies import cast, make_study

from kit.data.picture import Picture
from kit.data.rows import Preference
from kit.data.splits import split_of
from kit.humaneval.errors import StudyError
from kit.humaneval.items import Item, Output
from kit.humaneval.preferences import preference_rows, to_dataset, write_preferences
from kit.humaneval.schedule import Task
from kit.humaneval.study import Study

SVG = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 2"><rect width="2" height="2" fill="red"/></svg>'


def votes(study, *given):
    """Votes from (rater, item, left, right, answer[, kind])."""
    return [
        cast(study, Task(f"item {item}", (left, right), *(kind or ("first",))), answer, rater=rater)
        for rater, item, left, right, answer, *kind in given
    ]


@pytest.fixture
def study():
    return make_study(n=8, raters=("ana", "ben", "cy"))


def test_the_preferred_output_is_chosen_and_the_lead_is_the_margin(study):
    rows = preference_rows(
        study,
        votes(
            study,
            ("ana", 1, "base", "adapted", "right"),
            ("ben", 1, "adapted", "base", "left"),
            ("cy", 1, "adapted", "base", "left"),
            ("ana", 2, "base", "adapted", "left"),
            ("ben", 2, "base", "adapted", "left"),
            ("cy", 2, "base", "adapted", "right"),
            ("ana", 3, "base", "adapted", "left"),
            ("ben", 3, "base", "adapted", "tie"),
        ),
    )
    assert [(row.id, row.chosen, row.rejected, row.margin) for row in rows] == [
        ("item 1|adapted|base", "adapted 1", "base 1", 1.0),
        ("item 2|adapted|base", "base 2", "adapted 2", pytest.approx(1 / 3)),
        ("item 3|adapted|base", "base 3", "adapted 3", 0.5),
    ]
    assert rows[0].prompt == "prompt 1"
    assert rows[1].meta["for"] == 2
    assert rows[1].meta["against"] == 1
    assert rows[1].meta["study"] == study.digest
    assert [row.split for row in rows] == [split_of(f"item {n}") for n in (1, 2, 3)]
    assert (rows.name, rows.skipped) == ("study:captions", 0)


def test_who_answers_a_swapped_repeat_differently_is_left_out_of_that_pair(study):
    rows = preference_rows(
        study,
        votes(
            study,
            ("ana", 1, "base", "adapted", "left"),
            ("ana", 1, "adapted", "base", "left", "repeat"),  # the left side twice: base, then adapted
            ("ben", 1, "base", "adapted", "right"),
            ("ana", 2, "base", "adapted", "left"),
            ("ana", 2, "adapted", "base", "right", "repeat"),  # base twice
            ("ben", 2, "base", "adapted", "right"),
            ("cy", 2, "base", "adapted", "left"),
            ("ana", 3, "base", "adapted", "left"),
            ("ana", 3, "adapted", "base", "tie", "repeat"),
        ),
    )
    assert [(row.id, row.chosen, row.margin) for row in rows] == [
        ("item 1|adapted|base", "adapted 1", 1.0),
        ("item 2|adapted|base", "base 2", pytest.approx(1 / 3)),  # ana counts once
    ]
    assert rows[0].meta["left_out"] == 1
    assert [str(fault) for fault in rows.faults] == [
        "captions: item 3: adapted | base: every rater answered it differently the second time"
    ]


def test_what_makes_no_row_is_named(study):
    rows = preference_rows(
        study,
        votes(
            study,
            ("ana", 1, "base", "adapted", "left"),
            ("ben", 1, "base", "adapted", "right"),
            ("ana", 2, "base", "adapted", "both_bad"),
            ("ben", 2, "base", "adapted", "both_bad"),
            ("cy", 2, "base", "adapted", "left"),
            ("ana", 3, "base", "adapted", "tie"),
            ("ana", 4, "base", "adapted", "skip"),
            ("ana", 99, "base", "adapted", "left"),
            ("ana", 5, "base", "adapted", "left", "gold"),
            ("", 0, "base", "adapted", "tie", "identical"),
        ),
    )
    assert len(rows) == 0
    assert [fault.what for fault in rows.faults] == [
        "level, 1 to 1", "most called both bad", "level, 0 to 0", "the study has no such item",
    ]  # fmt: skip
    assert rows.skipped == 4
    with pytest.raises(StudyError, match="there are no rows; left out were 1 because level, 1 to 1") as caught:
        write_preferences(rows, Path("p.jsonl"))
    assert "no texts" not in str(caught.value)
    with pytest.raises(StudyError, match="there are no rows"):
        to_dataset(rows)


def test_rankings_are_all_their_pairs():
    study = make_study(n=3, design="best_of", conditions=("a", "b", "c"))
    vote = cast(study, Task("item 1", ("b", "c", "a")), "[2,0,1]")
    rows = preference_rows(study, [vote])
    assert [(row.chosen, row.rejected) for row in rows] == [("a 1", "b 1"), ("a 1", "c 1"), ("b 1", "c 1")]


def test_pictures_as_answers_make_no_row(tmp_path):
    (tmp_path / "a.svg").write_text(SVG)
    made = {"x": Output(picture=Picture.at(tmp_path / "a.svg")), "y": Output("text")}
    study = Study("s", "Q?", ("x", "y"), ("ana",), (Item("item 1", made, "p"),))
    rows = preference_rows(study, votes(study, ("ana", 1, "x", "y", "left")))
    assert [fault.what for fault in rows.faults] == ["its outputs are no texts"]
    with pytest.raises(StudyError, match="preferences are learnt from texts"):
        write_preferences(rows, tmp_path / "p.jsonl")


def plain(n=3):
    return [Preference(f"{i}", None, f"prompt {i}", f"good {i}", f"bad {i}", 0.5 + i / 10) for i in range(n)]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_datasets_reads_texts(tmp_path, ending):
    from datasets import load_dataset

    path = tmp_path / f"prefs.{ending}"
    assert write_preferences(plain(), path) == 3
    kind = {"jsonl": "json"}.get(ending, ending)
    read = load_dataset(kind, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert set(read.column_names) == {"prompt", "chosen", "rejected", "margin"}
    assert read[1]["prompt"] == [{"role": "user", "content": "prompt 1"}]
    assert read[1]["chosen"] == [{"role": "assistant", "content": "good 1"}]
    assert read[1]["rejected"] == [{"role": "assistant", "content": "bad 1"}]
    assert read["margin"] == [0.5, 0.6, 0.7]
    assert not list(tmp_path.glob(".*"))


def test_datasets_reads_pictures(tmp_path):
    from datasets import load_dataset

    Image.new("RGB", (5, 3), "blue").save(tmp_path / "blue.png")
    (tmp_path / "red.svg").write_text(SVG)
    pictures = [Picture.at(tmp_path / "blue.png"), Picture.at(tmp_path / "red.svg", size=16), None]
    rows = [replace(row, picture=picture) for row, picture in zip(plain(), pictures, strict=True)]
    path = tmp_path / "prefs.parquet"
    assert write_preferences(rows, path) == 3
    read = load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert read[0]["images"][0].size == (5, 3)
    assert read[0]["images"][0].getpixel((0, 0)) == (0, 0, 255)
    assert read[1]["images"][0].size == (16, 16)
    assert read[2]["images"] == []
    assert [part["type"] for part in read[0]["prompt"][0]["content"]] == ["image", "text"]
    assert [part["type"] for part in read[2]["prompt"][0]["content"]] == ["text"]
    assert read[0]["chosen"][0]["content"] == [{"type": "text", "text": "good 0"}]
    again = to_dataset(rows)[0]["images"][0]
    assert again.tobytes() == read[0]["images"][0].tobytes()
    with pytest.raises(StudyError, match="JSONL holds no pictures"):
        write_preferences(rows, tmp_path / "prefs.jsonl")


def test_files_that_cannot_be(tmp_path):
    with pytest.raises(StudyError, match=r"preferences are not kept in \.csv"):
        write_preferences(plain(), tmp_path / "prefs.csv")
    for ending in ("jsonl", "parquet"):
        with pytest.raises(StudyError, match="cannot be written"):
            write_preferences(plain(), tmp_path / "nowhere" / f"prefs.{ending}")
        with pytest.raises(StudyError, match="there are no rows"):
            write_preferences([], tmp_path / f"prefs.{ending}")


def test_a_line_of_jsonl_is_one_rows_json(tmp_path):
    write_preferences(plain(1), tmp_path / "p.jsonl")
    (line,) = io.StringIO((tmp_path / "p.jsonl").read_text()).readlines()
    assert json.loads(line)["margin"] == 0.5

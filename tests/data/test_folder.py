"""A user's folder: what works, and every mistake with its file and line."""

import csv
import json

import pytest
from PIL import Image

from kit.data.rows import ImageText, Question
from kit.data.sources import load_rows
from kit.errors import DataError

COLOURS = ["red", "green", "blue", "white", "black", "gray", "pink", "brown", "orange", "purple"]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    for name in COLOURS:
        Image.new("RGB", (8, 8), name).save(root / f"{name}.png")
    return root


def table(folder, rows, *, raw=()):
    lines = [json.dumps(row) for row in rows] + list(raw)
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def captions(**more):
    return [{"file_name": f"{name}.png", "text": f"a {name} square", **more} for name in COLOURS]


def load(folder, **options):
    return load_rows(f"folder:{folder}", **({"split": "all"} | options))


def faults(folder, **options):
    with pytest.raises(DataError) as caught:
        load(folder, **options)
    return [str(fault).replace(f"{folder}/", "") for fault in caught.value.faults]


def test_captions_in_jsonl(folder):
    table(folder, captions(source="me"))
    rows = load(folder)
    assert [row.text for row in rows] == [f"a {name} square" for name in COLOURS]
    assert isinstance(rows[0], ImageText)
    assert (rows[0].id, rows[0].meta, rows[0].concept) == ("red.png", {"source": "me"}, "a red square")
    assert rows[0].picture.open().getpixel((0, 0)) == (255, 0, 0)


def test_captions_in_csv_with_commas_and_a_byte_order_mark(folder):
    with (folder / "metadata.csv").open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["file_name", "caption"], ["red.png", "red, and\nnothing else"], ["blue.png", "blue"]])
    assert load(folder).texts() == ["red, and\nnothing else", "blue"]


def test_questions_have_many_to_a_picture(folder):
    rows = [{"file_name": f"{n}.png", "question": q, "answer": n} for n in COLOURS for q in ("what?", "which colour?")]
    table(folder, rows)
    found = load(folder)
    assert isinstance(found[0], Question)
    assert [row.id for row in found[:3]] == ["red.png#0", "red.png#1", "green.png#0"]
    splits = {}
    for row in found:
        splits.setdefault(row.id.partition("#")[0], set()).add(row.split)
    assert all(len(seen) == 1 for seen in splits.values())


def test_splits_by_folder_by_column_and_by_both(tmp_path):
    for name in ("train", "validation", "test"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4), "red").save(tmp_path / name / "a.png")
        table(tmp_path / name, [{"file_name": "a.png", "text": name}])
    assert {row.split: row.text for row in load(tmp_path)} == {"train": "train", "val": "validation", "test": "test"}
    assert [row.id for row in load(tmp_path, split="val")] == ["validation/a.png"]
    for name in ("train", "validation", "test"):
        (tmp_path / name / "metadata.jsonl").unlink()
    table(
        tmp_path, [{"file_name": "train/a.png", "text": "x"}, {"file_name": "test/a.png", "text": "y", "split": "dev"}]
    )
    assert [row.split for row in load(tmp_path)] == ["train", "val"]


def test_without_splits_equal_captions_and_equal_pictures_stay_together(folder):
    Image.open(folder / "red.png").save(folder / "red2.png")
    rows = [{"file_name": f"{name}.png", "text": f"number {i}"} for i, name in enumerate(COLOURS * 20)]
    for i, row in enumerate(rows):
        row["id"] = f"{i}"
        row["text"] = f"Caption  {i // 40}"  # five captions; each picture has all of them: one big group
    table(folder, rows)
    assert len({row.split for row in load(folder)}) == 1
    table(folder, [{"file_name": "red.png", "text": "one"}, {"file_name": "red2.png", "text": "two"}])
    assert len({row.split for row in load(folder)}) == 1
    table(folder, captions())
    before = {row.id: row.split for row in load(folder)}
    table(folder, captions()[3:])
    assert {row.id: row.split for row in load(folder)} == {
        k: v for k, v in before.items() if k not in {f"{c}.png" for c in COLOURS[:3]}
    }, "rows do not move"


def test_all_faults_at_once_with_file_and_line(folder, tmp_path):
    (folder / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    table(
        folder,
        [
            {"file_name": "red.png", "text": "good"},
            {"file_name": "red.png", "text": "again"},
            {"file_name": "gren.png", "text": "typo"},
            {"file_name": "../outside.png", "text": "outside"},
            {"file_name": "link.png", "text": "outside by a link"},
            {"file_name": "/etc/passwd", "text": "outside for sure"},
            {"file_name": "blue.png", "text": 7},
            {"file_name": "white.png"},
            {"file_name": "broken.png", "text": "broken"},
            {"file_name": 3, "text": "x"},
            {"file_name": "black.png", "text": "x", "split": "tset"},
        ],
        raw=["{not json", "[1, 2]"],
    )
    said = faults(folder)
    expected = [
        "metadata.jsonl:12: is no JSON",
        "metadata.jsonl:13: must be a JSON object, got list",
        "metadata.jsonl:2: id 'red.png' is already that of metadata.jsonl:1",
        "metadata.jsonl:3: file_name: no such file: 'gren.png'. Did you mean 'green.png'?",
        "metadata.jsonl:4: file_name: '../outside.png' leads out of the folder",
        "metadata.jsonl:5: file_name: 'link.png' leads out of the folder",
        "metadata.jsonl:6: file_name: '/etc/passwd' leads out of the folder",
        "metadata.jsonl:7: text: must be a text, got 7",
        "metadata.jsonl:8: text: must be a text, got None",
        "metadata.jsonl:9: 'broken.png' is no picture that Pillow can read",
        "metadata.jsonl:10: file_name: must be a file's name, got 3",
        "metadata.jsonl:11: split: no split 'tset'. Did you mean 'test'?",
    ]
    assert [one.startswith(start) for one, start in zip(said, expected, strict=True)] == [True] * 12, said

    rows = load(folder, on_bad="skip")
    assert (rows.texts(), rows.skipped, len(rows.faults)) == (["good"], 12, 12)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"filename": "red.png", "text": "x"}], "no column 'file_name'. Is it 'filename'?"),
        ([{"file_name": "red.png", "txt": "x"}], "no column 'text'. Is it 'txt'?"),
        ([{"file_name": "red.png", "question": "x"}], "no column 'text'"),
        ([], "holds no rows"),
    ],
)
def test_a_missing_column_is_one_fault_and_is_never_skipped(folder, rows, words):
    table(folder, rows)
    for on_bad in ("raise", "skip"):
        (said,) = faults(folder, on_bad=on_bad)
        assert words in said


def test_two_missing_columns_are_two_faults(folder):
    table(folder, [{"picture": "red.png", "label": "x"}])
    assert len(faults(folder)) == 2


def test_folders_without_a_table(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    assert "is an empty folder" in faults(tmp_path / "empty")[0]
    assert "holds neither metadata.jsonl nor metadata.csv" in faults(folder)[0]
    assert '{"file_name": "cat.jpg", "text": "a cat"}' in faults(folder)[0]
    table(folder, captions())
    (folder / "metadata.csv").write_text("file_name,text\n")
    assert "holds both" in faults(folder)[0]


def test_bad_csv(folder):
    (folder / "metadata.csv").write_text('file_name,text\nred.png,one,two\ngreen.png\nblue.png,""\n')
    said = faults(folder)
    assert said[0].startswith("metadata.csv:2: has more cells than the header")
    assert said[1].startswith("metadata.csv:3: has fewer cells than the header")
    assert said[2] == "metadata.csv:4: text: must be a text, got ''"
    (folder / "metadata.csv").write_bytes(b"file_name,text\nred.png,caf\xe9\n")
    assert "save it as UTF-8" in faults(folder)[0]


def test_a_split_without_rows_says_where_the_rows_are(folder):
    table(folder, captions(split="train"))
    (said,) = faults(folder, split="test")
    assert "no rows in split 'test' (train 10, val 0, test 0)" in said
    assert "column 'split'" in said


def test_when_all_rows_are_bad_skipping_is_no_way_out(folder):
    table(folder, [{"file_name": "none.png", "text": "x"}])
    (said,) = faults(folder, on_bad="skip")
    assert "1 rows were skipped, the first because of" in said
    assert "no such file: 'none.png'" in said


def test_digests_follow_pictures_and_captions_not_the_place(folder, tmp_path):
    table(folder, captions())
    before = load(folder).digest()
    folder.rename(tmp_path / "moved")
    assert load(tmp_path / "moved").digest() == before
    Image.new("RGB", (8, 8), "teal").save(tmp_path / "moved" / "red.png")
    assert load(tmp_path / "moved").digest() != before

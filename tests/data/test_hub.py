"""Data sets through the ``datasets`` library, from local folders in the Hub's layout (the Hub itself is not asked)."""

import os
import subprocess
import sys

import pytest
from PIL import Image

from kit.data.rows import Question
from kit.data.sources import load_rows
from kit.errors import DataError

datasets = pytest.importorskip("datasets")
COLOURS = ["red", "green", "blue", "white", "black", "gray"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def save(tmp_path, monkeypatch):
    """Write columns as parquet under org/name, where ``datasets`` finds them as hub:org/name."""
    monkeypatch.chdir(tmp_path)

    def write(columns, *, split="train"):
        plain = {name: [None if isinstance(v, Image.Image) else v for v in values] for name, values in columns.items()}
        features = datasets.Dataset.from_dict(plain).features.copy()
        for name, values in columns.items():
            if any(isinstance(value, Image.Image) for value in values):
                features[name] = datasets.Image()
        path = tmp_path / "org" / "name" / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(columns, features=features).to_parquet(path)

    return write


def squares(names=COLOURS):
    return [Image.new("RGB", (8, 8), name) for name in names]


def test_picture_by_type_caption_by_name_split_by_hash(save):
    save({"photo": squares(), "caption": [f"a {name} square" for name in COLOURS], "extra": [1] * 6})
    rows = load_rows("hub:org/name", split="all")
    assert rows.texts() == [f"a {name} square" for name in COLOURS]
    assert rows[0].picture.open().getpixel((0, 0)) == (255, 0, 0)
    assert {row.id for row in rows} == {f"train/{i}" for i in range(6)}
    assert {row.split for row in rows} <= {"train", "val", "test"}
    assert rows.digest() == load_rows("hub:org/name", split="all").digest()


def test_the_data_sets_own_splits_count(save):
    for split, names in (("train", COLOURS[:3]), ("validation", COLOURS[3:5]), ("test", COLOURS[5:])):
        save({"image": squares(names), "text": names}, split=split)
    assert load_rows("hub:org/name", split="train").texts() == COLOURS[:3]
    assert load_rows("hub:org/name", split="val").texts() == COLOURS[3:5]
    assert load_rows("hub:org/name", split="test").texts() == COLOURS[5:]


def test_a_column_named_split_counts_more(save):
    save({"image": squares(), "text": COLOURS, "split": ["train"] * 4 + ["val", "test"]}, split="test")
    assert load_rows("hub:org/name", split="val").texts() == ["black"]


def test_lists_of_captions(save):
    save({"image": squares(), "caption": [[name, f"some {name}"] for name in COLOURS]})
    row = load_rows("hub:org/name", split="all")[0]
    assert (row.text, row.meta) == ("red", {"aliases": ("some red",)})


def test_questions(save):
    save({"image": squares(), "question": ["which colour?"] * 6, "answer": COLOURS})
    rows = load_rows("hub:org/name", split="all")
    assert isinstance(rows[0], Question)
    assert [row.answer for row in rows] == COLOURS


def test_missing_columns_are_stated_together(save):
    save({"label": [1], "captions": ["x"]})
    with pytest.raises(DataError) as caught:
        load_rows("hub:org/name", split="all")
    first, second = map(str, caught.value.faults)
    assert "hub:org/name: train: needs one column of pictures, has 0" in first
    assert "no column 'text' or 'caption', nor 'question' and 'answer'. Is it 'captions'?" in second


def test_bad_rows_are_stated_together_or_skipped(save, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    pictures = [*squares(COLOURS[:4]), {"path": None, "bytes": b"no picture"}, None]
    save({"image": pictures, "text": ["good", "", None, "fine", "broken", "nothing"]})
    with pytest.raises(DataError) as caught:
        load_rows("hub:org/name", split="all")
    assert [fault.where for fault in caught.value.faults] == [
        "hub:org/name: train[1]: text",
        "hub:org/name: train[2]: text",
        "hub:org/name: train[4]",
        "hub:org/name: train[5]",
    ]
    rows = load_rows("hub:org/name", split="all", on_bad="skip")
    assert (rows.texts(), rows.skipped, len(rows.faults)) == (["good", "fine"], 4, 4)


def test_limit(save):
    save({"image": squares(), "text": COLOURS})
    assert len(load_rows("hub:org/name", split="all", limit=2)) == 2


def in_a_fresh_process(before: str, folder) -> str:
    code = f"{before}\nfrom kit.data.sources import load_rows\nload_rows('hub:org/none', split='all')"
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=folder).stderr


def test_a_data_set_that_is_not_there(tmp_path):
    said = in_a_fresh_process("", tmp_path)
    assert "DataError: hub:org/none: cannot be loaded: " in said
    assert "Fix: check the name on https://huggingface.co/datasets" in said


def test_without_the_package_the_error_names_the_extra(tmp_path):
    said = in_a_fresh_process("import sys; sys.modules['datasets'] = None", tmp_path)
    assert "DataError: hub:org/none: needs the package 'datasets'" in said
    assert "pip install 'multimodal-kit[hub]'" in said

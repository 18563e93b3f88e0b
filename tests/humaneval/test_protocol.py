"""A study's YAML: what it may say, every fault at once, and the way there and back."""

import json
from pathlib import Path

import pytest
from PIL import Image

from kit.data.picture import Picture
from kit.humaneval.errors import StudyError
from kit.humaneval.items import Item, Output
from kit.humaneval.protocol import read_study, write_study
from kit.humaneval.study import Stop, Study

PLAIN = """
question: Which describes the picture better?
conditions: [base, adapted]
raters: [ana, ben]
items:
  - {id: cat, prompt: Describe., outputs: {base: A cat., adapted: A tabby cat.}}
  - {id: dog, prompt: Describe., outputs: {base: A dog., adapted: {text: A wet dog.}}}
"""


@pytest.fixture
def write(tmp_path: Path):
    def to(text: str, name: str = "captions.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return to


def test_the_plain_case(write):
    study = read_study(write(PLAIN))
    assert study.name == "captions"
    assert study.items[1] == Item("dog", {"base": Output("A dog."), "adapted": Output("A wet dog.")}, "Describe.")
    assert study.stop == Stop()
    assert study.source.endswith("captions.yaml")
    assert read_study(write(PLAIN, "study.yaml")).name == write(PLAIN).parent.name


def test_items_and_outputs_come_from_files(write, tmp_path: Path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "red.png")
    (tmp_path / "items.jsonl").write_text('{"id": "a", "picture": "red.png"}\n\n{"id": "b", "prompt": "x\u2028y"}\n')
    (tmp_path / "base.jsonl").write_text('{"id": "a", "text": "one"}\n{"id": "b", "text": "two"}\n')
    (tmp_path / "new.jsonl").write_text('{"id": "b", "picture": "red.png"}\n{"id": "a", "text": "three"}\n')
    study = read_study(
        write(
            "question: Q?\nconditions: [base, new]\nraters: [ana]\nitems: items.jsonl\n"
            "outputs: {base: base.jsonl, new: new.jsonl}\ndesign: likert\nrubric: {helpful: 3, kind: [rude, nice]}\n"
            "stop: {alpha: 0.01}\nrepeats: 0\n"
        )
    )
    assert study.items[0].picture == Picture.at(tmp_path / "red.png")
    assert study.items[0].outputs["new"].text == "three"
    assert study.items[1].outputs["new"].picture == Picture.at(tmp_path / "red.png")
    assert study.rubric == {"helpful": ("1", "2", "3"), "kind": ("rude", "nice")}
    assert study.stop == Stop(alpha=0.01)


def test_there_and_back_with_pictures_and_sounds(tmp_path: Path):
    Image.new("RGB", (4, 4), "red").save(tmp_path / "base-model.PNG")
    (tmp_path / "voice.wav").write_bytes(b"RIFF")
    inside = Picture("row 3", reader=(tmp_path / "base-model.PNG").read_bytes)
    study = Study(
        "whole", "Which, ‘really’?", ("base", "new"), ("ana",),
        (Item("a", {"base": Output(picture=inside), "new": Output("ü")}, "p", inside, tmp_path / "voice.wav"),),
        gold=(Item("g", {"right": Output("yes: a"), "wrong": Output("no")}, "p"),),
        raters_per_pair=2, seed=3,
    )  # fmt: skip
    path = write_study(study, tmp_path / "out")
    again = read_study(path)
    assert again.digest == study.digest
    files = sorted(file.name for file in (tmp_path / "out" / "media").iterdir())
    assert len(files) == 2
    assert not any("base" in name or "voice" in name for name in files)
    assert write_study(again, tmp_path / "out").read_bytes() == path.read_bytes()


def test_all_faults_at_once(write, tmp_path: Path):
    (tmp_path / "base.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n{oops\n["a"]\n')
    path = write(
        """
qestion: Which?
conditions: [base, 5]
raters: ana
items:
  - {id: a, prompt: p, colour: red, outputs: {new: [1]}}
  - just text
  - {id: [1], prompt: p}
  - {id: b, picture: 7, outputs: [x]}
outputs: {base: base.jsonl, new: gone.jsonl}
rubric: {helpful: 1}
stop: {alfa: 0.05, rope: 0.7}
gold: {a: b}
repeats: lots
"""
    )
    with pytest.raises(StudyError) as caught:
        read_study(path)
    said = str(caught.value)
    for place in (
        ": qestion: not a key here. Did you mean 'question'?",
        ": question: is missing",
        ": conditions: 5 is no name",
        ": raters: must be a list of names, got 'ana'",
        ": items.a.colour: not a key here.",
        ": items.a.outputs.new: must be text or a mapping, got [1]",
        ": items[2]: needs an id that is text, got 'just text'",
        ": items.[1]: needs an id that is text",
        ": items.b.picture: must be a path, got 7",
        ": items.b.outputs: must be a mapping by condition, got ['x']",
        ": outputs.base[2]: 'a' is there twice",
        "base.jsonl: is not JSON",
        ": outputs.base[4]: needs an id that is text",
        ": outputs.new: ",
        ": rubric.helpful: must be labels or a number of points, got 1",
        ": stop.alfa: not a key here. Did you mean 'alpha'?",
        ": stop.rope: must be at least 0 and below 0.5, got 0.7",
        ": gold: must be a list, or the path of a JSONL file",
        ": repeats: must be a share between 0 and 0.5, got 'lots'",
    ):
        assert place in said, place
    assert len(caught.value.faults) == 19 + 1  # 'b' has no prompt, since its picture could not be read
    assert said.count("captions.yaml") >= 19


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "this is empty"),
        ("- a\n", r"this is \['a'\]"),
        ("question: [", "line 1, column 12: is not YAML"),
        ("question: Q?\nconditions: [a, b]\nraters: [x]\nitems: gone.jsonl\n", r"items: .*gone.jsonl cannot be read"),
        (PLAIN + "stop: soon\n", "stop: must be a mapping, got 'soon'"),
        (PLAIN + "outputs: soon\n", "outputs: must be a mapping by condition"),
        (PLAIN + "rubric: soon\n", "rubric: must be a mapping, got 'soon'"),
    ],
)
def test_bad_files(write, text, said):
    with pytest.raises(StudyError, match=said) as caught:
        read_study(write(text))
    assert len(caught.value.faults) == 1


def test_a_misspelled_condition_of_outputs_is_one_fault_and_not_two_for_each_item(write, tmp_path: Path):
    (tmp_path / "b.jsonl").write_text("".join(f'{{"id": "item{n}", "text": "x"}}\n' for n in range(3)))
    text = "question: Q?\nconditions: [base, adapted]\nraters: [x]\noutputs: {adaptd: b.jsonl}\nitems:\n"
    items = "".join(f"  - {{id: item{n}, prompt: p, outputs: {{base: text}}}}\n" for n in range(3))
    with pytest.raises(StudyError) as caught:
        read_study(write(text + items))
    assert len(caught.value.faults) == 1
    assert "outputs.adaptd: not a condition of the study. Did you mean 'adapted'?" in str(caught.value)


def test_a_misspelled_key_of_an_output_is_not_told_again_as_an_empty_output(write):
    text = "question: Q?\nconditions: [a, b]\nraters: [x]\nitems:\n"
    with pytest.raises(StudyError) as caught:
        read_study(write(text + "  - {id: i, prompt: p, outputs: {a: {txt: x}, b: ''}}\n"))
    told = [fault.where.partition(": ")[2] for fault in caught.value.faults]
    assert told == ["items.i.outputs.a.txt", "items.i.outputs.b"]


def test_what_is_missing_is_shown(write):
    with pytest.raises(StudyError) as caught:
        read_study(write("question: Q?\n"))
    assert "conditions: is missing\n  Fix: write conditions: [base, adapted]" in str(caught.value)


def test_a_missing_file_of_outputs_is_one_fault_and_not_one_for_each_item(write):
    text = "question: Q?\nconditions: [a, b]\nraters: [x]\noutputs: {a: gone.jsonl}\nitems:\n"
    items = "".join(f"  - {{id: item{n}, prompt: p, outputs: {{b: text}}}}\n" for n in range(3))
    with pytest.raises(StudyError, match=r"outputs\.a: .*gone\.jsonl cannot be read") as caught:
        read_study(write(text + items))
    assert len(caught.value.faults) == 1


def test_a_file_that_is_not_there_or_not_utf8(tmp_path: Path):
    with pytest.raises(StudyError, match=r"nowhere.yaml: cannot be read: No such file"):
        read_study(tmp_path / "nowhere.yaml")
    (tmp_path / "latin.yaml").write_bytes("question: für".encode("latin-1"))
    with pytest.raises(StudyError, match="is not YAML"):
        read_study(tmp_path / "latin.yaml")


def test_a_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("")
    study = Study("s", "Q?", ("a", "b"), ("ana",), (Item("i", {"a": Output("x"), "b": Output("y")}, "p"),))
    with pytest.raises(StudyError, match="cannot be written"):
        write_study(study, tmp_path / "file" / "in")


def test_a_written_study_is_what_yaml_readers_see(tmp_path: Path):
    import yaml

    study = Study("s", "Q?", ("a", "b"), ("ana",), (Item("i", {"a": Output("x"), "b": Output("y")}, "p"),))
    values = yaml.safe_load(write_study(study, tmp_path).read_text())
    assert json.loads(json.dumps(values))["items"] == [{"id": "i", "prompt": "p", "outputs": {"a": "x", "b": "y"}}]

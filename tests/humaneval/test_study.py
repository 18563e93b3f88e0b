"""A study is checked as a whole, its hash covers what raters see, and a change shows its place."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from kit.data.picture import Picture
from kit.data.rows import Question
from kit.humaneval.errors import StudyError
from kit.humaneval.items import Item, Output, items_of
from kit.humaneval.study import Stop, Study, changes, protocol_digest

ITEMS = tuple(
    Item(f"item {n}", {"base": Output(f"plain {n}"), "adapted": Output(f"better {n}")}, f"prompt {n}") for n in range(4)
)

THREE = tuple(replace(item, outputs={**item.outputs, "third": Output("other")}) for item in ITEMS)


def study(**changed):
    fields = {"name": "captions", "question": "Which is better?", "conditions": ("base", "adapted")}
    return Study(**{**fields, "raters": ("ana", "ben"), "items": ITEMS, **changed})


@pytest.fixture
def picture(tmp_path: Path) -> Picture:
    path = tmp_path / "red.png"
    Image.new("RGB", (4, 4), "red").save(path)
    return Picture.at(path)


def test_the_digest_is_the_protocols_and_does_not_move():
    assert study().digest == protocol_digest(study().protocol())
    assert study().digest == study(source="elsewhere").digest
    # Whoever published this hash before a vote must find it again with every later kit.
    assert study().digest == "aa30d303147cb6b51838b79b5215cd6e058bc6c435dbdbb2b0b06783a384e8d0"


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "other"},
        {"question": "Which is worse?"},
        {"conditions": ("adapted", "base")},
        {"raters": ("ana",)},
        {"items": ITEMS[:3]},
        {"items": (*ITEMS[:3], replace(ITEMS[3], prompt="another"))},
        {"items": (*ITEMS[:3], replace(ITEMS[3], outputs={**ITEMS[3].outputs, "base": Output("another")}))},
        {"gold": (Item("g", {"right": Output("a"), "wrong": Output("b")}, "p"),)},
        {"repeats": 0.2},
        {"gold_share": 0.1},
        {"raters_per_pair": 1},
        {"stop": Stop(alpha=0.01)},
        {"seed": 1},
        {"design": "best_of"},
        {"design": "likert", "rubric": {"helpful": ("no", "yes")}},
    ],
)
def test_whatever_is_fixed_is_in_the_digest(changed):
    assert study(**changed).digest != study().digest
    assert changes(study().protocol(), study(**changed).protocol(), where="s")


def test_the_choice_of_pairs_is_fixed_too():
    three = {"conditions": ("base", "adapted", "third"), "items": THREE}
    chosen = study(**three, informative=0.8)
    assert chosen.digest != study(**three).digest
    (told,) = changes(study(**three).protocol(), chosen.protocol(), where="s")
    assert str(told) == "s: informative: is new: 0.8"


def test_a_file_counts_by_its_content_and_not_by_its_name(picture: Picture, tmp_path: Path):
    copy = tmp_path / "adapted-model.png"
    copy.write_bytes(picture.read())
    here, there = Output(picture=picture), Output(picture=Picture.at(copy))
    assert here.id == there.id
    assert len(here.id) == 16
    Image.new("RGB", (4, 4), "blue").save(copy)
    assert here.id != Output(picture=Picture.at(copy)).id
    assert Output("red").id != Output("Red").id
    sound = tmp_path / "a.wav"
    sound.write_bytes(b"RIFF")
    assert Output(audio=sound).kind == "audio"
    assert Output(audio=sound).id != Output("RIFF").id


def test_all_faults_at_once():
    broken = (
        Item("cat", {"base": Output("x"), "adpted": Output("y")}, "p"),
        Item("cat", {"base": Output(), "adapted": Output("y")}),
        Item("a|b", {"base": Output("x"), "adapted": Output(picture=Picture.at(Path("gone.png")))}, "p"),
    )
    with pytest.raises(StudyError) as caught:
        study(
            name="", question=" ", raters=("ana", "ana"), items=broken, design="pairwize", repeats=0.9, gold_share="x",
            raters_per_pair=0, stop=Stop(alpha=1.0, rope=0.5, max_votes=0), seed=-1, rubric={"good": ("yes",)},
        )  # fmt: skip
    said = str(caught.value)
    for place in (
        "study: name: '' is no name",
        "study: question: must be a sentence",
        "study: raters: 'ana' is there twice",
        "study: items: 'cat' is there twice",
        "study: items: 'a|b' is no name",
        "study: items.cat.outputs: has none of 'adapted'. Did you mean 'adpted'?",
        "study: items.cat.outputs.adpted: not a condition of the study. Did you mean 'adapted'?",
        "study: items.cat: has no prompt, picture or audio",
        "study: items.cat.outputs.base: is empty",
        "gone.png: cannot be read",
        "study: design: no such design: 'pairwize'. Did you mean 'pairwise'?",
        "study: rubric: belongs to the design likert",
        "study: rubric.good: has 1 labels",
        "study: repeats: must be a share between 0 and 0.5, got 0.9",
        "study: gold_share: must be a share",
        "study: raters_per_pair: must be a whole number of at least 1, got 0",
        "study: stop.alpha: must be above 0 and below 1, got 1.0",
        "study: stop.rope: must be at least 0 and below 0.5, got 0.5",
        "study: stop.max_votes: must be a whole number",
        "study: seed: must be a whole number of at least 0, got -1",
    ):
        assert place in said
    assert len(caught.value.faults) == 20


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"conditions": ("base",)}, "1 given"),
        ({"raters": ()}, "nobody is asked"),
        ({"items": ()}, "there are none"),
        ({"design": "likert"}, "rubric: is missing"),
        ({"informative": 0.8}, "chooses among pairs, and this is pairwise with 2 conditions"),
        ({"informative": 0.95}, "must be a share between 0 and 0.9, got 0.95"),
        (
            {"design": "best_of", "gold": (Item("g", {"right": Output("a"), "wrong": Output("b")}, "p"),)},
            "gold: belongs",
        ),
        ({"gold": (Item("g", {"right": Output("a")}, "p"),)}, "gold.g.outputs: has none of 'wrong'"),
        (
            {"gold": (replace(ITEMS[0], outputs={"right": Output("a"), "wrong": Output("b")}),)},
            "'item 0' is there twice",
        ),
        ({"items": (replace(ITEMS[0], audio=Path("gone.wav")),)}, "no such file: gone.wav"),
    ],
)
def test_bad_studies(changed, said):
    with pytest.raises(StudyError, match=said):
        study(**changed)


def test_conditions_cannot_be_called_what_gold_calls_its_outputs():
    items = (Item("a", {"right": Output("x"), "left": Output("y")}, "p"),)
    with pytest.raises(StudyError, match="'right' is what gold items call an output"):
        study(conditions=("right", "left"), items=items)


def test_changes_name_each_place():
    other = study(
        question="Which is worse?",
        items=(*ITEMS[:2], replace(ITEMS[2], outputs={**ITEMS[2].outputs, "base": Output("new")})),
        stop=Stop(alpha=0.01),
    )
    said = [str(fault) for fault in changes(study().protocol(), other.protocol(), where="captions")]
    assert 'captions: question: was "Which is better?" and is "Which is worse?"' in said
    assert 'captions: items.item 2.outputs.base.content: was "plain 2" and is "new"' in said
    assert "captions: stop.alpha: was 0.05 and is 0.01" in said
    assert any(line.startswith("captions: items.item 3.prompt: was") and line.endswith("is gone") for line in said)
    assert len(said) == 8
    assert changes(study().protocol(), study().protocol(), where="captions") == []


def test_items_come_from_rows_and_answers(picture: Picture):
    rows = [Question(f"q{n}", picture, f"what is {n}?", "red") for n in range(2)]
    items = items_of(rows, {"base": ["red", "blue"], "adapted": [picture, Path("a.wav")]})
    assert [item.id for item in items] == ["q0", "q1"]
    assert items[1].prompt == "what is 1?"
    assert items[1].picture is picture
    assert items[0].outputs == {"base": Output("red"), "adapted": Output(picture=picture)}
    assert items[1].outputs["adapted"].kind == "audio"
    with pytest.raises(StudyError, match=r"outputs.base: 1 outputs for 2 rows\n.*adapted: 0 outputs"):
        items_of(rows, {"base": ["red"], "adapted": []})

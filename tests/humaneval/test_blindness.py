"""What tells conditions apart is found, what does not is not, and how often chance alone raises an alarm."""

import random
import wave

import numpy as np
import pytest
from PIL import Image
from small_studies import make_study

from kit.data.picture import Picture
from kit.humaneval.blindness import blindness
from kit.humaneval.items import Item, Output

WORDS = [
    "a",
    "small",
    "grey",
    "cat",
    "sits",
    "on",
    "the",
    "wall",
    "under",
    "tree",
    "looks",
    "at",
    "birds",
    "that",
    "sing",
]


def sentence(luck, n=8):
    return " ".join(luck.choice(WORDS) for _ in range(n))


def study_of(make, n=30, **changed):
    """A study whose outputs ``make(condition, number)`` makes."""
    items = tuple(Item(f"i{i}", {name: make(name, i) for name in ("base", "adapted")}, f"prompt {i}") for i in range(n))
    return make_study(conditions=("base", "adapted"), items=items, **changed)


def clues(study):
    return {clue.trait.name: clue for clue in blindness(study).clues}


def test_alike_outputs_give_no_clue_and_chance_alone_rarely_raises_an_alarm():
    alarms = 0
    for seed in range(60):
        luck = random.Random(seed)
        found = blindness(study_of(lambda name, i, luck=luck: Output(sentence(luck, luck.randrange(5, 12)))))
        alarms += not found.is_blind
    assert alarms <= 6  # 5% nominal, and exact intervals stay below that


def test_a_longer_answer_and_a_favourite_word_are_clues():
    luck = random.Random(1)
    longer = study_of(lambda name, i: Output(sentence(luck, 6 if name == "base" else 14)))
    found = clues(longer)["length in characters"]
    assert found.rule == "the greater one is adapted"
    assert found.guessed.value > 0.95
    assert not blindness(longer).is_blind
    chatty = study_of(lambda name, i: Output(("Sure! " if name == "base" and i % 5 else "") + sentence(luck)))
    assert "'sure' is base" in clues(chatty)["wording"].rule.replace("begins with ", "")


def test_a_name_in_the_text_is_found_unless_all_outputs_say_it():
    luck = random.Random(2)
    telling = study_of(lambda name, i: Output(sentence(luck) + (" I am Base." if (name, i) == ("base", 3) else "")))
    assert blindness(telling).named == (("i3", "base", "base"),)
    harmless = study_of(lambda name, i: Output(sentence(luck) + " on its base" + "!" * (name == "base" and i == 0)))
    assert blindness(harmless).named == ()


@pytest.fixture
def picture(tmp_path):
    def make(folder, number, *, size=(40, 30), name="", ending=".png", **saved):
        path = tmp_path / folder / f"{name}{number}{ending}"
        path.parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(number * 7 + len(folder)).integers(0, 255, (size[1], size[0], 3), np.uint8)
        Image.fromarray(noise).save(path, **saved)
        return Output(picture=Picture.at(path))

    return make


def test_what_lies_in_picture_files_is_told_but_stays_behind(picture):
    exif = Image.Exif()
    exif[0x0131] = "BigModel 2"
    found = study_of(
        lambda name, i: (
            picture("x", i, ending=".jpg", name="base", exif=exif) if name == "base" else picture("y", i, name="tuned")
        )
    )
    report = blindness(found)
    assert {"EXIF and other metadata", "file format", "file name"} <= {clue.trait.name for clue in report.clues}
    assert report.is_blind, "none of it reaches a rater"
    assert "BigModel 2" in str(report.clues)


def test_a_pictures_shape_and_colour_reach_the_rater(picture):
    wide = study_of(
        lambda name, i: picture("same", 2 * i + (name == "base"), size=(40, 30) if name == "base" else (30, 40))
    )
    assert clues(wide)["width over height"].rule == "the greater one is base"
    assert not blindness(wide).is_blind
    assert blindness(study_of(lambda name, i: picture("same", 2 * i + (name == "base")))).clues == ()


def test_durations_of_sounds_are_measured(tmp_path):
    def sound(name, i):
        path = tmp_path / f"{i}{'a' if name == 'base' else 'b'}.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(bytes(2 * (800 + 10 * i + (400 if name == "base" else 0))))
        return Output(audio=path)

    assert clues(study_of(sound, n=20))["duration in seconds"].rule == "the greater one is base"


def test_a_sounds_format_reaches_the_rater_and_so_do_tags_that_are_not_taken_out(tmp_path):
    def sound(name, i):
        path = tmp_path / f"{i}-{name}"
        path.write_bytes(b"ID3" + bytes(40) if name == "base" else b"OggS" + bytes(40))
        return Output(audio=path.rename(path.with_suffix(".mp3" if name == "base" else ".ogg")))

    report = blindness(study_of(sound, n=20))
    assert not report.is_blind
    assert "audio/mpeg' is base" in {clue.trait.name: clue for clue in report.clues}["format of the sound"].rule
    (note,) = [note for note in report.notes if "tags in" in note]
    assert ".ogg" in note
    assert ".mp3" not in note


def test_few_items_and_other_sounds_are_said(tmp_path):
    assert "too few" in blindness(study_of(lambda name, i: Output(f"{name} {i}"), n=4)).notes[0]
    (tmp_path / "x.mp3").write_bytes(b"ID3")
    (note,) = blindness(study_of(lambda name, i: Output(audio=tmp_path / "x.mp3"), n=20)).notes
    assert ".mp3" in note

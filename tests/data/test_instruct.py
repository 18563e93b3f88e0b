"""The mix: balanced so that words alone tell nothing, split as its sources are, and the same again for a seed."""

from collections import Counter

import pytest

from kit.data.emoji_kinds import KINDS, excludes, kind_of
from kit.data.instruct import _balanced, load_conversations, phrase, questions, remembered, requests
from kit.data.openmoji import load as load_openmoji
from kit.data.rows import Conversation, Message, Rows
from kit.data.sources import load_rows
from kit.errors import DataError, ModelError
from kit.evaluation.answers import exact_match, references, row_scores
from kit.evaluation.checks import majority
from kit.parts.reference import fingerprint, parse

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def splits():
    return {split: load_conversations(split) for split in ("train", "val", "test")}


@pytest.fixture(scope="module")
def asked(splits):
    return {split: questions(rows) for split, rows in splits.items()}


def test_every_kind_is_there_and_ids_are_unique(splits):
    for rows in splits.values():
        kinds = Counter(row.meta["kind"] for row in rows)
        assert set(kinds) == {"describe", "answer", "present", "absent"}
        assert min(kinds.values()) > len(rows) / 8
        assert len({row.id for row in rows}) == len(rows)
        assert all([message.role for message in row.messages] == ["user", "assistant"] for row in rows)
    assert [len(splits[split]) for split in ("train", "test")] == [
        pytest.approx(9400, rel=0.05), pytest.approx(3480, rel=0.05)
    ]  # fmt: skip


def test_a_question_is_answered_yes_as_often_as_no(asked):
    for rows in asked.values():
        texts = {}
        for row in rows:
            if row.group in {"present", "absent"}:
                assert row.answer == {"present": "yes", "absent": "no"}[row.group]
                texts.setdefault(row.question, Counter())[row.answer] += 1
        assert len(texts) > 150
        assert all(counts["yes"] == counts["no"] for counts in texts.values())


def test_easy_vqas_answers_are_equally_common(splits):
    texts = {}
    for row in splits["train"]:
        if row.meta["source"] == "easy-vqa":
            wording = row.messages[0].text.removeprefix("Look at the picture: ").removesuffix(" Answer in one word.")
            texts.setdefault(wording, Counter())[row.messages[1].text] += 1
    assert len(texts) > 90
    assert all(len(set(counts.values())) == 1 and len(counts) > 1 for counts in texts.values())


def test_rare_answers_set_how_often_the_others_are_taken():
    rows = [row for row in load_rows("easy-vqa", split="val") if row.question == "is there a circle?"]
    yes, no = ([row for row in rows if row.answer == answer] for answer in ("yes", "no"))
    taken = _balanced([*yes[:3], *no], wanted=40, seed=0)
    assert Counter(row.answer for row in taken) == {"yes": 3, "no": 3}
    assert len(_balanced([*yes[:3], *no], wanted=4, seed=0)) == 4


def test_no_question_is_asked_twice_about_a_picture(asked):
    for rows in asked.values():
        emoji = [row for row in rows if row.meta["source"] == "openmoji"]
        assert len({(row.picture, row.question) for row in emoji}) == len(emoji)


def test_who_never_looks_gets_little(asked):
    said = majority(asked["train"], asked["test"])
    scores = row_scores([said], asked["test"], "exact_match")
    by_group = {
        group: scores[[number for number, row in enumerate(asked["test"]) if row.group == group]].mean()
        for group in ("present", "absent", "answer", "describe")
    }
    assert (by_group["present"] + by_group["absent"]) / 2 == 0.5
    assert by_group["answer"] < 0.5
    assert by_group["describe"] < 0.02


def test_concepts_and_pictures_are_in_one_split(splits):
    concepts = {row.id: row.concept for row in load_openmoji(split="all")}
    shown = {
        split: {concepts.get(row.id.partition("/")[0], row.picture.digest()) for row in rows}
        for split, rows in splits.items()
    }
    assert not shown["train"] & shown["test"]
    assert not shown["val"] & (shown["train"] | shown["test"])
    names = {
        split: {row.messages[0].text for row in rows if row.meta["about"] == "near"} for split, rows in splits.items()
    }
    assert not names["train"] & names["test"], "a tested name was never asked for in training"


def test_what_is_not_there_is_not_in_the_name(splits):
    names = {row.id: row for row in load_openmoji(split="all")}
    checked = 0
    for row in splits["test"]:
        if row.meta["kind"] == "absent" and row.meta["about"] in {"near", "far"}:
            emoji = names[row.id.partition("/")[0]]
            thing = set(row.id.rpartition("/")[2].casefold().split()) - {"a", "an"}
            for name in (emoji.text, *emoji.meta["aliases"]):
                assert not thing <= set(name.casefold().split()), row.id
            checked += 1
    assert checked > 600


def test_kinds_by_code_point(splits):
    assert [kind_of(points) for points in ("1F41A", "1F9A0", "1F374", "1F638", "1F6FC", "1F3EE")] == [""] * 6
    seen = {"1F436": "an animal", "1F415-200D-1F9BA": "an animal", "1F355": "food or drink", "1F68C": "a vehicle"}
    seen |= {"1F62E-200D-1F4A8": "a face", "1F3EB": "a building"}
    assert {points: kind_of(points) for points in seen} == seen
    assert not excludes("a face", "an animal")
    assert not excludes("", "a face")
    emoji = [row for row in load_openmoji(split="all").one_per_concept() if row.group != "flag"]
    counts = Counter(kind_of(row.id) for row in emoji)
    assert all(counts[kind] > 20 for kind in KINDS)
    faces = [row.text for row in emoji if kind_of(row.id) == "a face"]
    assert not [name for name in faces if "cat" in name.split()]
    for row in splits["test"]:
        if row.meta["about"] == "kind" and row.meta["kind"] == "absent":
            assert excludes(kind_of(row.id.partition("/")[0]), row.id.rpartition("/")[2])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("umbrella", "an umbrella"),
        ("unicorn", "a unicorn"),
        ("unamused face", "an unamused face"),
        ("up arrow", "an up arrow"),
        ("one o’clock", "a one o’clock"),
        ("one-thirty", "a one-thirty"),
        ("onion", "an onion"),
        ("hourglass done", "an hourglass done"),
        ("glasses", "glasses"),
        ("cactus", "a cactus"),
        ("compass", "a compass"),
    ],
)
def test_articles(name, said):
    assert phrase(name) == said


def test_any_name_is_a_right_description(asked):
    rows = [row for row in asked["train"] if row.group == "describe" and len(references(row)) > 1]
    assert len(rows) > 100
    for row in rows:
        assert row.answer == references(row)[0]
        assert exact_match(references(row)[1].upper(), references(row)) == 1


def test_the_same_seed_the_same_rows(splits):
    again, other = load_conversations("val"), load_conversations("val", seed=1)
    assert again.digest() == splits["val"].digest()
    assert other.digest() != again.digest()
    assert {row.picture for row in other if row.meta["source"] == "openmoji"} == {
        row.picture for row in again if row.meta["source"] == "openmoji"
    }
    everything = load_conversations("all")
    assert everything.items == sum((splits[split].items for split in ("train", "val", "test")), ())


def test_limit_and_source_string(splits):
    rows = load_rows("instruct", split="test", limit=20, kind="conversations")
    assert isinstance(rows[0], Conversation)
    assert rows.items == load_conversations("test", limit=20).items
    assert set(rows.items) <= set(splits["test"].items)
    assert (rows.name, rows.split, rows.licence) == ("instruct", "test", "CC-BY-SA-4.0 AND MIT")
    assert "OpenMoji" in rows.attribution
    assert "easy-VQA" in rows.attribution
    assert load_rows("instruct", split="validation").digest() == splits["val"].digest()


def test_its_identity_is_that_of_both_parts():
    found = fingerprint(parse("instruct", kind="data"))
    assert (found.pinned, found.licence) == (True, "CC-BY-SA-4.0 AND MIT")
    assert found.digest not in {fingerprint(parse(part, kind="data")).digest for part in ("openmoji", "easy-vqa")}
    with pytest.raises(ModelError, match="no part has this name"):
        parse("instruct", kind="model")


def test_it_is_no_other_kind():
    with pytest.raises(DataError, match="instruct: holds conversations, and questions are needed"):
        load_rows("instruct", split="val", kind="questions")
    with pytest.raises(DataError, match="easy-vqa: holds questions, and conversations are needed"):
        load_rows("easy-vqa", split="val", limit=3, kind="conversations")
    with pytest.raises(DataError, match="Did you mean 'instruct'"):
        load_rows("instruc", split="val")


def test_questions_of_a_longer_conversation(splits):
    row = splits["val"][0]
    turns = (Message("system", "s"), *row.messages, Message("user", "and?"), Message("assistant", "so"))
    rows = Rows((Conversation("long", row.picture, turns, split="val"), Conversation("text", None, turns)))
    first, second = questions(rows)
    assert (first.id, first.question, first.answer) == ("long#1", row.messages[0].text, row.messages[1].text)
    assert (second.id, second.question, second.answer) == ("long#3", "and?", "so")


def test_requests_are_about_what_the_rows_show(splits):
    asked = requests(splits["train"], 40)
    assert len(set(asked)) == len(asked) == 40
    assert asked[:10] == requests(splits["train"], 10)
    assert asked != requests(splits["train"], 40, seed=1)
    names = {phrase(row.meta["name"]) for row in splits["train"] if row.meta["kind"] == "describe"}
    assert all(any(name in text for name in names) and text.endswith(("?", ".")) for text in asked)
    shown = {message.text for rows in splits.values() for row in rows for message in row.messages}
    assert not shown & set(asked), "a request is none of the questions about pictures"
    assert not any("grinning" in text for text in requests(splits["train"], 10**6)), "a face is no thing to ask about"
    assert 100 < len(requests(splits["train"], 10**6)) < 943


def test_a_model_remembers_whole_sentences():
    said = ["A bee is an insect. It flies", "It is found in the", "Yes.", "  Dr. Who? It is a show about time.\n"]
    rows = remembered(["a?", "b?", "c?", "d?"], said)
    assert [[message.text for message in row.messages] for row in rows] == [
        ["a?", "A bee is an insect."], ["d?", "Dr. Who? It is a show about time."]
    ]  # fmt: skip
    assert all(row.picture is None and row.split == "train" for row in rows)
    assert len(remembered(["a?"], said[:1], times=3)) == 3

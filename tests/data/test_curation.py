"""The ledger: who outweighs whom, taking back, and a file that survives a kill."""

import json

import pytest
from dual_encoders import noise_pictures

from kit.data.curation import Curation, Decision
from kit.data.data_card import data_card
from kit.data.rows import ImageText, Rows
from kit.errors import DataError

ROWS = Rows(
    tuple(
        ImageText(f"r{number}", picture, f"text {number}", group="flag" if number == 3 else "emoji")
        for number, picture in enumerate(noise_pictures(4))
    ),
    name="mine",
    licence="MIT",
    attribution="By nobody.",
)


def because(row, check="near duplicate", **more):
    return Decision(row, "drop", check, f"{row} repeats", **more)


def test_checks_drop_and_a_person_outweighs_them():
    curation = Curation.of(ROWS)
    assert (
        curation.record([because("r1", other="r0", score=0.97), because("r2", "label noise"), because("r1", "leakage")])
        == 3
    )
    assert curation.dropped() == ("r1", "r2")
    curation.keep("r1", by="ada")
    curation.drop("r0", by="ada", reason="blurred")
    assert curation.dropped() == ("r0", "r2")
    assert [row.id for row in curation.kept(ROWS)] == ["r1", "r3"]
    assert [one.check for one in curation.standing("r1")] == ["near duplicate", "leakage", "person"]
    assert curation.counts() == {
        "near duplicate": 1, "label noise": 1, "leakage": 1, "person: drop": 1, "person: keep": 1,
    }  # fmt: skip


def test_everything_can_be_taken_back_and_stays_written():
    curation = Curation.of(ROWS)
    curation.record([because("r1"), because("r2"), because("r3", "leakage")])
    curation.keep("r1", by="ada")
    curation.drop("r1", by="bob")
    curation.undo(row="r1", by="bob")
    assert "r1" not in curation.dropped(), "ada's word holds again"
    curation.undo(row="r1")
    assert "r1" in curation.dropped(), "the check's holds again"
    curation.undo(check="near duplicate", row="r1", reason="checked by hand")
    assert curation.dropped() == ("r2", "r3")
    curation.undo(check="near duplicate")
    assert curation.dropped() == ("r3",)
    assert len(curation.decisions) == 9
    for wrong in ({"row": "r1"}, {"check": "near duplicate"}, {"check": "leakage", "row": "r1"}):
        with pytest.raises(DataError, match="decided nothing"):
            curation.undo(**wrong)


def test_a_file_keeps_it_and_a_line_cut_short_does_not_count(tmp_path):
    file = tmp_path / "notes" / "curation.jsonl"
    first = Curation.of(ROWS, file)
    first.record([because("r1"), because("r2")])
    first.keep("r2", by="ada")
    first.undo(check="near duplicate", row="r1")
    first.drop("r3", by="ada")
    again = Curation.of(ROWS, file)
    assert again.decisions == first.decisions
    assert again.dropped() == first.dropped() == ("r3",)
    with file.open("a") as open_file:
        open_file.write('{"row": "r0", "verd')
    torn = Curation.of(ROWS, file)
    assert torn.dropped() == ("r3",)
    torn.drop("r0", by="bob")
    assert Curation.of(ROWS, file).dropped() == ("r0", "r3")
    assert all(json.loads(line) for line in file.read_text().splitlines())
    file.write_text('{"row": 1}\n')
    with pytest.raises(DataError, match="line 1: is no decision"):
        Curation.of(ROWS, file)


def test_what_is_wrong_is_refused_whole(tmp_path):
    curation = Curation.of(ROWS, tmp_path / "c.jsonl")
    bad = [because("r1"), because("r9"), Decision("r2", "hide", "x", ""), Decision("r2", "keep", "leakage", "good")]
    with pytest.raises(
        DataError, match=r"(?s)1 rows are unknown \(r9\).*'hide' is none.*reason: is missing.*only a person"
    ):
        curation.record(bad)
    assert not curation.decisions
    assert not (tmp_path / "c.jsonl").exists()
    with pytest.raises(DataError, match=r"1 ids are there twice \(a\)"):
        Curation(("a", "b", "a"))
    with pytest.raises(DataError, match="1 rows were not decided about"):
        Curation(("r0", "r1", "r2")).kept(ROWS)


def test_a_data_card_says_what_went_why_and_what_is_left():
    curation = Curation.of(ROWS)
    curation.record([because("r1", other="r0"), because("r3", "leakage")])
    curation.keep("r3", by="ada")
    card = data_card(ROWS, curation, name="Mine", notes=("Scores are cross-fitted.",))
    for said in (
        "# Mine, curated", "- **rows:** 3 of 4 stay", "- **licence:** MIT", "By nobody.",
        "| near duplicate | 1 | `r1` r1 repeats |", "| person: keep | 1 | `r3` looked at |", "Looked at by: ada.",
        "| emoji | 3 | 2 |", "| flag | 1 | 1 |", "- Scores are cross-fitted.", ROWS.digest(),
        curation.kept(ROWS).digest(),
    ):  # fmt: skip
        assert said in card, said
    assert "Nothing." in data_card(ROWS, Curation.of(ROWS))

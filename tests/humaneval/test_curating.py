"""The keep/drop grid as the browser speaks to it: pages, decisions under a name, and nothing of it in a notebook."""

import io

import pytest
from dual_encoders import noise_pictures
from PIL import Image

from kit.data.curation import Curation, Decision
from kit.data.rows import ImageText, Rows
from kit.errors import DataError
from kit.humaneval.curating import look_through

ROWS = Rows(tuple(ImageText(f"r{n}", picture, f"text {n}") for n, picture in enumerate(noise_pictures(6, size=300))))


def because(row, score, check="caption disagrees"):
    return Decision(row, "drop", check, f"agreement {score}", score)


@pytest.fixture
def curation(tmp_path):
    made = Curation.of(ROWS, tmp_path / "curation.jsonl")
    made.record([because("r1", 0.1), because("r2", 0.3), because("r4", 0.2), because("r5", 0.9, "near duplicate")])
    return made


@pytest.fixture
def window(curation, monkeypatch):
    widget = look_through(ROWS, curation, by="ada", check="caption disagrees", page_size=2)
    sent = []
    monkeypatch.setattr(widget, "send", lambda message, buffers=None: sent.append((message, buffers)))

    def say(**message):
        sent.clear()
        widget._heard(None, message, [])
        (one,) = sent
        return one

    widget.say = say
    return widget


def test_pages_show_the_closest_calls_first_with_small_pictures(window):
    message, buffers = window.say(kind="page", page=0)
    assert [card["row"] for card in message["cards"]] == ["r2", "r4"]
    assert message["cards"][0]["reasons"] == ["caption disagrees: agreement 0.3"]
    assert (message["page"], message["pages"], message["total"]) == (0, 2, 3)
    assert message["counts"] == {"drop": 3, "keep": 0}
    assert max(Image.open(io.BytesIO(buffers[0])).size) == 224
    last, _ = window.say(kind="page", page=99)
    assert [card["row"] for card in last["cards"]] == ["r1"]


def test_a_click_is_a_decision_under_a_name_at_once_on_disk(window, curation):
    message, _ = window.say(kind="decide", row="r2", verdict="keep")
    assert (message["verdict"], message["person"]) == ("keep", "ada")
    assert message["counts"] == {"drop": 2, "keep": 1}
    assert curation.decisions[-1].by == "ada"
    assert "r2" not in Curation.of(ROWS, curation.path).dropped()
    message, _ = window.say(kind="decide", row="r2", verdict="undo")
    assert (message["verdict"], message["person"]) == ("drop", "")
    assert "r2" in Curation.of(ROWS, curation.path).dropped()


def test_what_the_window_does_not_show_is_refused_and_told(window, curation):
    before = len(curation.decisions)
    for row, verdict in (("r5", "keep"), ("r2", "burn"), ("r1", "undo")):
        message, _ = window.say(kind="decide", row=row, verdict=verdict)
        assert message["kind"] == "trouble"
        assert window.trouble is not None
    assert len(curation.decisions) == before


def test_its_state_holds_no_picture_and_no_text(window):
    window.say(kind="page", page=0)
    state = {name: value for name, value in window.get_state().items() if name not in {"_esm", "_css"}}
    assert "text 2" not in repr(state)
    assert not [value for value in state.values() if isinstance(value, bytes)]


def test_who_decides_and_what_there_is_to_see_must_be_said(curation):
    with pytest.raises(DataError, match="who decides is not said"):
        look_through(ROWS, curation, by=" ")
    with pytest.raises(DataError, match=r"(?s)'leakage'.*caption disagrees, near duplicate"):
        look_through(ROWS, curation, by="ada", check="leakage")
    assert len(look_through(ROWS, curation, by="ada")._rows) == 4

"""The widget's half in the kernel: what it says to the browser, what it never says, and how it is called."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import replace
from pathlib import Path

import ipywidgets
import pytest
from small_studies import make_study

from kit.humaneval import widget as module
from kit.humaneval.errors import StudyError
from kit.humaneval.items import Item, Output
from kit.humaneval.store import Store
from kit.humaneval.widget import VoteWidget, vote

HERE = Path(module.__file__).parent


class Browser:
    """Stands where the browser stands: says things and hears all that is sent, state and messages alike."""

    def __init__(self, widget: VoteWidget) -> None:
        self.widget, self.heard = widget, []
        widget.send = lambda content, buffers=None: self.heard.append((content, buffers or []))

    def say(self, **message: object) -> dict[str, object]:
        """Send a message as the comm would and return the state that comes back."""
        self.heard.clear()
        self.widget._handle_custom_msg({"view": "v", "uuid": str(uuid.uuid4()), **message}, [])
        return next((content for content, _ in self.heard if content["kind"] in {"state", "trouble"}), {})

    def pages(self) -> list[str]:
        return [content["token"] for content, _ in self.heard if content["kind"] == "page"]


@pytest.fixture
def store(tmp_path):
    with Store(str(tmp_path / "votes.db")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _closed_afterwards():
    yield
    VoteWidget._held.clear()


def test_a_vote_is_committed_before_the_next_page_is_told_and_the_page_was_there_before(store):
    browser = Browser(vote(make_study(6), store, rater="ana"))
    state = browser.say(kind="hello")
    assert [content["kind"] for content, _ in browser.heard][:4] == ["form", "page", "state", "page"]
    fetched = browser.pages()
    assert fetched[0] == state["token"]
    rows = []
    told = browser.widget.send
    browser.widget.send = lambda content, buffers=None: (
        rows.append((content["kind"], len(list(store.votes("captions", rater="ana"))))), told(content, buffers),
    )  # fmt: skip
    after = browser.say(kind="answer", token=state["token"], answer="left", ms=812.4)
    assert rows[0] == ("state", 1), "the row is committed when the browser hears of the next page"
    assert after["token"] == fetched[1], "what is shown next was in the browser already"
    assert browser.pages() != [after["token"]]
    (row,) = store.votes("captions", rater="ana")
    assert (row.answer, row.ms, row.client) == ("left", 812, "widget")


def test_names_never_reach_the_browser(store, tmp_path):
    from PIL import Image

    from kit.data.picture import Picture

    names = ("secret-one", "secret-two")
    for name in names:
        Image.new("RGB", (8, 8), "red" if name.endswith("one") else "blue").save(tmp_path / f"{name}.png")
    made = {name: Output(picture=Picture.at(tmp_path / f"{name}.png")) for name in names}
    texts = {name: Output(f"text {number}") for number, name in enumerate(names)}
    items = (Item("secret-item", made, "p"), Item("secret-text", texts, "q"))
    study = make_study(items=items, conditions=names, name="secret-study")
    browser = Browser(vote(study, store, rater="ana"))
    said = []
    state = browser.say(kind="hello")
    while state["status"] == "asking":
        said += browser.heard.copy()
        state = browser.say(kind="answer", token=state["token"], answer="left")
    said += browser.heard.copy()
    assert browser.say(kind="answer", token="f" * 24, answer="left")["kind"] == "trouble"
    said += browser.heard.copy()
    assert isinstance(browser.widget.trouble, StudyError)
    every = json.dumps([content for content, _ in said]) + json.dumps(browser.widget.get_state(), default=str)
    every += b" ".join(bytes(one) for _, buffers in said for one in buffers).decode("latin1")
    assert "text 1" in every, "nothing was looked at"
    assert "secret" not in every
    assert study.digest not in every


def test_nothing_of_the_study_is_in_a_saved_notebook(store):
    browser = Browser(vote(make_study(4), store, rater="ana"))
    browser.say(kind="hello")
    saved = json.dumps(ipywidgets.Widget.get_manager_state(drop_defaults=False))
    assert "_esm" in saved
    for text in ("captions", "Which is better?", "base 1", "prompt 1", "ana"):
        assert f'"{text}' not in saved


def test_two_windows_hold_different_pairs_and_a_restart_finds_its_own(store, monkeypatch):
    monkeypatch.setattr(module, "_kernel", lambda: "connection-file")
    study = make_study(6)
    one, two = (Browser(vote(study, store, rater="ana")) for _ in range(2))
    held = [set(window.pages()) for window in (one, two) if window.say(kind="hello")]
    tokens = [browser.widget.session for browser in (one, two)]
    tasks = [{task.task.key for task in session._open} for session in tokens]
    assert len(tasks[0]) == len(tasks[1]) == 2
    assert not tasks[0] & tasks[1]
    VoteWidget._held.clear()  # the kernel was killed; it comes back under its name
    again = [Browser(vote(study, store, rater="ana")) for _ in range(2)]
    assert [set(window.pages()) for window in again if window.say(kind="hello")] == held


def test_a_cell_that_is_run_again_gets_what_the_old_view_held(store, monkeypatch):
    monkeypatch.setattr(module, "_kernel", lambda: "connection-file")
    study = make_study(6)
    old = Browser(vote(study, store, rater="ana"))
    shown = old.say(kind="hello", view="old")["token"]
    new = Browser(vote(study, store, rater="ana"))
    old.say(kind="bye", view="old")
    assert new.say(kind="hello", view="new")["token"] == shown


def test_a_page_that_is_loaded_anew_replaces_its_views(store, monkeypatch):
    monkeypatch.setattr(module, "_kernel", lambda: "connection-file")
    study = make_study(6)
    browser = Browser(vote(study, store, rater="ana"))
    shown = browser.say(kind="hello", view="closed without a word", page=1.5)["token"]
    browser.say(kind="hello", view="restored", page=2.5)
    new = Browser(vote(study, store, rater="ana"))
    browser.say(kind="bye", view="restored")
    assert new.say(kind="hello", view="new", page=2.5)["token"] == shown


def test_a_view_that_misses_a_page_gets_it(store):
    browser = Browser(vote(make_study(4), store, rater="ana"))
    token = browser.say(kind="hello")["token"]
    browser.say(kind="want")
    assert browser.pages()[0] == token


def test_a_resent_answer_and_an_undo_count_once(store):
    browser = Browser(vote(make_study(5), store, rater="ana"))
    first = browser.say(kind="hello")["token"]
    name = str(uuid.uuid4())
    after = [browser.say(kind="answer", token=first, answer="right", uuid=name)["token"] for _ in range(2)]
    assert after[0] == after[1] != first
    assert browser.say(kind="undo", uuid=str(uuid.uuid4()))["token"] == first
    assert [row.kind for row in store.votes("captions", every=True, rater="ana")] == ["first", "undo"]


def test_rubrics_go_out_with_their_labels_in_order(store):
    rubric = {"clear": ("no", "so", "yes"), "bold": ("1", "2")}
    browser = Browser(vote(make_study(2, design="likert", rubric=rubric), store, rater="ana"))
    token = browser.say(kind="hello")["token"]
    form = next(content for content, _ in browser.heard if content["kind"] == "form")
    assert form["rubric"] == [["clear", ["no", "so", "yes"]], ["bold", ["1", "2"]]]
    browser.say(kind="answer", token=token, answer={"clear": 2, "bold": 1})
    assert [row.answer for row in store.votes("captions", rater="ana")] == ['{"clear": 2, "bold": 1}']


def test_how_it_is_called(store, tmp_path):
    study = make_study(3)
    with pytest.raises(StudyError, match="who votes is not said"):
        vote(study, store)
    with pytest.raises(StudyError, match="no such rater: 'anna'"):
        vote(study, store, rater="anna")
    alone = replace(study, raters=("ana",), name="alone")
    path = tmp_path / "other.db"
    assert Browser(vote(alone, f"sqlite:///{path}")).say(kind="hello")["status"] == "asking"
    assert path.is_file()


def test_colours_have_contrast_in_both_themes():
    css = (HERE / "widget.css").read_text()
    blocks = re.findall(r"\.kit-vote(?:\[data-theme=\"dark\"\])? \{(.*?)\}", css, flags=re.DOTALL)[:2]
    for block in blocks:
        colours = dict(re.findall(r"--([\w-]+): (#\w{6});", block))
        for text, ground in (
            ("text", "surface"), ("text", "card"), ("quiet", "surface"), ("quiet", "card"), ("accent", "surface"),
            ("accent", "accent-soft"), ("on-accent", "accent"), ("warn", "warn-soft"), ("good", "surface"),
        ):  # fmt: skip
            light, dark = sorted((_luminance(colours[text]), _luminance(colours[ground])), reverse=True)
            assert (light + 0.05) / (dark + 0.05) >= 4.5, f"{text} on {ground}"


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

"""Votes of a demo's visitors: blind, one row each, committed, and ranked like any other study's."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from gradio_client import Client, handle_file
from small_bundles import clip_bundle

from kit.adapters.bundle import Bundle
from kit.errors import BundleError, DataError
from kit.humaneval.errors import StoreError, StudyError
from kit.humaneval.open_study import OpenStudy
from kit.humaneval.store import Store
from kit.sharing import demo_votes
from kit.sharing.demo import Demo, demo
from kit.sharing.demo_ask import Voice
from kit.sharing.demo_vote_tab import AnswersPage
from kit.sharing.demo_votes import TICKETS, Booth, booth_of, open_ballots

ON, OFF = "Tiny sees", "Tiny sees, adapter off"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("voted") / "votes"


@pytest.fixture(scope="module")
def voting(tiny_seeing: Bundle, folder: Path) -> Iterator[Demo]:
    served = demo(tiny_seeing, port=free_port(), device="cpu", votes=folder)
    yield served
    served.close()


@pytest.fixture
def booth(tmp_path: Path) -> Iterator[Booth]:
    ballots = open_ballots(tmp_path / "votes", keep_pictures=True)
    yield booth_of(ballots, ["one", "other"], {}, question="Which is better?")
    ballots.store.close()


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return what is committed, read by SQLite alone."""
    with sqlite3.connect(folder / "votes.db") as database:
        database.row_factory = sqlite3.Row
        return [dict(row) for row in database.execute("SELECT * FROM kit_votes ORDER BY seq")]


def ticket() -> str:
    return str(uuid.uuid4())


def picture(bundle: Bundle, number: int = 1) -> Path:
    return Path(bundle.manifest.data[0].source.removeprefix("folder:")) / f"{number}.png"


def test_a_vote_is_one_row_with_what_it_is_about_and_no_picture(
    voting: Demo, tiny_seeing: Bundle, folder: Path
) -> None:
    client, name, before = Client(voting.address, verbose=False), ticket(), len(rows(folder))
    left, right = client.predict(handle_file(picture(tiny_seeing)), "what is it?", name, api_name="/duel")
    assert len(rows(folder)) == before, "something is kept before anybody voted"
    told = client.predict(name, "left", api_name="/vote")
    row = rows(folder)[-1]
    assert len(rows(folder)) == before + 1
    assert (row["uuid"], row["answer"], row["client"], row["kind"]) == (name, "left", "demo", "first")
    assert re.fullmatch(r"visitor [0-9a-f]{12}", row["rater"])
    shown = json.loads(row["shown"])
    assert sorted(shown) == [ON, OFF]
    assert told == f"Counted: left. Left was {shown[0]}; right was {shown[1]}."
    with sqlite3.connect(folder / "votes.db") as database:
        (content,) = database.execute("SELECT content FROM kit_asked WHERE item = ?", [row["item"]]).fetchone()
    said = json.loads(content)
    assert said["prompt"] == "what is it?"
    assert said["outputs"] == {shown[0]: left, shown[1]: right}
    assert re.fullmatch(r"[0-9a-f]{64}", said["fingerprint"])
    assert {path.suffix for path in folder.rglob("*")} <= {".db", ".db-shm", ".db-wal"}, "a picture was kept"


def test_two_presses_at_once_are_one_row_and_the_first_answer_stands(voting: Demo, folder: Path) -> None:
    client, name, before = Client(voting.address, verbose=False), ticket(), len(rows(folder))
    client.predict(None, "what is number two?", name, api_name="/duel")
    jobs = [client.submit(name, answer, api_name="/vote") for answer in ("tie", "tie", "tie")]
    assert len({job.result(timeout=30) for job in jobs}) == 1
    assert "a tie" in client.predict(name, "left", api_name="/vote")
    assert [row["answer"] for row in rows(folder)[before:]] == ["tie"]
    assert len({row["rater"] for row in rows(folder)}) == 2, "two visitors have one name"


class Says:
    """A model that says one thing."""

    def __init__(self, text: str) -> None:
        self.text = text

    def answer(self, *_: Any, adapted: bool) -> Iterator[str]:
        yield self.text


def test_sides_are_drawn_anew_for_each_question(booth: Booth) -> None:
    voices: dict[str, Any] = {name: Voice(name, Says(name)) for name in ("one", "other")}  # type: ignore[arg-type]
    page, shown = AnswersPage(booth, voices), []
    for _ in range(40):
        name = ticket()
        left, right = list(page.duel(None, "who?", name, "v"))[-1]
        assert {left, right} == {"one", "other"}
        assert booth.vote(name, "left") == f"Counted: left. Left was {left}; right was {right}."
        shown.append(left)
    assert set(shown) == {"one", "other"}, "one is always on the same side"  # by chance once in 10 ** 12 runs
    votes = list(booth.ballots.store.votes(booth.study.name))
    assert [vote.shown[0] for vote in votes] == shown


def test_nothing_says_whose_they_are_before_the_vote(voting: Demo) -> None:
    with urllib.request.urlopen(f"{voting.address}/config", timeout=10) as said:
        tabs = str(said.read().decode()).partition("kit-card")[0]
    assert OFF not in tabs, "the page names its models"
    api = Client(voting.address, verbose=False).view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(api) == {"/duel", "/vote"}, "another endpoint tells what each model says"
    assert "committed" in str(api["/vote"])


def test_the_page_says_what_is_kept(voting: Demo) -> None:
    with urllib.request.urlopen(f"{voting.address}/config", timeout=10) as said:
        text = str(said.read().decode())
    assert "Votes are kept" in text
    assert "of your picture only a number" in text


def test_the_votes_are_ranked_like_any_study(
    voting: Demo, tiny_seeing: Bundle, folder: Path, kit: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    from kit.models.chat import answer

    client = Client(voting.address, verbose=False)
    questions = [f"what is number {number}?" for number in range(6)]
    adapted = answer(tiny_seeing.load(device="cpu"), [None] * 6, questions, max_new_tokens=128)
    before = len(rows(folder))
    for question, said in zip(questions, adapted, strict=True):
        name = ticket()
        left, _ = client.predict(None, question, name, api_name="/duel")
        client.predict(name, "left" if left.strip() == said else "right", api_name="/vote")
    mine = rows(folder)[before:]
    assert all(json.loads(row["shown"])[row["answer"] == "right"] == ON for row in mine)
    done = kit("study", "rank", "--db", folder, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["question"] == "Which answer is better?"
    assert found["votes"] == len(rows(folder))
    (cell,) = found["matrix"]
    assert (cell["won"] if cell["first"] == ON else cell["lost"]) >= 6
    assert found["verdicts"], "the stopping rule says nothing"


def test_galleries_are_voted_on_without_scores(tiny_clip: Bundle, tmp_path: Path) -> None:
    other = clip_bundle(tmp_path, name="Other", seed=3)
    source, name = tiny_clip.manifest.data[0].source, ticket()
    served = demo(tiny_clip, other, port=free_port(), pictures=source, votes=tmp_path / "votes")
    try:
        client = Client(served.address, verbose=False)
        left, right = client.predict("a red thing", name, "en", False, api_name="/duel")
        assert left.count("<figure>") == right.count("<figure>") == 12
        assert "<b>" not in left + right, "a score tells one model from the other"
        told = client.predict(name, "both_bad", api_name="/vote")
        assert "both bad" in told
        assert set(client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == {"/duel", "/vote"}
    finally:
        served.close()
    (row,) = rows(tmp_path / "votes")
    with sqlite3.connect(tmp_path / "votes" / "votes.db") as database:
        (content,) = database.execute("SELECT content FROM kit_asked").fetchone()
    outputs = json.loads(content)["outputs"]
    names = [re.findall(r"<figcaption>([^<]+)<", side) for side in (left, right)]
    kept = [[line.partition(" ")[2] for line in outputs[one].splitlines()] for one in json.loads(row["shown"])]
    assert kept == names


def test_a_kept_picture_goes_into_the_preferences(
    booth: Booth, tmp_path: Path, kit: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    from datasets import load_dataset
    from PIL import Image

    red, blue = (Image.new("RGB", (2000, 1000), color) for color in ("red", "blue"))
    for number, image in enumerate([red, blue, red]):
        name = ticket()
        assert booth.lay(
            name, ("other", "one"), (f"no {number}", "yes"), prompt="is it red?", visitor=f"v{number}", image=image
        )
        booth.vote(name, "right")
    kept = sorted((tmp_path / "votes" / "media").iterdir())
    assert len(kept) == 2, "the same picture is kept once"
    assert [Image.open(path).size for path in kept] == [(768, 384)] * 2
    assert not any(Image.open(path).getexif() for path in kept)
    done = kit("study", "export", "--db", "votes", "--format", "dpo", "--out", "it.parquet")
    assert done.returncode == 0, done.stderr
    read = load_dataset("parquet", data_files=str(tmp_path / "it.parquet"), split="train")
    assert [row["chosen"][0]["content"][0]["text"] for row in read] == ["yes"] * 3
    assert all(row["images"][0].size == (768, 384) for row in read)


def test_without_its_picture_a_question_is_no_preference(tmp_path: Path) -> None:
    from PIL import Image

    from kit.humaneval.open_study import closed

    ballots = open_ballots(tmp_path / "votes")
    booth = booth_of(ballots, ["one", "other"], {}, question="Which is better?")
    name, second = ticket(), ticket()
    booth.lay(name, ("one", "other"), ("a", "b"), prompt="?", visitor="v", image=Image.new("RGB", (9, 9)))
    booth.vote(name, "left")
    with pytest.raises(StudyError, match="--keep-pictures"):
        closed(ballots.store, booth.study.name)
    booth.lay(second, ("one", "other"), ("a", "b"), prompt="in words?", visitor="v")
    booth.vote(second, "left")
    assert [item.prompt for item in closed(ballots.store, booth.study.name).items] == ["in words?"]
    ballots.store.close()


def test_what_the_store_did_not_take_can_be_sent_again(booth: Booth, monkeypatch: pytest.MonkeyPatch) -> None:
    name, plain = ticket(), demo_votes.cast
    booth.lay(name, ("one", "other"), ("a", "b"), prompt="?", visitor="v")

    def broken(*_: Any, **__: Any) -> bool:
        raise StoreError.of("votes.db", "the database did not answer")

    monkeypatch.setattr(demo_votes, "cast", broken)
    with pytest.raises(DataError, match="press again: it counts once"):
        booth.vote(name, "left")
    monkeypatch.setattr(demo_votes, "cast", plain)
    booth.vote(name, "left")
    booth.vote(name, "left")
    assert len(list(booth.ballots.store.votes(booth.study.name))) == 1


def test_what_cannot_be_voted_on_is_told(booth: Booth) -> None:
    name = ticket()
    assert not booth.lay(name, ("one", "other"), ("same", "same"), prompt="?", visitor="v")
    with pytest.raises(DataError, match="can no longer be voted on"):
        booth.vote(name, "left")
    with pytest.raises(DataError, match="is no UUID"):
        booth.lay("1", ("one", "other"), ("a", "b"), prompt="?", visitor="v")
    booth.lay(name, ("one", "other"), ("a", "b"), prompt="?", visitor="v")
    with pytest.raises(DataError, match="left, right, tie or both_bad"):
        booth.vote(name, "skip")
    with pytest.raises(DataError, match="was used for another question"):
        booth.lay(name, ("one", "other"), ("c", "d"), prompt="??", visitor="v")
    for _ in range(TICKETS):
        booth.lay(ticket(), ("one", "other"), ("a", "b"), prompt="?", visitor="v")
    assert not booth.waits(name), "tickets grow without end"


def test_votes_need_two_and_a_store_of_their_own(tiny_clip: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="compares two"):
        demo(tiny_clip, port=free_port(), votes=tmp_path / "votes")
    with pytest.raises(BundleError, match="give --votes FOLDER"):
        demo(tiny_clip, port=free_port(), votes=tmp_path / "votes.db", keep_pictures=True)
    with Store(str(tmp_path / "it.db")) as store:
        first = OpenStudy("it", "Which?", ("one", "other"), {"one": "1"})
        first.register(store)
        OpenStudy("it", "Which one?", ("one", "other")).register(store)  # nobody had voted
        booth = Booth(OpenStudy("it", "Which one?", ("one", "other")), open_ballots(tmp_path / "it.db"))
        booth.lay(name := ticket(), ("one", "other"), ("a", "b"), prompt="?", visitor="v")
        booth.vote(name, "left")
        with pytest.raises(StudyError, match="with votes on something else"):
            first.register(store)
        booth.ballots.store.close()


def test_votes_go_into_postgresql_as_well(postgres: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from kit.humaneval.overview import overview

    ballots = open_ballots(postgres.database())
    booth = booth_of(ballots, ["one", "other"], {}, question="Which is better?")
    names = [ticket() for _ in range(12)]
    for number, name in enumerate(names):
        booth.lay(name, ("one", "other"), (f"a {number}", "b"), prompt=f"{number}?", visitor=f"v{number % 3}")
    with ThreadPoolExecutor(8) as pool:  # each is pressed three times
        list(pool.map(lambda name: booth.vote(name, "right"), names * 3))
    found = overview(ballots.store, booth.study.name, rounds=20)
    assert found.votes == 12
    assert {cell.won + cell.lost for cell in found.matrix} == {12}
    assert len(found.raters) == 3
    ballots.store.close()

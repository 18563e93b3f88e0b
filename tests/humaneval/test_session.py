"""A sitting: blind pages, answers that are committed or kept, and two windows that never meet."""

from __future__ import annotations

import io
import json
import random
import struct
import time
import uuid
import wave
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from small_studies import make_study
from sqlalchemy import text

from kit.data.picture import Picture
from kit.errors import DataError
from kit.humaneval import queries, schema, session
from kit.humaneval.errors import StudyError
from kit.humaneval.items import Item, Output
from kit.humaneval.live import STEP, LiveDecision, letters
from kit.humaneval.pages import ELSEWHERE, KEPT, NOTHING_TO_UNDO, State
from kit.humaneval.schedule import tasks_of
from kit.humaneval.session import Session
from kit.humaneval.store import Store


def sit(store, study, *, holder="w", rater="ana", **options) -> Session:
    store.register(study)
    return Session(study, store, rater=rater, holder=holder, **options)


def through(session: Session, answer="left", **options) -> list[State]:
    """Answer until there is nothing left."""
    states = [session.state()]
    while states[-1].status == "asking":
        ahead = session.prefetch()
        states.append(session.answer(states[-1].page.token, answer, ms=1500, **options))
        if ahead is not None:
            assert states[-1].page.token == ahead.token, "what was fetched ahead is what is shown"
    return states


def away(store: Store) -> None:
    """Take the database away: its tables get other names."""
    with store.engine.begin() as connection:
        connection.execute(text("ALTER TABLE kit_votes RENAME TO gone_votes"))


def back(store: Store) -> None:
    with store.engine.begin() as connection:
        connection.execute(text("ALTER TABLE gone_votes RENAME TO kit_votes"))


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let so many seconds pass for database and windows, and none for whoever waits: a busy machine takes its own."""
    passed, clock = [0.0], schema.clock
    monkeypatch.setattr(session, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + passed[0]))
    for module in (schema, queries):
        monkeypatch.setattr(module, "clock", lambda connection: clock(connection) + passed[0])

    def wait(seconds: float) -> None:
        passed[0] += seconds

    return wait


def votes(store):
    return list(store.votes("captions", rater="ana"))


def test_a_rater_goes_through_the_schedule_and_every_answer_is_a_row(store):
    study = make_study(14, repeats=0.1)
    states = through(sit(store, study))
    assert [vote.task for vote in votes(store)] == list(tasks_of(study, "ana"))
    assert [state.done for state in states] == list(range(len(tasks_of(study, "ana")) + 1))
    assert states[-1].status == "finished"
    assert states[-1].page is None
    assert all(vote.ms == 1500 and vote.client == "widget" for vote in votes(store))
    assert states[2].left_s is None
    assert states[3].left_s == pytest.approx(1.5 * states[3].left)


def test_a_page_tells_nothing_about_who_made_it(tmp_path, store):
    exif = Image.Exif()
    exif[0x010E] = "made by secret-model"
    for name, colour in (("secret-model", "red"), ("other-model", "blue")):
        Image.new("RGB", (40, 30), colour).save(tmp_path / f"{name}.jpg", exif=exif, comment=b"secret-model")
    made = {name: Output(picture=Picture.at(tmp_path / f"{name}.jpg")) for name in ("secret-model", "other-model")}
    items = (Item("secret-item", made, "a prompt", Picture.at(tmp_path / "secret-model.jpg")),)
    session = sit(store, make_study(conditions=("secret-model", "other-model"), items=items))
    page = session.state().page
    assert [one.kind for one in page.prompt] == ["picture", "text"]
    assert {one.media_type for one in page.answers} == {"image/png"}
    told = repr(page) + repr(asdict(session.state()))
    assert "secret" not in told
    assert "other-model" not in told
    for one in page.answers:
        image = Image.open(io.BytesIO(one.content))
        assert image.size == (40, 30)
        assert not image.getexif()
        assert "comment" not in image.info
    shown = [Image.open(io.BytesIO(one.content)).getpixel((5, 5))[0] > 128 for one in page.answers]
    (task,) = tasks_of(session.study, "ana")
    assert shown == [name == "secret-model" for name in task.shown], "answers are not in the order of the task"


def test_large_pictures_are_of_one_format(tmp_path, store):
    sizes = {"base": (1200, 1000), "adapted": (20, 20)}
    for name, size in sizes.items():
        Image.new("RGB", size, "green").save(tmp_path / f"{name}.png")
    made = {name: Output(picture=Picture.at(tmp_path / f"{name}.png")) for name in sizes}
    page = sit(store, make_study(items=(Item("i", made, "p"),))).state().page
    assert {one.media_type for one in page.answers} == {"image/jpeg"}


def tagged_sounds(folder: Path) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    with wave.open(str(folder / "a.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\x01\x02" * 400)
    content = (folder / "a.wav").read_bytes() + b"LIST" + struct.pack("<I", 16) + b"INFOIART\x04\0\0\0secr"
    (folder / "a.wav").write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    (folder / "b.mp3").write_bytes(b"ID3\x03\0\0\0\0\0\x0asecret-tag" + b"\xff\xfbframes" + b"TAGsecret".ljust(128))
    comment = b"\x84" + len(b"secret").to_bytes(3, "big") + b"secret"
    (folder / "c.flac").write_bytes(b"fLaC" + b"\0" + (34).to_bytes(3, "big") + b"s" * 34 + comment + b"\xff\xf8frames")
    return {name: folder / name for name in ("a.wav", "b.mp3", "c.flac")}


def test_sounds_lose_their_tags_and_keep_their_samples(tmp_path, store):
    files = tagged_sounds(tmp_path / "sounds")
    items = tuple(
        Item(name, {"base": Output(audio=path), "adapted": Output("none")}, "p") for name, path in files.items()
    )
    session = sit(store, make_study(items=items))
    found = {}
    for state in through(session)[:-1]:
        (sound,) = [one for one in state.page.answers if one.kind == "audio"]
        found[sound.media_type] = sound.content
    assert set(found) == {"audio/wav", "audio/mpeg", "audio/flac"}
    assert not any(b"secr" in content for content in found.values())
    with wave.open(io.BytesIO(found["audio/wav"])) as file:
        assert file.readframes(1000) == b"\x01\x02" * 400
    assert found["audio/mpeg"] == b"\xff\xfbframes"
    assert found["audio/flac"] == b"fLaC\x80" + (34).to_bytes(3, "big") + b"s" * 34 + b"\xff\xf8frames"


def test_a_next_sound_that_is_gone_is_no_fault_of_the_answer_before_it(tmp_path, store):
    def sound(name, number):
        path = tmp_path / f"{name}{number}.mp3"
        path.write_bytes(b"\xff\xfb" + f"{name}{number}".encode())
        return Output(audio=path)

    items = tuple(Item(f"i{n}", {name: sound(name, n) for name in ("base", "new")}, "Listen.") for n in range(3))
    session = sit(store, make_study(conditions=("base", "new"), items=items))
    token = session.state().page.token
    for path in tmp_path.glob("*.mp3"):
        path.rename(path.with_suffix(".away"))
    with pytest.raises(DataError, match=r"cannot be read: No such file"):  # a StudyError would say: no such answer
        session.answer(token, "left")
    assert [vote.answer for vote in votes(store)] == ["left"]
    for path in tmp_path.glob("*.away"):
        path.rename(path.with_suffix(".mp3"))
    assert session.state().status == "asking"


def test_a_restarted_client_goes_on_where_it_stood(store):
    study = make_study(8)
    first = sit(store, study)
    first.answer(first.state().page.token, "left")
    shown = first.state().page
    ahead = first.prefetch()
    second = sit(store, study)
    assert second.state().page.token == shown.token
    assert second.state().done == 1
    assert second.prefetch().token == ahead.token
    assert second.state().last
    assert second.undo().page.token != shown.token
    assert votes(store) == []


def test_two_windows_never_hold_the_same_pair(store):
    study = make_study(12)
    windows = [sit(store, study, holder=name) for name in ("one", "two")]
    luck = random.Random(3)
    held = {}
    while True:
        number = luck.randrange(2)
        state = windows[number].state()
        if state.status == "finished":
            break
        if state.status == "waiting":
            continue
        windows[number].prefetch()
        for place, window in enumerate(windows):
            held[place] = {one.task.key for one in window._open}
        assert not held[0] & held[1]
        windows[number].answer(state.page.token, "left")
    assert sorted(vote.task.key for vote in votes(store)) == sorted(task.key for task in tasks_of(study, "ana"))


def test_what_another_window_holds_is_waited_for_and_comes_when_it_closes(store):
    study = make_study(2)
    one, two = sit(store, study, holder="one"), sit(store, study, holder="two")
    page = one.state().page
    assert two.state().status == "waiting"
    assert two.state().left == 1
    one.release()
    assert two.state().page.answers == page.answers


def test_a_lease_that_ran_out_is_told_and_the_answer_does_not_count_twice(store, later):
    study = make_study(4)
    slow = sit(store, study, holder="slow", lease_s=200)
    token = slow.state().page.token
    later(300)
    quick = sit(store, study, holder="quick")
    quick.answer(quick.state().page.token, "right")
    state = slow.answer(token, "left")
    assert state.message == ELSEWHERE
    assert state.status == "asking"
    assert [vote.answer for vote in votes(store)] == ["right"]


def test_leases_are_renewed_while_somebody_looks(store, later):
    study = make_study(3)
    patient, other = sit(store, study, holder="patient", lease_s=600), sit(store, study, holder="other")
    token = patient.state().page.token
    for _ in range(4):
        later(350)
        assert patient.state().page.token == token
    taken = other.state().page
    assert other.prefetch() is None
    assert patient.state().page.answers != taken.answers


def test_a_database_that_goes_away_keeps_the_vote_and_says_so(store):
    study = make_study(5)
    session = sit(store, study)
    page = session.state().page
    ahead = session.prefetch()
    away(store)
    name = str(uuid.uuid4())
    state = session.answer(page.token, "right", uuid=name, ms=700)
    assert (state.status, state.message) == ("unsaved", KEPT)
    assert state.page.token == page.token
    assert session.answer(page.token, "left").status == "unsaved", "another answer does not push out the kept one"
    assert session.retry().status == session.state().status == session.undo().status == "unsaved"
    back(store)
    state = session.retry()
    assert (state.status, state.message, state.page.token) == ("asking", "", ahead.token)
    (vote,) = votes(store)
    assert (vote.uuid, vote.answer, vote.ms) == (name, "right", 700)


def test_a_database_that_is_away_at_the_start_is_waited_for(store):
    session = sit(store, make_study(3))
    away(store)
    assert session.state().status == "away"
    assert session.prefetch() is None
    back(store)
    assert session.state().status == "asking"


def test_taking_back_survives_a_database_that_goes_away(store):
    session = sit(store, make_study(5))
    token = session.state().page.token
    session.answer(token, "left")
    session.prefetch()
    away(store)
    assert session.undo().status == "unsaved"
    back(store)
    assert session.retry().page.token == token
    assert votes(store) == []


def test_a_resend_is_the_same_row_even_for_a_new_server(store):
    study = make_study(5)
    session = sit(store, study)
    token, name = session.state().page.token, str(uuid.uuid4())
    after = session.answer(token, "tie", uuid=name)
    assert session.answer(token, "tie", uuid=name).page.token == after.page.token
    fresh = sit(store, study)
    assert fresh.answer(token, "tie", uuid=name).page.token == after.page.token
    assert [vote.uuid for vote in votes(store)] == [name]


def test_a_resent_undo_takes_nothing_more_back_from_a_new_server(store):
    study, name, vote = make_study(6), str(uuid.uuid4()), str(uuid.uuid4())
    session = sit(store, study)
    first = session.state().page.token
    second = session.answer(first, "left", uuid=vote).page.token
    session.answer(second, "left")
    session.undo(uuid=name)
    fresh = sit(store, study)  # the server was killed before it could acknowledge that
    state = fresh.undo(uuid=name)
    assert (state.message, state.done, state.page.token) == ("", 1, second)
    assert fresh.answer(first, "left", uuid=vote).done == 1, "the first answer again, which was acknowledged by nobody"
    assert fresh.undo().page.token == first
    assert fresh.undo().message == NOTHING_TO_UNDO


def test_an_undo_that_arrives_late_takes_back_the_answer_that_it_names(store):
    study, vote = make_study(6), str(uuid.uuid4())
    session = sit(store, study)
    first = session.state().page.token
    second = session.answer(first, "left", uuid=vote).page.token
    session.answer(second, "right")  # as another window would, before the undo of the first answer arrives
    fresh = sit(store, study)
    assert fresh.undo(undoes=vote).page.token == first
    assert [row.answer for row in store.votes("captions", rater="ana")] == ["right"]
    assert fresh.undo(undoes=vote).message == NOTHING_TO_UNDO, "the same once more, under another id"
    assert [row.answer for row in store.votes("captions", rater="ana")] == ["right"]


def test_undo_appends_a_row_and_shows_the_page_again(store):
    session = sit(store, make_study(6))
    assert session.undo().message == NOTHING_TO_UNDO
    first = session.state().page.token
    second = session.answer(first, "left").page.token
    session.answer(second, "skip")
    session.prefetch()
    name = str(uuid.uuid4())
    assert session.undo(uuid=name).page.token == second
    assert session.undo(uuid=name).page.token == second, "a resend takes nothing more back"
    assert session.undo().page.token == first
    assert session.undo().message == NOTHING_TO_UNDO
    assert [vote.kind for vote in store.votes("captions", rater="ana", every=True)] == [
        "first",
        "first",
        "undo",
        "undo",
    ]
    assert session.answer(first, "right").page.token == second, "then comes what was taken back before"


def test_what_is_no_answer_is_refused_and_nothing_is_written(store):
    study = make_study(5)
    session = sit(store, study)
    token = session.state().page.token
    with pytest.raises(StudyError, match="no such answer: 'lft'"):
        session.answer(token, "lft")
    with pytest.raises(StudyError, match="no page of this rater"):
        session.answer("0" * 24, "left")
    with pytest.raises(StudyError, match="no UUID"):
        session.answer(token, "left", uuid="1")
    with pytest.raises(StudyError, match="no page of this rater"):
        sit(store, study, rater="ben", holder="v").answer(token, "left")
    with pytest.raises(StudyError, match=r"no such rater: 'anna'\. Did you mean 'ana'"):
        sit(store, study, rater="anna")
    assert votes(store) == []


def test_rubrics_and_rankings(store):
    rated = sit(store, make_study(2, design="likert", rubric={"clear": ("no", "so", "yes")}, name="rated"))
    state = rated.state()
    assert len(state.page.answers) == 1
    assert rated.form.rubric == {"clear": ("no", "so", "yes")}
    with pytest.raises(StudyError, match="each criterion"):
        rated.answer(state.page.token, {"clear": 4})
    rated.answer(state.page.token, {"clear": 3})
    ranked = sit(store, make_study(2, design="best_of", conditions=("a", "b", "c"), name="ranked"))
    state = ranked.state()
    assert len(state.page.answers) == 3
    ranked.answer(state.page.token, [2, 0, 1])
    said = [json.loads(vote.answer) for name in ("rated", "ranked") for vote in store.votes(name, rater="ana")]
    assert said == [{"clear": 3}, [2, 0, 1]]


def test_progress_counts_what_others_leave(store):
    study = make_study(7, raters_per_pair=1)
    ana, ben = sit(store, study), sit(store, study, rater="ben", holder="v")
    assert (ana.state().done, ana.state().left) == (0, 6)
    for _ in range(2):
        ben.answer(ben.state().page.token, "left")
    ben.release()
    assert (ana.state().done, ana.state().left) == (0, 4)
    assert through(ana)[-1].status == "finished"
    assert ben.state().status == "finished"


def test_the_decision_is_told_by_letters_and_in_steps(store):
    study = make_study(41, stop=replace(make_study().stop, max_votes=500))
    session = sit(store, study, live=LiveDecision(study, store))
    letter, told = letters(study), []
    assert set(letter.values()) == {"A", "B"}
    state = session.state()
    while state.status == "asking":
        session.live._text._next_s = 0
        session.prefetch()
        left = "adapted" in state.page.answers[0].text
        state = session.answer(state.page.token, "left" if left else "right")
        told.append(state.decision)
        assert "adapted" not in state.decision
        assert "base" not in state.decision
    changes = [number for number in range(1, len(told)) if told[number] != told[number - 1]]
    assert told[0] == "too early to tell"
    assert changes
    assert all(number % STEP == 0 for number in changes)
    assert told[STEP].startswith(f"{letter['adapted']} ahead, about ")
    assert told[-1].startswith(f"{letter['adapted']} is better, decided after ")


def test_letters_do_not_follow_names_or_order():
    drawn = {letters(make_study(seed=seed))["base"] for seed in range(20)}
    assert drawn == {"A", "B"}

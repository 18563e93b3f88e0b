"""The voting page over HTTP: blind, counted once, refused with a reason, and nothing of the server's insides."""

from __future__ import annotations

import base64
import json
import re
import shutil
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from voting_study import CONDITIONS, Client, picture_study, size_of

from kit.humaneval.errors import StudyError
from kit.humaneval.items import Item, Output
from kit.humaneval.study import Study
from kit.sharing import routes
from kit.sharing.arena import Arena
from kit.sharing.limits import Limit
from kit.sharing.serve import Served

Serving = Callable[..., Served]


def raw(address: str, path: str, *, method: str = "GET", data: bytes | None = None) -> tuple[int, dict[str, str], str]:
    request = urllib.request.Request(address + path, data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()


def test_an_evening_from_the_first_page_to_the_last(serving: Serving, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path, repeats=0.1))
    ana = Client(served.links["ana"])
    status, form = ana.ask("form")
    assert (status, form["rater"], form["design"], form["owner"]) == (200, "ana", "pairwise", False)
    view, seen = ana.state(), []
    total = view["left"]
    assert total == 14  # twelve items and two repeats
    while view["status"] == "asking":
        page, *after = view["queue"]
        assert set(view["pages"]) <= {page, *after}
        seen.append(page)
        status, view = ana.vote(page, ["left", "right", "tie", "both_bad", "skip"][len(seen) % 5], have=tuple(after))
        assert status == 200
        assert not set(view["pages"]) & set(after), "what the browser has is not sent again"
        assert view["queue"][:1] == after[:1] or not after, "the page that was fetched ahead comes next"
    assert (view["status"], view["done"], view["left"]) == ("finished", total, 0)
    assert len(set(seen)) == total
    votes = list(served.arena.store.votes("scenes", rater="ana"))
    assert [vote.answer for vote in votes[:2]] == ["right", "tie"]
    assert {vote.client for vote in votes} == {"page"}
    assert {vote.ms for vote in votes} == {1500}


def test_a_resend_is_the_same_row_and_an_undo_brings_the_page_back(serving: Serving, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path))
    ana, store = Client(served.links["ana"]), served.arena.store
    page, name = ana.state()["queue"][0], str(uuid.uuid4())
    for _ in range(3):
        status, view = ana.vote(page, name=name)
        assert (status, view["done"], view["refused"]) == (200, 1, False)
    assert len(list(store.votes("scenes", rater="ana"))) == 1
    undo = str(uuid.uuid4())
    for _ in range(2):
        status, view = ana.ask("undo", window=ana.window, uuid=undo)
        assert (status, view["done"], view["queue"][0]) == (200, 0, page)
    assert ana.vote(page, "right")[1]["done"] == 1
    rows = list(store.votes("scenes", rater="ana", every=True))
    assert [(one.kind, one.answer) for one in rows] == [("first", "left"), ("undo", ""), ("first", "right")]


def test_nothing_tells_who_made_what(serving: Serving, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path))
    texts = [raw(served.address, "/")[2]]
    formats = set()
    for rater in ("ana", "ben"):
        client = Client(served.links[rater])
        texts.append(json.dumps(client.ask("form")[1]))
        view = client.state()
        while view["status"] == "asking":
            for page in view["pages"].values():
                for one in page["answers"]:
                    start, _, code = one["src"].partition(",")
                    formats.add(start)
                    content = base64.b64decode(code)
                    assert size_of(content) == (64, 64)
                    texts.append(content.decode("latin-1"))
            texts.append(json.dumps(view))
            view = client.vote(view["queue"][0])[1]
    assert formats == {"data:image/png;base64"}, "one format for both, though one model's files are JPEG"
    for text in texts:
        for word in (*CONDITIONS, "sunrise", "Exif", "item-", str(tmp_path)):
            assert word not in text, word


def test_pages_of_two_windows_and_two_raters_are_not_the_same_by_name(serving: Serving, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path))
    one, other, ben = (Client(served.links[name]) for name in ("ana", "ana", "ben"))
    views = [client.state() for client in (one, other, ben)]
    names = [name for view in views for name in view["queue"]]
    assert len(names) == len(set(names)) == 6
    shown = [json.dumps(view["pages"][view["queue"][0]]["prompt"]) for view in views[:2]]
    assert shown[0] != shown[1], "two windows of one rater are not handed the same item"
    status, view = ben.vote(views[0]["queue"][0])
    assert status == 422, "a page of somebody else"
    assert view == {"error": routes.NOT_FIT}
    assert not list(served.arena.store.votes("scenes"))


def test_a_page_that_was_not_shown_is_not_voted_on(serving: Serving, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path))
    ana = Client(served.links["ana"])
    queue = ana.state()["queue"]
    session = served.arena._session("ana", ana.window)
    hidden = next(token for token in session._tokens if token not in queue)  # known to the server alone
    status, view = ana.vote(hidden)
    assert (status, view["refused"], view["done"]) == (200, True, 0)
    assert not list(served.arena.store.votes("scenes"))


@pytest.mark.parametrize(
    ("path", "values", "status", "why"),
    [
        ("answer", {"page": "x", "uuid": str(uuid.uuid4()), "answer": "left"}, 422, routes.NOT_FIT),
        ("answer", {"page": "{page}", "uuid": "no-uuid", "answer": "left"}, 422, routes.NOT_FIT),
        ("answer", {"page": "{page}", "uuid": str(uuid.uuid4()), "answer": "both"}, 422, routes.NOT_FIT),
        ("answer", {"page": "{page}", "uuid": str(uuid.uuid4()), "answer": [0, 1]}, 422, routes.NOT_FIT),
        ("answer", {"page": "{page}", "uuid": str(uuid.uuid4()), "answer": 3}, 422, routes.NOT_READ),
        ("answer", {"page": "{page}", "uuid": str(uuid.uuid4()), "answer": "left", "ms": "x"}, 422, routes.NOT_READ),
        ("answer", {"page": ["{page}"], "uuid": str(uuid.uuid4()), "answer": "left"}, 422, routes.NOT_READ),
        ("answer", {"page": "{page}", "answer": "left"}, 422, routes.NOT_READ),
        ("undo", {}, 422, routes.NOT_READ),
        ("state", {"window": "short"}, 422, routes.NOT_READ),
        ("state", {"window": "w" * 65}, 422, routes.NOT_READ),
        ("state", {"have": "x"}, 422, routes.NOT_READ),
        ("leaderboard", {}, 403, routes.NO_OWNER),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_with_a_reason(
    serving: Serving, tmp_path: Path, path: str, values: dict[str, Any], status: int, why: str
) -> None:
    served = serving(picture_study(tmp_path, n=3))
    ana = Client(served.links["ana"])
    page = ana.state()["queue"][0]
    values = json.loads(json.dumps(values).replace("{page}", page))
    assert ana.ask(path, **{"window": ana.window, **values}) == (status, {"error": why})
    assert not list(served.arena.store.votes("scenes"))
    assert ana.vote(page)[0] == 200, "and the page goes on"


def test_too_large_too_fast_and_no_token(serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its clock stands still: a machine that takes 15 seconds for what follows is refused nothing.
    monkeypatch.setattr(routes, "Limit", partial(Limit, clock=lambda: 0.0))
    served = serving(picture_study(tmp_path, n=3))
    ana, ben = Client(served.links["ana"]), Client(served.links["ben"])
    status, answer = ana.ask("answer", body=b'{"page": "' + b"x" * routes.MOST_BYTES + b'"}')
    assert (status, answer) == (413, {"error": routes.TOO_LARGE})
    for body in (b"[1, 2]", b"{", b"\xff\xfe", b"[" * 9000):
        assert ana.ask("answer", body=body) == (422, {"error": routes.NOT_READ})
    codes = [ana.ask("state", window=ana.window)[0] for _ in range(60)]
    assert {*codes} == {200, 429}
    assert ben.ask("form")[0] == 200, "one rater's haste is nobody else's wait"
    stranger = Client(f"{served.address}/#{'a' * 26}")
    codes = [stranger.ask("form") for _ in range(60)]
    assert codes[0] == (401, {"error": routes.NO_LINK})
    assert codes[-1] == (429, {"error": routes.TOO_FAST})
    assert ben.ask("form")[0] == 200


def test_gradios_own_routes_are_closed_and_headers_are_strict(serving: Serving, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path, n=3))
    for path in (
        "/config", "/gradio_api/info", "/gradio_api/upload", "/gradio_api/queue/data", "/docs", "/openapi.json",
        "/gradio_api/file=/etc/passwd", "/theme.css", "/monitoring", "/static/x", "/../etc/passwd", "/api/", "/api/x",
        "/gradio_api/vibe-edit", "/login", "/robots.txt",
    ):  # fmt: skip
        for method in ("GET", "POST"):
            data = b"{}" if method == "POST" else None
            status, headers, text = raw(served.address, path, method=method, data=data)
            assert (status, text) == (404, "There is nothing here.\n"), path
            assert headers["cache-control"] == "no-store"
    status, headers, html = raw(served.address, "/")
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", html), "the page asks nobody else"
    assert served.address.startswith("http://127.0.0.1:")
    assert served.share_address == ""


def test_a_machine_too_busy_to_show_gradio_a_page_within_3_seconds_serves_all_the_same(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gradio.networking.url_ok", lambda _: False)
    assert raw(serving(picture_study(tmp_path, n=3)).address, "/")[0] == 200


def test_a_broken_server_tells_visitors_nothing(
    serving: Serving, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    study = picture_study(tmp_path, n=6)
    assert study.digest  # read once, and then the pictures are gone
    shutil.rmtree(tmp_path / CONDITIONS[0])
    ana = Client(serving(study).links["ana"])
    assert ana.ask("state", window=ana.window) == (503, {"error": routes.BROKEN})
    told = capfd.readouterr().err
    assert CONDITIONS[0] in told, "the owner is told in the terminal"


def test_the_database_goes_away_and_comes_back(serving: Serving, tmp_path: Path, postgres: Any) -> None:
    served = serving(picture_study(tmp_path), postgres.database())
    ana = Client(served.links["ana"])
    page, name = ana.state()["queue"][0], str(uuid.uuid4())
    postgres.stop()
    try:
        status, answer = ana.vote(page, name=name)
        assert status == 503
        assert "Your answer is kept" in answer["error"]
    finally:
        postgres.start()
    status, view = ana.vote(page, name=name)
    assert (status, view["done"]) == (200, 1)
    assert [one.uuid for one in served.arena.store.votes("scenes", rater="ana")] == [name]


def test_the_leaderboard_is_the_owners(serving: Serving, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path))
    for rater in ("ana", "ben"):
        client = Client(served.links[rater])
        view = client.state()
        while view["status"] == "asking":
            view = client.vote(view["queue"][0])[1]
        assert client.ask("leaderboard") == (403, {"error": routes.NO_OWNER})
    owner = Client(served.owner_link)
    status, board = owner.ask("leaderboard")
    assert status == 200
    assert board["votes"] == 24
    assert {one["model"] for one in board["board"]["standings"]} == set(CONDITIONS)
    assert board["progress"] == {"ana": [12, 0], "ben": [12, 0]}
    assert board["left_share"]["value"] == 1.0
    assert owner.ask("form") == (200, {"owner": True})
    assert owner.ask("state", window=owner.window)[0] == 403


def test_a_leaderboard_that_is_being_made_anew_keeps_nobody_waiting(serving: Serving, tmp_path: Path) -> None:
    arena = serving(picture_study(tmp_path, n=3)).arena
    before, seen = arena.leaderboard(), list[dict[str, Any]]()
    with arena._board._lock:
        looking = threading.Thread(target=lambda: seen.append(arena.leaderboard()), daemon=True)
        looking.start()
        looking.join(60)
        assert seen == [before]


def test_only_those_invited_come_in(serving: Serving, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path, n=3), raters=("ben",))
    assert set(served.links) == {"ben"}
    uninvited = f"{served.address}/#{served.arena.tokens.of_rater('ana')}"
    assert Client(uninvited).ask("form")[0] == 401
    with pytest.raises(StudyError, match=r"'anna' is no rater of this study\. Did you mean 'ana'") as caught:
        Arena(picture_study(tmp_path, n=3), served.arena.store, ("anna", "bob"))
    assert len(caught.value.faults) == 2


def test_rubrics_and_rankings(serving: Serving, tmp_path: Path) -> None:
    items = tuple(Item(f"i{n}", {name: Output(f"{name} {n}") for name in "xyz"}, "Say.") for n in range(2))
    ranking = Study("ranking", "Order them", tuple("xyz"), ("ana",), items, design="best_of", repeats=0)
    ana = Client(serving(ranking).links["ana"])
    view = ana.state()
    assert len(view["pages"][view["queue"][0]]["answers"]) == 3
    assert ana.vote(view["queue"][0], [0, 1])[0] == 422
    assert ana.vote(view["queue"][0], [2, 0, 1])[1]["done"] == 1


def test_points(serving: Serving, tmp_path: Path) -> None:
    items = (Item("i", {name: Output(f"{name}.") for name in "xy"}, "Say."),)
    rubric = {"fluent": ("poor", "fair", "good")}
    study = Study("points", "How good?", tuple("xy"), ("ana",), items, design="likert", rubric=rubric, repeats=0)
    ana = Client(serving(study).links["ana"])
    assert ana.ask("form")[1]["rubric"] == {"fluent": ["poor", "fair", "good"]}
    page = ana.state()["queue"][0]
    assert ana.vote(page, {"fluent": 4})[0] == 422
    assert ana.vote(page, {"fluent": 3})[1]["done"] == 1


def test_many_windows_at_once_answer_each_page_once(serving: Serving, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path, n=40))
    failures: list[object] = []

    def sit(rater: str) -> None:
        client = Client(served.links[rater])
        try:
            view = client.state()
            while view["status"] == "asking":
                status, view = client.vote(view["queue"][0])
                while status == 429:  # four windows of one rater are quicker than one person
                    threading.Event().wait(1.0)
                    status, view = client.ask("state", window=client.window)
                assert status == 200, view
        except Exception as error:  # noqa: BLE001 - told by the main thread
            failures.append(error)

    threads = [threading.Thread(target=sit, args=(rater,)) for rater in ("ana", "ben") for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not failures
    votes = list(served.arena.store.votes("scenes"))
    assert len(votes) == len({(one.rater, one.task.key) for one in votes}) == 80

"""The voting page as friends meet it: real Chromium, a phone's screen, taps and keys, and connections that break."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from voting_study import CONDITIONS, Client, picture_study

from kit.humaneval.items import Item, Output
from kit.humaneval.study import Study
from kit.sharing.serve import Served

pytestmark = pytest.mark.browser
Serving = Callable[..., Served]
PHONE = {"viewport": {"width": 375, "height": 812}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
DESK = {"viewport": {"width": 1280, "height": 860}}
SHOWN = "() => document.querySelector('.rating')?.dataset.page"
NEXT = "(old) => { const now = document.querySelector('.rating').dataset.page; return now && now !== old; }"
STATE = "(state) => document.querySelector('.rating')?.dataset.state === state"
KEPT = """() => Object.entries(localStorage).filter(([key]) => key.includes(':send:'))
    .map(([, one]) => JSON.parse(one).uuid)"""
UNDONE = """() => Object.entries(localStorage).filter(([key]) => key.includes(':send:'))
    .map(([, one]) => JSON.parse(one).undoes).filter(Boolean)"""
PAINTED = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
QUIET = "() => !Object.keys(localStorage).some((key) => key.includes(':send:'))"


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Open a link as one device; whatever it asks elsewhere, and every error of its script, fails the test."""
    contexts, strange = [], list[str]()

    def opened(link: str, **device: Any) -> Any:
        context = browser.new_context(**(device or PHONE))
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: strange.append(str(error)))
        page.on(
            "request",
            lambda one: strange.append(one.url) if not re.match(r"http://127\.0\.0\.1|data:", one.url) else None,
        )
        page.goto(link)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not strange


def keep(page: Any, name: str) -> None:
    """Keep a screenshot where somebody wants to look at it."""
    if folder := os.environ.get("KIT_KEEP_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def asking(page: Any) -> str:
    page.wait_for_function(SHOWN, timeout=60_000)
    return str(page.evaluate(SHOWN))


def at_once(page: Any, presses: str) -> None:
    """Run a script that presses things within one moment: the page's clock stands still, however busy the machine."""
    still = "const still_ms = performance.now(); performance.now = () => still_ms;"
    page.evaluate(f"() => {{ {still} {presses}; delete performance.now; }}")


def votes(served: Served, rater: str = "ana") -> list[str]:
    return [one.answer for one in served.arena.store.votes("scenes", rater=rater)]


def wait_quiet(page: Any) -> None:
    page.wait_for_function(QUIET, timeout=60_000, polling=50)


def test_an_evening_by_taps_on_a_phone(serving: Serving, visit: Any, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path, n=8))
    page = visit(served.links["ana"])
    asking(page)
    keep(page, "voting_phone")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 375
    for button in page.locator(".buttons button").all():
        box = button.bounding_box()
        assert min(box["width"], box["height"]) >= 44, "a thumb has to hit it"
    boxes = [one.bounding_box() for one in page.locator(".answer").all()]
    dock = page.locator(".dock").bounding_box()
    assert all(box["y"] + box["height"] <= dock["y"] + 1 for box in boxes), "both pictures are seen without scrolling"
    for number, answer in enumerate(["left", "right", "tie", "both_bad", "skip", "left", "right", "left"]):
        shown = asking(page)
        page.evaluate(PAINTED)  # from then on the rater's time is counted
        page.wait_for_timeout(220)  # a double tap counts once, so a real one comes a moment later
        page.locator(f"[data-answer={answer}]").tap()
        if number < 7:
            page.wait_for_function(NEXT, arg=shown, timeout=60_000)
    page.get_by_role("heading", name="Thank you!").wait_for(timeout=60_000)
    keep(page, "voting_done")
    assert votes(served) == ["left", "right", "tie", "both_bad", "skip", "left", "right", "left"]
    taken = [one.ms for one in served.arena.store.votes("scenes", rater="ana")]
    assert all(200 < ms < 60_000 for ms in taken)


def test_a_double_tap_is_one_vote(serving: Serving, visit: Any, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path, n=4))
    page = visit(served.links["ana"])
    asking(page)
    page.wait_for_timeout(220)
    at_once(page, "for (const _ of [1, 2]) document.querySelector('[data-answer=left]').click()")
    wait_quiet(page)
    assert votes(served) == ["left"]


def test_a_press_on_undo_just_after_a_page_was_placed_does_nothing(
    serving: Serving, visit: Any, tmp_path: Path
) -> None:
    served = serving(picture_study(tmp_path, n=4))
    page = visit(served.links["ana"])
    asking(page)
    page.wait_for_timeout(220)
    at_once(page, "for (const what of ['[data-answer=left]', '.undo']) document.querySelector(what).click()")
    wait_quiet(page)
    assert [one.kind for one in served.arena.store.votes("scenes", rater="ana", every=True)] == ["first"]


def test_an_answer_is_timed_from_its_own_page(serving: Serving, visit: Any, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path, n=4))
    page = visit(served.links["ana"], **DESK)
    first = asking(page)
    page.evaluate(PAINTED)
    page.evaluate(  # as on a page that is looked at for an hour, in a browser that then paints nothing for a while
        """() => {
            const now = performance.now.bind(performance);
            performance.now = () => now() + 3_600_000;
            window.requestAnimationFrame = () => 0;
        }"""
    )
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(NEXT, arg=first, polling=50)
    page.wait_for_timeout(220)
    page.keyboard.press("ArrowRight")
    wait_quiet(page)
    long, short = (one.ms for one in served.arena.store.votes("scenes", rater="ana"))
    assert short < 3_600_000 <= long


def test_one_key_is_one_vote(serving: Serving, visit: Any, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path, n=9))
    page = visit(served.links["ana"], **DESK)
    keys = {"ArrowLeft": "left", "ArrowRight": "right", "ArrowDown": "tie", "ArrowUp": "both_bad", "1": "left"}
    keys |= {"2": "right", "t": "tie", "b": "both_bad"}
    for key in keys:
        shown = asking(page)
        page.wait_for_timeout(220)
        page.keyboard.press(key)
        page.wait_for_function(NEXT, arg=shown, timeout=60_000)
    page.wait_for_timeout(220)
    page.keyboard.press("s")
    page.get_by_role("heading", name="Thank you!").wait_for(timeout=60_000)
    assert votes(served) == [*keys.values(), "skip"]


def test_undo_by_key_and_by_tap(serving: Serving, visit: Any, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path, n=5))
    page = visit(served.links["ana"], **DESK)
    first = asking(page)
    assert page.get_by_role("button", name="Undo").is_disabled()
    page.wait_for_timeout(220)
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(NEXT, arg=first)
    page.wait_for_timeout(220)
    page.keyboard.press("u")
    page.wait_for_function("(first) => document.querySelector('.rating').dataset.page === first", arg=first)
    wait_quiet(page)
    assert votes(served) == []
    page.wait_for_timeout(220)
    page.keyboard.press("ArrowRight")
    page.wait_for_function(NEXT, arg=first)
    wait_quiet(page)
    assert votes(served) == ["right"]
    page.reload()  # this window knows nothing of the vote any more; the server does
    asking(page)
    page.wait_for_timeout(220)
    page.get_by_role("button", name="Undo").click()
    page.wait_for_function("() => document.querySelector('.count').textContent === '1 of 5'", timeout=60_000)
    wait_quiet(page)
    assert votes(served) == []


def test_what_was_answered_without_a_connection_arrives(serving: Serving, visit: Any, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path, n=6))
    page = visit(served.links["ana"])
    first = asking(page)  # the page after this one came with it
    page.wait_for_timeout(220)
    page.context.set_offline(True)
    page.locator("[data-answer=left]").tap()
    page.wait_for_function(NEXT, arg=first)  # shown although nobody could be asked
    page.get_by_text("1 answer is kept here and sent by itself.").wait_for(timeout=60_000)
    keep(page, "voting_offline")
    page.wait_for_timeout(220)
    page.locator("[data-answer=right]").tap()
    page.get_by_text("2 answers are kept here").wait_for(timeout=60_000)
    assert votes(served) == []
    kept = page.evaluate(KEPT)
    page.context.set_offline(False)
    wait_quiet(page)
    asking(page)
    assert votes(served) == ["left", "right"]
    assert {one.uuid for one in served.arena.store.votes("scenes", rater="ana")} == set(kept)
    page.wait_for_function("() => document.querySelector('.strip').hidden")


def test_an_undo_without_a_connection_arrives_in_order(serving: Serving, visit: Any, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path, n=4))
    page = visit(served.links["ana"], **DESK)
    first = asking(page)
    page.wait_for_timeout(220)
    page.context.set_offline(True)
    page.keyboard.press("ArrowLeft")
    page.wait_for_function(NEXT, arg=first)
    page.wait_for_timeout(220)
    page.keyboard.press("u")
    page.wait_for_function("(first) => document.querySelector('.rating').dataset.page === first", arg=first)
    undone, kept = page.evaluate(UNDONE), page.evaluate(KEPT)
    assert (len(undone), len(kept)) == (1, 2)
    assert undone[0] in kept, "the undo says which answer it takes back"
    page.wait_for_timeout(220)
    page.keyboard.press("ArrowRight")
    page.wait_for_function(NEXT, arg=first)
    page.context.set_offline(False)
    wait_quiet(page)
    every = [(one.kind, one.answer) for one in served.arena.store.votes("scenes", rater="ana", every=True)]
    assert every == [("first", "left"), ("undo", ""), ("first", "right")]


def test_an_acknowledgement_that_got_lost_is_no_second_vote(serving: Serving, visit: Any, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path, n=4))
    page = visit(served.links["ana"])
    first = asking(page)
    lost = []

    def lose(route: Any) -> None:
        if lost:
            route.continue_()
            return
        lost.append(route.fetch().status)  # it arrives, and the answer to it does not
        route.abort()

    page.route("**/api/answer", lose)
    page.wait_for_timeout(220)
    page.locator("[data-answer=tie]").tap()
    page.wait_for_function(NEXT, arg=first)
    wait_quiet(page)
    assert lost == [200]
    assert votes(served) == ["tie"]
    assert not page.get_by_text("in another window").count(), "it was the same vote, and not a second one"


def test_votes_kept_in_a_closed_window_are_sent_by_the_next_one(serving: Serving, visit: Any, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path, n=4))
    page = visit(served.links["ana"])
    first = asking(page)
    page.route("**/api/answer", lambda route: route.abort())
    page.wait_for_timeout(220)
    page.locator("[data-answer=left]").tap()
    page.wait_for_function(NEXT, arg=first)
    context = page.context
    page.close()
    assert votes(served) == []
    again = context.new_page()
    again.goto(served.links["ana"])
    asking(again)
    wait_quiet(again)
    assert votes(served) == ["left"]
    assert again.locator(".count").text_content() == "2 of 4"


def test_a_new_window_shows_its_own_pages_after_it_sent_what_another_one_left(
    serving: Serving, visit: Any, tmp_path: Path
) -> None:
    served = serving(picture_study(tmp_path, n=12))
    page = visit(served.links["ana"])
    context, cut = page.context, [True]
    # As over plain http in a home network: without locks, a window's name dies with the window.
    context.add_init_script("Object.defineProperty(navigator, 'locks', { value: undefined })")
    context.route("**/api/answer", lambda route: route.abort() if cut else route.continue_())
    page.reload()
    first = asking(page)
    page.wait_for_timeout(220)
    page.locator("[data-answer=left]").tap()
    page.wait_for_function(NEXT, arg=first)
    page.close()
    again = context.new_page()
    again.goto(served.links["ana"])
    again.get_by_text("1 answer is kept here").wait_for(timeout=60_000)
    cut.clear()
    shown = asking(again)
    wait_quiet(again)
    again.wait_for_timeout(220)
    again.locator("[data-answer=right]").tap()
    again.wait_for_function(NEXT, arg=shown)
    wait_quiet(again)
    assert votes(served) == ["left", "right"]


def test_a_wrong_link_is_refused_in_words(serving: Serving, visit: Any, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path, n=3))
    page = visit(f"{served.address}/#{'x' * 26}")
    page.get_by_text("This link is not valid. Ask whoever sent it for a new one.").wait_for(timeout=60_000)
    keep(page, "voting_refused")
    bare = visit(served.address)
    bare.get_by_text("It is not complete").wait_for(timeout=60_000)


def test_nothing_in_page_or_network_tells_models_apart(serving: Serving, browser: Any, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path, n=5))
    context = browser.new_context(**PHONE)
    page, heard = context.new_page(), list[str]()
    page.on("response", lambda one: heard.append(f"{one.url} {one.headers} {one.text()}"))
    page.on("request", lambda one: heard.append(f"{one.url} {one.headers} {one.post_data}"))
    page.goto(served.links["ana"])
    for _ in range(5):
        asking(page)
        heard.append(page.content())
        page.wait_for_timeout(220)
        page.locator("[data-answer=left]").tap()
    page.get_by_role("heading", name="Thank you!").wait_for(timeout=60_000)
    heard.append(page.evaluate("() => JSON.stringify(localStorage)"))
    context.close()
    told = "\n".join(heard)
    assert len(heard) > 15
    assert "data:image/png" in told
    for word in (*CONDITIONS, "sunrise", "item-", ".png", ".jpg", str(tmp_path)):
        assert word not in told, word
    token = served.arena.tokens.of_rater("ana")
    assert not [one for one in heard if one.startswith("http") and token in one.split(" ")[0].split("#")[0]]


def test_the_owners_leaderboard_moves_by_itself(serving: Serving, visit: Any, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path))
    client = Client(served.links["ana"])
    view = client.state()
    for _ in range(4):
        view = client.vote(view["queue"][0], "left")[1]
    owner = visit(served.owner_link, **DESK)
    owner.get_by_text("4 of 12").wait_for(timeout=60_000)
    for name in CONDITIONS:
        assert owner.get_by_text(name).count() > 0
    while view["status"] == "asking":
        view = client.vote(view["queue"][0], "tie")[1]
    owner.get_by_text("12 of 12").wait_for(timeout=60_000)
    keep(owner, "voting_owner")
    phone = visit(served.owner_link)
    phone.get_by_text("12 of 12").wait_for(timeout=60_000)
    assert phone.evaluate("() => document.documentElement.scrollWidth") <= 375


def test_pictures_open_large_and_keys_do_not_vote_then(serving: Serving, visit: Any, tmp_path: Path) -> None:
    served = serving(picture_study(tmp_path, n=3))
    page = visit(served.links["ana"], **DESK)
    asking(page)
    page.locator(".answer .picture").first.click()
    box = page.locator("dialog.lightbox")
    box.get_by_text("Answer 1").wait_for()
    page.keyboard.press("ArrowRight")
    box.get_by_text("Answer 2").wait_for()
    page.keyboard.press("Escape")
    box.wait_for(state="detached")
    assert votes(served) == []


def test_points_and_places(serving: Serving, visit: Any, tmp_path: Path) -> None:
    items = tuple(Item(f"i{n}", {name: Output(f"{name} {n}") for name in "xyz"}, "Say.") for n in range(2))
    study = Study("ranking", "Order them", tuple("xyz"), ("ana",), items, design="best_of", repeats=0)
    served = serving(study)
    page = visit(served.links["ana"])
    first = asking(page)
    page.wait_for_timeout(220)
    for place in (2, 0):
        page.locator(".point").nth(place).tap()
    page.wait_for_function(NEXT, arg=first)
    page.wait_for_timeout(220)
    for key in "12":
        page.keyboard.press(key)
    page.get_by_role("heading", name="Thank you!").wait_for(timeout=60_000)
    assert [json.loads(one.answer) for one in served.arena.store.votes("ranking")] == [[2, 0, 1], [0, 1, 2]]


def test_a_double_tap_on_a_place_does_not_spend_the_next_page(serving: Serving, visit: Any, tmp_path: Path) -> None:
    items = tuple(Item(f"i{n}", {name: Output(f"{name} {n}") for name in "xy"}, "Say.") for n in range(3))
    study = Study("ranking", "Order them", tuple("xy"), ("ana",), items, design="best_of", repeats=0)
    served = serving(study)
    page = visit(served.links["ana"])
    first = asking(page)
    page.wait_for_timeout(220)
    at_once(page, "for (const _ of [1, 2]) document.querySelector('.point').click()")
    page.wait_for_function(NEXT, arg=first)
    page.wait_for_timeout(220)
    page.locator(".point").nth(1).tap()
    wait_quiet(page)
    assert [json.loads(one.answer) for one in served.arena.store.votes("ranking")] == [[0, 1], [1, 0]]


def test_criteria_by_tap_and_by_digit(serving: Serving, visit: Any, tmp_path: Path) -> None:
    items = (Item("i", {name: Output(f"{name}.") for name in "xy"}, "Say."),)
    rubric = {"fluent": ("poor", "fair", "good"), "true": tuple("12345")}
    study = Study("points", "How good?", tuple("xy"), ("ana",), items, design="likert", rubric=rubric, repeats=0)
    served = serving(study)
    page = visit(served.links["ana"])
    first = asking(page)
    page.wait_for_timeout(220)
    page.get_by_role("radio", name="good").tap()
    at_once(  # the second one falls on the next page, and is no choice there
        page,
        """const four = () => [...document.querySelectorAll('[role=radio]')].find((one) => one.textContent === '4');
        for (const _ of [1, 2]) four().click()""",
    )
    page.wait_for_function(NEXT, arg=first)
    page.wait_for_timeout(220)
    page.keyboard.press("1")
    assert page.get_by_role("radio", checked=True).count() == 1
    page.keyboard.press("5")
    page.get_by_role("heading", name="Thank you!").wait_for(timeout=60_000)
    points = [json.loads(one.answer) for one in served.arena.store.votes("points")]
    assert points == [{"fluent": 3, "true": 4}, {"fluent": 1, "true": 5}]


CONTRAST = """() => {
    const light = (color) => {
        const context = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d');
        context.fillStyle = color;
        context.fillRect(0, 0, 1, 1);
        const [r, g, b] = [...context.getImageData(0, 0, 1, 1).data].map((one) => one / 255)
            .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let one = element; one; one = one.parentElement) {
            const color = getComputedStyle(one).backgroundColor;
            if (!/rgba\\(.*, 0\\)|transparent|color\\(.*\\/ 0\\./.test(color)) return color;
        }
        return 'white';
    };
    const words = 'h1, .count, .text, .badge, .choice span, .quiet:not(:disabled)';
    return [...document.querySelectorAll(words)].filter((one) => one.offsetParent).map((one) => {
        const [a, b] = [light(getComputedStyle(one).color), light(behind(one))];
        return [one.textContent, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)];
    });
}"""

NAMES = """() => [...document.querySelectorAll('button, img, audio')].filter((one) => one.offsetParent)
    .map((one) => one.getAttribute('aria-label') || one.alt || one.textContent)"""
FOCUSED = "() => document.activeElement.textContent + (document.activeElement.getAttribute('aria-label') ?? '')"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_stand_out_and_everything_has_a_name(serving: Serving, visit: Any, tmp_path: Path, scheme: str) -> None:
    served = serving(picture_study(tmp_path, n=3))
    page = visit(served.links["ana"], **PHONE, color_scheme=scheme, reduced_motion="reduce")
    asking(page)
    keep(page, f"voting_{scheme}")
    found = page.evaluate(CONTRAST)
    assert len(found) > 8
    assert {text: ratio for text, ratio in found if ratio < 4.5} == {}
    assert all(page.evaluate(NAMES))
    page.keyboard.press("Tab")
    reached = []
    for _ in range(8):
        reached.append(page.evaluate(FOCUSED))
        page.keyboard.press("Tab")
    order = [
        next((n for n, one in enumerate(reached) if part in one), -1)
        for part in ("Answer 1", "Answer 2", "1 is better", "2 is better", "Tie", "Skip")
    ]
    assert order == sorted(order)
    assert order[0] >= 0
    assert page.evaluate("() => getComputedStyle(document.querySelector('#stage')).animationName") == "none"

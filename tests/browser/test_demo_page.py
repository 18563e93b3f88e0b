"""The pages of bundles in Chromium: on a phone and a desk, dark and light, by keys alone, examples at one click."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from free_ports import free_port
from small_bundles import NAMES, clip_bundle, seeing_bundle

from kit.sharing.demo import Demo, demo

pytestmark = pytest.mark.browser
PHONE, DESK = {"width": 375, "height": 740}, {"width": 1280, "height": 860}


@pytest.fixture(scope="module")
def finding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A CLIP's page."""
    served = demo(clip_bundle(tmp_path_factory.mktemp("clip")), port=free_port())
    yield served
    served.close()


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A vision-language model's page."""
    served = demo(seeing_bundle(tmp_path_factory.mktemp("seeing")), port=free_port(), device="cpu")
    yield served
    served.close()


MORE = 100
ENDED: list[int] = []  # after how many words more each answer of a slow model ended


def unhurried(answer: Callable[..., Iterator[str]]) -> Callable[..., Iterator[str]]:
    """A model that goes on for 20 seconds after its answer: a small one is through before anybody can stop it."""

    def slowly(*given: Any, **options: Any) -> Iterator[str]:
        said, more = "", 0
        try:
            for said in answer(*given, **options):
                yield said
            while more < MORE:
                time.sleep(0.2)
                more += 1
                said += " and so on"
                yield said
        finally:
            ENDED.append(more)

    return slowly


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """The same, slow enough to be interrupted."""
    bundle = seeing_bundle(tmp_path_factory.mktemp("slow"))
    served = demo(bundle, port=free_port(), device="cpu", wrap=unhurried)
    yield served
    served.close()


def opened(browser: Any, served: Demo, *, size: dict[str, int] = PHONE, scheme: str = "light") -> Any:
    page = browser.new_page(viewport=size, color_scheme=scheme)
    page.outside = []
    page.on("request", lambda one: page.outside.append(one.url) if elsewhere(one.url, served.address) else None)
    page.goto(f"{served.address}/?__theme={scheme}")
    page.wait_for_selector("#title h1")
    return page


def elsewhere(url: str, home: str) -> bool:
    return not url.startswith((home, "data:", "blob:"))


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "light"), (PHONE, "dark"), (DESK, "dark")])
def test_words_find_pictures(browser: Any, finding: Demo, size: dict[str, int], scheme: str) -> None:
    page = opened(browser, finding, size=size, scheme=scheme)
    page.fill("#words textarea, #words input", "a red thing")
    page.keyboard.press("Enter")
    page.wait_for_selector(".kit-found figure")
    assert page.locator(".kit-found figure").count() == 12
    assert set(page.locator(".kit-found img").evaluate_all("all => all.map(one => one.alt)")) == set(NAMES)
    page.wait_for_function("[...document.querySelectorAll('.kit-found img')].every(one => one.naturalWidth > 0)")
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"], "it has to be scrolled sideways"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == (scheme == "dark")
    assert not page.outside, "the page asks somebody else"
    page.close()


def test_a_name_is_no_markup(browser: Any, finding: Demo) -> None:
    page = opened(browser, finding)
    assert page.locator("#title h1").inner_text() == "Tiny <b>CLIP</b>"
    assert page.locator("#title b").count() == 0
    page.close()


def test_by_keys_alone(browser: Any, finding: Demo) -> None:
    page = opened(browser, finding, size=DESK)
    page.wait_for_selector("#words textarea, #words input")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#words') !== null"):
            break
    else:
        pytest.fail("30 times Tab do not lead to the words")
    page.keyboard.type("thing")
    page.keyboard.press("Enter")
    page.wait_for_selector(".kit-found figure")
    page.close()


def test_an_example_is_labelled_at_the_first_click(browser: Any, finding: Demo) -> None:
    page = opened(browser, finding)
    page.get_by_role("tab", name="Label").click()
    page.locator("#pictures button:visible, .gallery-item:visible").first.click()
    page.wait_for_selector(".kit-labels .confidence-set")
    assert page.locator(".kit-labels .confidence-set").count() == 8
    page.close()


def test_what_is_wrong_is_told_on_the_page(browser: Any, finding: Demo) -> None:
    page = opened(browser, finding)
    page.keyboard.press("Escape")
    page.locator("#words textarea, #words input").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("text=The description is empty")
    page.close()


def test_the_card_fits_a_phone(browser: Any, finding: Demo) -> None:
    page = opened(browser, finding)
    page.get_by_role("tab", name="Card").click()
    page.wait_for_selector(".kit-card table")
    assert "0.1 – 0.9" in page.locator(".kit-card").first.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.close()


def ask_by_example(page: Any) -> None:
    """Click the first example, and wait for words: a bubble without any stands there before the question is sent."""
    page.locator("#tries tbody tr").first.click()
    page.wait_for_selector("#chat .user")
    page.wait_for_function("[...document.querySelectorAll('#chat .bot')].some(one => one.innerText.trim())")


def test_an_example_is_answered_at_the_first_click_and_may_be_stopped(browser: Any, slow: Demo) -> None:
    page = opened(browser, slow)
    ENDED.clear()
    ask_by_example(page)
    page.click("#stop")
    until_s = time.monotonic() + 60
    while not ENDED:
        assert time.monotonic() < until_s
        page.wait_for_timeout(50)
    assert ENDED[0] < MORE, "it was through before it was stopped"
    said, shown = None, page.locator("#chat .bot").last
    while said != shown.inner_text():  # its last words may be on their way
        assert time.monotonic() < until_s, "it goes on talking"
        said = shown.inner_text()
        page.wait_for_timeout(1000)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert not page.outside
    page.close()


def test_a_new_conversation_stays_empty_though_the_old_answer_is_still_on_its_way(browser: Any, slow: Demo) -> None:
    page = opened(browser, slow)
    # The browser's own word to stop comes late: until then words come, after the conversation was emptied.
    page.route("**/cancel", lambda route: (time.sleep(0.7), route.continue_()))
    ask_by_example(page)
    page.click("#clear")
    page.wait_for_function("document.querySelectorAll('#chat .user').length == 0")
    page.wait_for_timeout(1500)
    assert page.locator("#chat .user, #chat .bot").count() == 0, "the old answer came back"
    page.fill("#question textarea, #question input", "and now?")
    page.keyboard.press("Enter")
    page.wait_for_selector("#chat .user")
    assert page.locator("#chat .user").count() == 1
    page.close()


def test_two_answers_beside_each_other(browser: Any, answering: Demo) -> None:
    page = opened(browser, answering, size=DESK)
    page.get_by_role("tab", name="Side by side").click()
    page.fill("#question-both textarea, #question-both input", "what is it?")
    page.click("#go-both")
    page.wait_for_function("document.querySelector('#said-right textarea').value.length > 0", timeout=60_000)
    left = page.locator("#said-left textarea").input_value()
    assert left
    assert left != page.locator("#said-right textarea").input_value()
    page.close()

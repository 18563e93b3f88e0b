"""Voting as a person does it: real JupyterLab, real Chromium, by keys and by mouse, on wide and narrow screens."""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from kit.humaneval.protocol import read_study
from kit.humaneval.schedule import tasks_of
from kit.humaneval.store import Store

pytestmark = pytest.mark.browser

RUN = "async () => await window.jupyterapp.commands.execute('notebook:run-all-cells')"
RESTART = "async () => await window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
SHOWN = """(old) => {
    const root = document.querySelector('.kit-vote');
    return root && !root.hasAttribute('aria-busy') && root.querySelector('.kv-count').textContent !== old;
}"""
SETTLED = "(node) => node.hasAttribute('data-ready') || node.dataset.status !== 'asking'"
CELLS = "() => window.jupyterapp.shell.currentWidget.content.model.cells.length"
# The first press now, the others as soon as the next page is in place, while the clock stands still: however busy this
# machine is, the page was placed a moment ago.
QUICK = """([first, ...others]) => new Promise((resolve) => {
    const root = document.querySelector('.kit-vote'), still_ms = performance.now();
    const press = (what) => what === 'right' ? root.querySelector('[data-answer=right]').click()
        : root.dispatchEvent(new KeyboardEvent('keydown', { key: what, bubbles: true, cancelable: true }));
    new MutationObserver((_, observer) => {
        observer.disconnect();
        others.forEach(press);
        delete performance.now;
        resolve();
    }).observe(root.querySelector('.kv-body'), { childList: true });
    performance.now = () => still_ms;
    press(first);
})"""
STARTS = """from pathlib import Path
from kit.humaneval.protocol import read_study
from kit.humaneval.widget import vote
study = read_study(Path("{name}.yaml"))"""
NAMES = ("secret-one", "secret-two")


@pytest.fixture
def open_study(lab: tuple[str, Path], browser: Any, kernel_idle: Callable[..., None]) -> Iterator[Callable[..., Any]]:
    """Write a study and a notebook with so many widgets on it, open it, run it, and return the page."""
    address, folder = lab
    pages = []

    def opened(
        name: str, *, n: int = 12, widgets: int = 1, pictures: bool = False, width: int = 1200, **more: Any
    ) -> Any:
        _write(folder, name, n=n, pictures=pictures, **more)
        cell = f"vote(study, 'sqlite:///{name}.db', rater='ana')"
        _notebook(folder / f"{name}.ipynb", [STARTS.format(name=name), *[cell] * widgets])
        page = browser.new_page(viewport={"width": width, "height": 950})
        pages.append(page)
        page.frames_heard = []
        page.on("websocket", lambda socket: _listen(socket, page.frames_heard))
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error.stack)))
        page.goto(address.format(f"{name}.ipynb") + "&reset")
        kernel_idle(page)
        page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
        page.evaluate(RUN)
        kernel_idle(page)
        page.locator(".kit-vote .kv-question").nth(widgets - 1).wait_for(timeout=60_000)
        return page

    yield opened
    for page in pages:
        page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        faults = page.faults
        page.close()
        assert [
            fault for fault in faults if "blob:" in fault
        ] == []  # where anywidget's modules are; not JupyterLab's own


def _listen(socket: Any, heard: list[bytes]) -> None:
    """Keep what the kernel sends; the server's own events name the files of the folder."""
    if "/channels" in socket.url:
        socket.on("framereceived", lambda one: heard.append(one if isinstance(one, bytes) else one.encode()))


def _write(folder: Path, name: str, *, n: int, pictures: bool, **more: Any) -> None:
    items = []
    for number in range(n):
        outputs: dict[str, Any] = {which: f"answer {number} {place}" for place, which in enumerate(NAMES)}
        for place, which in enumerate(NAMES if pictures else ()):
            path = folder / f"{which}-{number}.png"
            Image.effect_noise((320, 240 + 40 * place), 40 + number).save(path)
            outputs[which] = {"picture": path.name}
        items.append({"id": f"secret-item-{number}", "prompt": f"prompt {number}", "outputs": outputs})
    values = {
        "question": "Which is better?",
        "conditions": list(NAMES),
        "raters": ["ana"],
        "items": items,
        "repeats": 0,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**values, **more}))


def _notebook(path: Path, cells: list[str]) -> None:
    made = [
        {"cell_type": "code", "id": f"c{n}", "metadata": {}, "outputs": [], "execution_count": None, "source": source}
        for n, source in enumerate(cells)
    ]
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"cells": made, "metadata": spec, "nbformat": 4, "nbformat_minor": 5}))


def _votes(folder: Path, name: str, **options: Any) -> list[Any]:
    with Store(str(folder / f"{name}.db")) as store:
        return list(store.votes(name, rater="ana", **options))


def _ready(page: Any, number: int = 0) -> None:
    """Wait until the widget takes an answer: it ignores a press right after a page was put in place."""
    page.locator(".kit-vote").nth(number).and_(page.locator("[data-ready]")).wait_for(timeout=60_000)


def _does(page: Any, act: Callable[[], None]) -> None:
    """Do what makes a vote once the widget takes one, and wait until the count has changed."""
    _ready(page)
    before = page.locator(".kv-count").first.text_content()
    act()
    page.wait_for_function(SHOWN, arg=before, timeout=60_000)


def _keep(page: Any, name: str) -> None:
    if folder := os.environ.get("KIT_KEEP_SCREENSHOTS"):
        page.locator(".kit-vote").first.screenshot(path=f"{folder}/{name}.png")


def test_one_key_press_is_one_vote_and_jupyterlab_does_not_hear_it(
    open_study: Callable[..., Any], lab: tuple[str, Path], record_property: Callable[[str, object], None]
) -> None:
    page, folder = open_study("keys", n=16, pictures=True), lab[1]
    cells = page.evaluate(CELLS)
    root = page.locator(".kit-vote")
    root.focus()
    pressed = ["ArrowLeft", "ArrowRight", "ArrowDown", "ArrowUp", "1", "2", "3", "4", "t", "b", "s", "T"]
    for key in pressed:
        page.wait_for_timeout(250)  # the quickest of raters looks that long
        _does(page, lambda key=key: page.keyboard.press(key))
    answers = ["left", "right", "tie", "both_bad"]
    assert [vote.answer for vote in _votes(folder, "keys")] == [*answers, "left", "right", "tie", "both_bad",
        "tie", "both_bad", "skip", "tie"]  # fmt: skip
    shown = [vote.task for vote in _votes(folder, "keys")]
    assert shown == list(tasks_of(read_study(folder / "keys.yaml"), "ana"))[: len(pressed)]
    assert all(vote.ms > 0 and vote.client == "widget" for vote in _votes(folder, "keys"))
    _does(page, lambda: page.keyboard.press("u"))
    assert _votes(folder, "keys", every=True)[-1].kind == "undo"
    assert page.evaluate(CELLS) == cells, "JupyterLab took a key for itself"
    page.keyboard.press("z")
    page.locator(".kv-zoom img").wait_for()
    for key in ("+", "ArrowRight"):
        page.keyboard.press(key)
    assert page.locator(".kv-zoom h3").text_content() == "Right answer"
    page.keyboard.press("Escape")
    page.locator(".kv-zoom").wait_for(state="detached")
    assert root.evaluate("(node) => document.activeElement === node"), "the keys work on after a look"
    took_ms = page.evaluate("() => performance.getEntriesByName('kit-vote-next').map((entry) => entry.duration)")
    assert len(took_ms) == len(pressed)
    record_property("next_item_visible_ms", [round(one) for one in took_ms])
    print(f"key press to next item visible: median {statistics.median(took_ms):.0f} ms, most {max(took_ms):.0f} ms")
    _keep(page, "vote_widget")


def test_a_press_on_a_page_that_nobody_has_looked_at_is_no_vote(
    open_study: Callable[..., Any], lab: tuple[str, Path]
) -> None:
    page, folder = open_study("quick", n=8), lab[1]
    for done, second in enumerate(("ArrowRight", "right", "s", "u"), 1):
        _ready(page)
        page.evaluate(QUICK, ["ArrowLeft", second])
        _ready(page)  # an answer that went out would be committed by then
        assert [vote.answer for vote in _votes(folder, "quick", every=True)] == ["left"] * done, second
    page.locator("[data-answer=tie]").focus()
    _does(page, lambda: page.keyboard.down("Enter"))
    _ready(page)
    page.keyboard.down("Enter")  # the second time is a repeat: the key is held
    page.keyboard.up("Enter")
    _does(page, lambda: page.keyboard.press("Enter"))
    assert [vote.answer for vote in _votes(folder, "quick", every=True)] == ["left"] * 4 + ["tie"] * 2


def test_by_mouse_and_nothing_tells_who_made_what(open_study: Callable[..., Any], lab: tuple[str, Path]) -> None:
    page, folder = open_study("mouse", n=5, pictures=True), lab[1]
    for answer in ("left", "tie", "both_bad", "right"):
        _does(page, lambda answer=answer: page.locator(f"[data-answer={answer}]").click())
    _does(page, lambda: page.get_by_role("button", name="Undo").click())
    _does(page, lambda: page.get_by_role("button", name="Skip").click())
    page.locator(".kv-picture").first.click()
    page.locator(".kv-zoom").get_by_role("button", name="Close").click()
    _does(page, lambda: page.locator("[data-answer=right]").click())
    page.locator(".kit-vote[data-status=finished]").wait_for()
    assert [vote.answer for vote in _votes(folder, "mouse")] == ["left", "tie", "both_bad", "skip", "right"]
    told = page.locator(".kit-vote").evaluate("(node) => node.outerHTML")
    heard = b"".join(page.frames_heard)
    state = page.evaluate("""async () => {
        const panel = window.jupyterapp.shell.currentWidget;
        await window.jupyterapp.commands.execute('docmanager:save');
        return JSON.stringify(panel.context.model.toJSON());
    }""")
    assert b"kit-vote" in heard
    assert heard.count(b"\x89PNG") >= 10, "the pictures did not come through here"
    for where in (told.encode(), heard, state.encode()):
        assert b"secret" not in where


def test_a_restarted_kernel_goes_on_where_it_stood(
    open_study: Callable[..., Any], lab: tuple[str, Path], kernel_idle: Callable[..., None]
) -> None:
    page, folder = open_study("restart", n=8), lab[1]
    page.locator(".kit-vote").focus()
    for key in ("ArrowLeft", "ArrowRight"):
        _does(page, lambda key=key: page.keyboard.press(key))
    shown = page.locator(".kv-cards").text_content()
    page.evaluate(RESTART)
    kernel_idle(page)
    page.locator(".kit-vote").focus()
    _ready(page)
    page.keyboard.press("ArrowDown")  # nobody hears it: the browser keeps it
    page.evaluate(RUN)
    page.wait_for_function(
        "() => document.querySelector('.kv-count')?.textContent.startsWith('3 of 8')", timeout=60_000
    )
    assert [vote.answer for vote in _votes(folder, "restart")] == ["left", "right", "tie"]
    assert page.locator(".kv-cards").text_content() != shown
    page.reload()  # a page that is loaded anew shows the same kernel's widget or none; the sitting is in the store
    kernel_idle(page)
    page.evaluate(RUN)
    page.locator(".kit-vote .kv-question").wait_for(timeout=60_000)
    page.locator(".kit-vote").focus()
    while page.locator(".kit-vote[data-status=asking]").count():
        _does(page, lambda: page.keyboard.press("ArrowLeft"))
    tasks = [vote.task.key for vote in _votes(folder, "restart")]
    assert sorted(tasks) == sorted({task.key for task in tasks_of(read_study(folder / "restart.yaml"), "ana")})


def test_two_widgets_never_show_the_same_pair(open_study: Callable[..., Any], lab: tuple[str, Path]) -> None:
    page, folder = open_study("two", n=8, widgets=2), lab[1]
    roots = [page.locator(".kit-vote").nth(number) for number in range(2)]
    for turn in range(12):
        shown = [root.locator(".kv-cards").text_content() for root in roots if root.locator(".kv-cards").count()]
        assert len(set(shown)) == len(shown)
        root = roots[turn % 2]
        # What one window asks another may have taken meanwhile, and the kernel has both to serve.
        page.wait_for_function(SETTLED, arg=root.element_handle(), timeout=60_000)
        if root.get_attribute("data-status") == "asking":
            before = root.locator(".kv-body").text_content()
            root.focus()
            page.keyboard.press("ArrowRight")
            page.wait_for_function(
                "([node, old]) => node.querySelector('.kv-body').textContent !== old",
                arg=[root.element_handle(), before], timeout=60_000,
            )  # fmt: skip
    tasks = [vote.task.key for vote in _votes(folder, "two")]
    assert len(tasks) == len(set(tasks)) == 8


def test_a_database_that_goes_away_keeps_the_vote_and_says_so(
    open_study: Callable[..., Any], lab: tuple[str, Path]
) -> None:
    page, folder = open_study("away", n=4), lab[1]
    file = sqlite3.connect(folder / "away.db", isolation_level=None)
    page.locator(".kit-vote").focus()
    shown = page.locator(".kv-cards").text_content()
    file.execute("ALTER TABLE kit_votes RENAME TO gone")
    _ready(page)
    page.keyboard.press("ArrowRight")
    page.locator(".kv-status[data-kind=warn]").wait_for(timeout=60_000)
    assert "Your answer is kept and will be sent again" in str(page.locator(".kv-status").text_content())
    assert page.locator(".kv-cards").text_content() == shown
    file.execute("ALTER TABLE gone RENAME TO kit_votes")
    file.close()
    page.wait_for_function("() => document.querySelector('.kv-count').textContent.startsWith('1 of 4')", timeout=60_000)
    assert [vote.answer for vote in _votes(folder, "away")] == ["right"]


def test_points_by_a_rubric_by_keys_and_by_mouse(open_study: Callable[..., Any], lab: tuple[str, Path]) -> None:
    page, folder = open_study("rubric", n=2, design="likert", rubric={"clear": ["no", "so", "yes"], "true": 2}), lab[1]
    page.locator(".kit-vote").focus()
    _ready(page)
    for key in ("3", "Enter", "9", "1"):  # Enter is too early, and there is no ninth point
        page.keyboard.press(key)
    assert page.locator(".kv-count").text_content() == "0 of 4"
    _does(page, lambda: page.keyboard.press("Enter"))
    page.get_by_role("radio", name="so").check()
    page.locator("fieldset").nth(1).get_by_role("radio", name="2").check()
    _does(page, lambda: page.get_by_role("button", name="Send").click())
    said = [json.loads(vote.answer) for vote in _votes(folder, "rubric")]
    assert said == [{"clear": 3, "true": 1}, {"clear": 2, "true": 2}]


def test_a_ranking_by_keys_and_by_mouse(open_study: Callable[..., Any], lab: tuple[str, Path]) -> None:
    page, folder = open_study("ranking", n=3, design="best_of"), lab[1]
    page.locator(".kit-vote").focus()
    _ready(page)
    for key in ("1", "Backspace", "2"):
        page.keyboard.press(key)
    _does(page, lambda: page.keyboard.press("Enter"))
    page.get_by_role("button", name="Choose as best").first.click()
    _does(page, lambda: page.get_by_role("button", name="Send").click())
    _does(page, lambda: page.keyboard.press("s"))
    assert [vote.answer for vote in _votes(folder, "ranking")] == ["[1, 0]", "[0, 1]", "skip"]


def test_it_is_usable_at_375_pixels(open_study: Callable[..., Any], lab: tuple[str, Path]) -> None:
    page = open_study("narrow", n=4, width=375)
    root = page.locator(".kit-vote")
    wide = root.evaluate("(node) => [node.scrollWidth, node.clientWidth, node.getBoundingClientRect().right]")
    assert wide[0] <= wide[1]
    assert wide[2] <= 375
    for button in page.locator("[data-answer]").all():
        box = button.bounding_box()
        assert box["height"] >= 44
        assert box["width"] >= 44
    cards = [card.bounding_box() for card in page.locator(".kv-card").all()]
    assert cards[0]["x"] == cards[1]["x"], "texts go one below the other"
    assert page.get_by_role("button", name="First is better").count() == 1
    _does(page, lambda: page.get_by_role("button", name="Second is better").click())
    assert [vote.answer for vote in _votes(lab[1], "narrow")] == ["right"]
    _keep(page, "vote_widget_375")


def test_it_follows_the_theme_and_keeps_the_focus_in_order(open_study: Callable[..., Any]) -> None:
    page = open_study("theme", n=4)
    for theme, name in (("JupyterLab Dark", "dark"), ("JupyterLab Light", "light")):
        page.evaluate("(theme) => window.jupyterapp.commands.execute('apputils:change-theme', { theme })", theme)
        page.locator(f".kit-vote[data-theme={name}]").wait_for(timeout=60_000)
        if name == "dark":
            _keep(page, "vote_widget_dark")
    page.locator(".kit-vote").focus()
    order = []
    for _ in range(8):
        page.keyboard.press("Tab")
        order.append(page.evaluate("() => document.activeElement.dataset.answer || document.activeElement.ariaLabel"
                                   " || document.activeElement.textContent"))  # fmt: skip
    assert order == ["What was asked", "Left answer", "Right answer", "left", "tie", "both_bad", "right", "UndoU"]
    page.locator("[data-answer=tie]").focus()
    _does(page, lambda: page.keyboard.press("Enter"))
    assert page.evaluate("() => document.activeElement.dataset.answer") == "tie", "the focus stays on the button"
    assert "Number 2 of 4" in str(page.locator("[role=status]").text_content())

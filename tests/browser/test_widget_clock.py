"""The voting widget in a bare page, with a clock that the test moves: what no busy machine may break."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from kit.humaneval.widget import VoteWidget

pytestmark = pytest.mark.browser

# Stands where the kernel stands: it says what it is told to say, and keeps what it hears.
KERNEL = """
const heard = [], model = {
    on: (_, hear) => { model.hear = hear; }, off: () => {},
    send: (message) => heard.push(message),
};
const say = (message, buffers = []) => model.hear(message, buffers);
const form = () => say({ kind: 'form', sitting: 'one', question: 'Which?', design: 'pairwise', rubric: [] });
const page = (token, part, buffers) => say({ kind: 'page', token, prompt: [], answers: [part, part] }, buffers);
const state = (token) => say({
    kind: 'state', uuid: '', status: 'asking', token, done: 0, left: 3, left_s: null, decision: '', message: '',
    last: '',
});
"""
BEGIN = "; widget.render({ model, el: document.body }); form();"
TEXT = "page('one', { kind: 'text', text: 'words' }, []); state('one');"
PICTURE = "page('one', { kind: 'picture', type: 'image/png', buffer: 0 }, [new Uint8Array([1])]); state('one');"


@pytest.fixture
def bare(browser: Any) -> Iterator[Any]:
    """Yield a function that runs the widget in an empty page after some script, and returns the page."""
    module = re.sub(r"export default", "const widget =", VoteWidget._esm)
    opened = browser.new_page()

    def run(before: str, after: str) -> Any:
        opened.goto("about:blank")
        opened.add_script_tag(content=f"{before}{module}{KERNEL}{BEGIN}{after}")
        return opened

    yield run
    opened.close()


def test_a_clock_that_moves_between_two_looks_does_not_leave_it_deaf(bare: Any) -> None:
    # Each look at the clock finds it 100 ms further: a guard of 180 ms is up at one look and down at the next but one.
    page = bare("let looks = 0; performance.now = () => 100 * ++looks;", TEXT)
    page.locator(".kit-vote[data-ready]").wait_for(timeout=60_000)
    page.locator(".kit-vote").focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("() => heard.filter((one) => one.kind === 'answer').map((one) => one.answer)") == ["left"]


FRAMES = """let now_ms = 0; const frames = [];
performance.now = () => now_ms;
window.requestAnimationFrame = (paint) => frames.push(paint);
const painted = (place) => { frames[place](); return new Promise((done) => setTimeout(done, 1)); };
"""
TWO = "page('two', { kind: 'text', text: 'other words' }, []);"


def test_a_frame_that_comes_late_leaves_the_next_page_its_own_times(bare: Any) -> None:
    page = bare(FRAMES, TEXT + TWO)
    page.evaluate("() => { now_ms = 1000; }")
    page.locator(".kit-vote[data-ready]").wait_for(timeout=60_000)
    page.locator(".kit-vote").press("ArrowLeft")
    page.evaluate(
        """async () => {
            now_ms = 2000;
            state('two'); // placed before the first page's frame was painted
            await painted(0);
            now_ms = 2500;
            await painted(1);
        }"""
    )
    took_ms = page.evaluate("() => performance.getEntriesByName('kit-vote-next').map((one) => one.duration)")
    assert took_ms == [1500]


def test_a_picture_that_the_browser_never_decodes_is_shown_all_the_same(bare: Any) -> None:
    page = bare("HTMLImageElement.prototype.decode = () => new Promise(() => {});", PICTURE)
    page.locator(".kit-vote[data-ready]").wait_for(timeout=60_000)
    assert page.locator(".kv-card img").count() == 2

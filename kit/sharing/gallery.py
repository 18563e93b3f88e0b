"""Pictures of what kit shows, for a README: a bundle's page on a desk and on a phone, and a report."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kit.adapters.bundle import Bundle
from kit.errors import RunError

DESK = {"viewport": {"width": 1100, "height": 760}}
PHONE = {"viewport": {"width": 375, "height": 760}, "device_scale_factor": 2}
REPORT = {"viewport": {"width": 1100, "height": 1180}}
WORDS = "a hot drink"
SAID = "[...document.querySelectorAll('#chat .bot')].map((one) => one.innerText.trim()).join(' ').trim()"


@contextmanager
def chromium() -> Iterator[Any]:
    """Open a headless Chromium, and close it.

    Raises:
        RunError: Chromium or playwright is missing.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise RunError.of("chromium", "is missing, and takes the pictures", "apt-get install chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise RunError.of("playwright", "is missing, and takes the pictures", "pip install playwright") from error
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        try:
            yield browser
        finally:
            browser.close()


def page_pictures(bundle: Bundle | Path | str, to: Path, name: str, *, words: str = WORDS) -> list[Path]:
    """Serve a bundle's page, use it, and take its picture on a desk and on a phone.

    Args:
        bundle: The bundle or its folder.
        to: The folder for ``NAME.png`` and ``NAME-phone.png``.
        name: How the files' names begin.
        words: What a dual encoder is asked for; a vision-language model answers its first example.

    Returns:
        The files.

    Raises:
        RunError: Chromium or playwright is missing.
        KitError: see ``kit.sharing.demo.demo``.
    """
    from kit.sharing.demo import demo

    to.mkdir(parents=True, exist_ok=True)
    files = []
    with chromium() as browser:
        served = demo(bundle, port=0)
        try:
            for ending, options in (("", DESK), ("-phone", PHONE)):
                page = browser.new_page(color_scheme="light", **options)
                page.goto(f"{served.address}/?__theme=light")
                page.wait_for_selector("#title h1")
                _use(page, words)
                files.append(to / f"{name}{ending}.png")
                page.screenshot(path=files[-1])
                page.close()
        finally:
            served.close()
    return files


def _use(page: Any, words: str) -> None:
    page.wait_for_selector("#words, #question")  # the tabs come after the title
    if page.locator("#words").count():
        page.fill("#words textarea, #words input", words)
        page.keyboard.press("Enter")
        _wait(page)
        while page.locator("#about").get_by_text("so far").count():  # the page answers before all pictures are read
            page.wait_for_timeout(1000)
            page.keyboard.press("Enter")
            _wait(page)
        return
    page.locator("#tries tbody tr").first.click()
    page.wait_for_function(SAID)  # a bubble without words is there before the model is asked
    said = ""
    while said != page.evaluate(SAID):
        said = page.evaluate(SAID)
        page.wait_for_timeout(2000)
    page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")


def _wait(page: Any) -> None:
    page.wait_for_selector(".kit-found img")
    page.wait_for_timeout(500)
    page.wait_for_function("[...document.querySelectorAll('.kit-found img')].every(one => one.naturalWidth > 0)")


def report_picture(report: Path, to: Path) -> Path:
    """Take the picture of a report's beginning, and return the file ``report.png``.

    Raises:
        RunError: Chromium or playwright is missing.
    """
    to.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        page = browser.new_page(color_scheme="light", **REPORT)
        page.goto(report.absolute().as_uri())
        page.screenshot(path=to / "report.png")
    return to / "report.png"

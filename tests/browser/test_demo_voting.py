"""A vote in Chromium: no names before it, one row however often it is pressed, and then the next question."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from free_ports import free_port
from small_bundles import clip_bundle, seeing_bundle

from kit.sharing.demo import Demo, demo

pytestmark = pytest.mark.browser
PHONE = {"width": 375, "height": 740}


def votes(folder: Path) -> list[tuple[str, str]]:
    with sqlite3.connect(folder / "votes.db") as database:
        return database.execute("SELECT uuid, answer FROM kit_votes ORDER BY seq").fetchall()


def opened(browser: Any, served: Demo) -> Any:
    page = browser.new_page(viewport=PHONE)
    page.goto(served.address)
    page.wait_for_selector("#kept")
    return page


def test_answers_are_voted_on(browser: Any, tmp_path: Path) -> None:
    served = demo(seeing_bundle(tmp_path), port=free_port(), device="cpu", votes=tmp_path / "votes")
    try:
        page = opened(browser, served)
        assert "of your picture only a number" in page.locator("#kept").inner_text()
        for number, answer in enumerate(("left", "both_bad")):
            page.fill("#question-vote textarea, #question-vote input", f"what is number {number}?")
            page.click("#go-vote")
            page.wait_for_selector("#ballot", state="visible", timeout=60_000)
            assert page.locator("#vote-left textarea").input_value()
            assert "adapter off" not in page.locator("#vote").inner_text(), "it tells whose they are"
            page.locator(f"#is-{answer}").dblclick()
            page.wait_for_selector("#verdict:has-text('Counted')")
            assert "adapter off" in page.locator("#verdict").inner_text()
            page.wait_for_selector("#ballot", state="hidden")
            page.wait_for_function("!document.querySelector('#go-vote').disabled")
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        page.close()
    finally:
        served.close()
    assert [answer for _, answer in votes(tmp_path / "votes")] == ["left", "both_bad"]
    assert all(uuid[14] == "4" for uuid, _ in votes(tmp_path / "votes")), "no UUID of version 4"


def test_pictures_are_voted_on(browser: Any, tmp_path: Path) -> None:
    bundles = [clip_bundle(tmp_path, name=f"Number {seed}", seed=seed) for seed in (0, 3)]
    served = demo(*bundles, port=free_port(), votes=tmp_path / "votes")
    try:
        page = opened(browser, served)
        page.fill("#words textarea, #words input", "a red thing")
        page.keyboard.press("Enter")
        page.wait_for_selector("#ballot", state="visible", timeout=60_000)
        assert page.locator(".kit-found").count() == 2
        page.wait_for_function("[...document.querySelectorAll('.kit-found img')].every(one => one.naturalWidth > 0)")
        assert "Number" not in page.locator("#vote").inner_text()
        page.click("#is-tie")
        page.wait_for_selector("#verdict:has-text('Number 3')")
        page.close()
    finally:
        served.close()
    assert [answer for _, answer in votes(tmp_path / "votes")] == ["tie"]

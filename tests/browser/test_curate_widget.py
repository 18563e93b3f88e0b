"""Keeping and dropping as a person does it: real JupyterLab, real Chromium, by mouse and by keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from kit.data.curation import Curation

pytestmark = pytest.mark.browser

RUN = "async () => await window.jupyterapp.commands.execute('notebook:run-all-cells')"
CELL = """from pathlib import Path
from PIL import Image
from kit.data.curation import Curation, Decision
from kit.data.picture import Picture
from kit.data.rows import ImageText, Rows
from kit.humaneval.curating import look_through
rows = Rows(tuple(ImageText(f"r{n}", Picture.at(Path(f"noise-{n}.png")), f"text {n}") for n in range(5)))
curation = Curation.of(rows, "curation.jsonl")
curation.record([Decision(f"r{n}", "drop", "near duplicate", f"cosine 0.9{n} to r9", 0.9 + n / 100) for n in range(5)])
look_through(rows, curation, by="ana", page_size=3)"""


def test_rows_are_kept_and_dropped_by_mouse_and_keys(lab, browser, kernel_idle):
    address, folder = lab
    for number in range(5):
        Image.effect_noise((80, 60), 40 + number).save(folder / f"noise-{number}.png")
    cell = {"cell_type": "code", "id": "c", "metadata": {}, "outputs": [], "execution_count": None, "source": CELL}
    spec = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (folder / "curate.ipynb").write_text(
        json.dumps({"cells": [cell], "metadata": spec, "nbformat": 4, "nbformat_minor": 5})
    )
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error.stack)))
    page.goto(address.format("curate.ipynb") + "&reset")
    kernel_idle(page)
    page.evaluate(RUN)
    card = page.locator(".kc-card")
    card.nth(2).wait_for(timeout=60_000)
    assert page.locator(".kc-count").inner_text() == "0 kept, 5 dropped of 5"
    assert page.locator(".kc-card img").first.evaluate("(one) => one.decode().then(() => one.naturalWidth)") == 80
    card.nth(0).get_by_role("button", name="Keep").click()
    page.locator('.kc-card[data-row="r0"][data-verdict="keep"]').wait_for()
    card.nth(0).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("k")
    page.locator('.kc-card[data-row="r1"][data-verdict="keep"]').wait_for()
    page.keyboard.press("u")
    page.locator('.kc-card[data-row="r1"][data-verdict="drop"]').wait_for()
    page.get_by_role("button", name="Next").click()
    page.locator('.kc-card[data-row="r4"]').wait_for()
    assert page.locator(".kc-where").inner_text() == "2 of 2"
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.close()
    assert not [fault for fault in faults if "blob:" in fault]
    again = Curation(tuple(f"r{n}" for n in range(5)), Path(folder / "curation.jsonl"))
    assert again.dropped() == ("r1", "r2", "r3", "r4")
    assert [one.by for one in again.decisions if one.check == "person"] == ["ana"] * 3

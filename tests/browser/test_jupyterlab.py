"""A notebook as a person meets it: opened and run in real JupyterLab, in real Chromium."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.weights]

ANSWERED = """(old) => {
    const shown = [...document.querySelectorAll('.widget-interact img')].at(-1)?.src;
    return Boolean(shown) && shown !== old;
}"""
RUN = "async () => await window.jupyterapp.commands.execute('notebook:run-all-cells')"


def _copy(source: Path, target: Path, values: dict[str, object]) -> None:
    """Write a notebook with other parameters, as somebody would who edits the cell."""
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    notebook = parameterize_notebook(load_notebook_node(str(source)), values)
    target.write_text(json.dumps(notebook))


def test_the_tour_runs_cell_by_cell(
    lab: tuple[str, Path], root: Path, browser: Any, kernel_idle: Callable[..., None]
) -> None:
    address, folder = lab
    _copy(root / "notebooks" / "00_start_here.ipynb", folder / "tour.ipynb", {"limit": 32, "epochs": 2})
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.goto(address.format("tour.ipynb"))
    kernel_idle(page)
    page.evaluate(RUN)
    kernel_idle(page, limit_s=120)
    # A kernel that has not begun yet is idle too, so this waits for the whole run, on a busy machine a minute or two.
    page.get_by_text("en_recall_at_5").last.wait_for(timeout=180_000)
    said = page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts()
    lines = [line for text in said for line in text.splitlines() if line.strip()]
    # torchao and bitsandbytes, which the tests of quantisation bring along, speak when others import them.
    others = ("torch/utils/_pytree.py", "kernels-community")
    assert [line for line in lines if not any(other in line for other in others)] == []
    box = page.locator(".widget-text input").last  # the search box answers when words are typed
    box.scroll_into_view_if_needed()
    before = page.locator(".jp-OutputArea img").count()
    assert before >= 2, "the figures are not there"
    first = page.locator(".widget-interact img").last.get_attribute("src")
    box.fill("a musical instrument")
    box.press("Enter")
    page.wait_for_function(ANSWERED, arg=first, timeout=60_000)
    page.screenshot(path=str(folder / "tour.png"))
    if keep := os.environ.get("KIT_KEEP_SCREENSHOTS"):
        (Path(keep) / "tour.png").write_bytes((folder / "tour.png").read_bytes())

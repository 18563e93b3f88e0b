"""Several runs as one page: what each measured, in what they differ, their figures, and nothing from the web."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from kit.errors import RunError
from kit.runner.history import history
from kit.runner.library import find
from kit.runner.plan import make_plan
from kit.runner.run import run
from kit.runner.runs_report import write_runs_report


class Page(HTMLParser):
    """The tags of a page with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_runs_side_by_side(notebooks: Path, tmp_path: Path) -> None:
    recipe, pictures = find(str(notebooks / "result.ipynb")), find(str(notebooks / "pictures.ipynb"))
    for value in (0.25, 0.75):
        run(make_plan(recipe, target="result.ipynb", given={"value": value}), out=tmp_path / "runs")
    run(make_plan(pictures, target="pictures.ipynb"), out=tmp_path / "runs")
    page = write_runs_report(history(tmp_path / "runs"), tmp_path / "pages" / "all.html")
    text = page.read_text()
    tags = Page(text).tags
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert len(links) == 3
    assert all((page.parent / str(link)).resolve().is_file() for link in links)
    assert re.search(r"value <span class=.quiet.>parameter</span></th>.*?0\.75.*?0\.25", text, re.DOTALL)
    assert "<h3>recall_at_1</h3>" in text
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert images
    assert all(str(one["src"]).startswith("data:image/png") and one["alt"] for one in images)
    assert all(attributes.get("aria-label") for tag, attributes in tags if tag == "svg")
    assert all(attributes.get("scope") for tag, attributes in tags if tag == "th")
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text)
    with pytest.raises(RunError, match="no run to report on"):
        write_runs_report([], tmp_path / "none.html")


def test_by_command_runs_and_sweeps(notebooks: Path, kit: Callable[..., Any], tmp_path: Path) -> None:
    swept = kit("sweep", notebooks / "result.ipynb", "-p", "value=0.1,0.2", KIT_WARM="0")
    assert swept.returncode == 0, swept.stderr
    runs = history(tmp_path / "runs")
    assert kit("report").stdout.strip() == str(runs[0].path / "report.html")
    told = kit("report", *(one.digest for one in runs), "--html", "both.html")
    assert told.stdout.strip() == str(tmp_path / "both.html")
    (folder,) = (tmp_path / "runs" / "sweeps").iterdir()
    assert kit("report", folder).stdout.strip() == str(tmp_path / "runs" / "runs.html")
    title = "<h1>2 runs of result</h1>"
    assert title in (tmp_path / "both.html").read_text()
    assert title in (tmp_path / "runs" / "runs.html").read_text()
    assert "no such run" in kit("report", "result", "nothing").stderr

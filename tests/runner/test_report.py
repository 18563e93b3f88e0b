"""The report: complete, escaped, and silent on the network, in a real browser."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kit.runner.library import find
from kit.runner.plan import make_plan
from kit.runner.run import Run, run


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """A web server, and the list of what was asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"heard")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def done(path: Path, out: Path, price: float | None = None) -> Run:
    return run(make_plan(find(str(path)), target=str(path)), out=out, price_per_hour=price)


@pytest.mark.browser
def test_nothing_leaves_the_browser(
    notebooks: Path, tmp_path: Path, chromium: str, listener: tuple[str, list[str]], need: Callable[[bool, str], None]
) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is missing: pip install -e '.[test]'")
    address, asked = listener
    document = json.loads((notebooks / "pictures.ipynb").read_text())
    nasty = (
        f"<img src='{address}/img'><link rel=stylesheet href={address}/css><script src={address}/js></script>"
        f"<iframe src={address}/frame></iframe><style>body {{ background: url({address}/bg) }}</style>"
        f"<script>fetch('{address}/fetch'); document.title += '!'</script>"
    )
    show = {"cell_type": "code", "id": "nasty", "metadata": {}, "execution_count": None, "outputs": []}
    show["source"] = f"from IPython.display import HTML, display\n\ndisplay(HTML({nasty!r}))"
    document["cells"].append(show)
    notebook = tmp_path / "nasty.ipynb"
    notebook.write_text(json.dumps(document))
    report = done(notebook, tmp_path / "runs").path / "report.html"
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto(report.as_uri())
        page.wait_for_timeout(300)
        assert page.title().endswith("!")  # its scripts ran, and yet:
        assert asked == []
        assert page.locator("h1").first.inner_text() == "nasty"
        assert page.evaluate("document.documentElement.scrollWidth") == 390  # a phone scrolls one way only
        assert page.locator(".output_png img").count() == 1
        page.goto(f"{address}/the-listener-hears")
        browser.close()
    assert asked[0] == "/the-listener-hears"


def test_what_the_report_says(recipe: Callable[..., Path], tmp_path: Path) -> None:
    path = recipe(
        "notebook: {nb}/result.ipynb\nabout: <i>one</i> & two\n"
        "expect: {laptop: {recall_at_1: {at_least: 0.4}, other: {at_most: 1}}}\nbudget: {laptop: {wall_s: 0.01}}"
    )
    found = done(path, tmp_path / "runs", price=36.0)
    text = (found.path / "report.html").read_text()
    for wanted in (
        "&lt;i&gt;one&lt;/i&gt; &amp; two", "A note with &lt;b&gt;markup&lt;/b&gt;.", "1 of 2 claims failed", "✓ PASS",
        "✗ FAIL", "! over budget", "0.4 to 0.6, 95%; baseline 0.25", f"kit run {path}", found.record["digest"],
        f"{found.record['wall_s'] / 100:.4f}", "at 36 an hour",
    ):  # fmt: skip
        assert wanted in text, wanted
    for forbidden in ("https://cdn", "require.js", "mathjax", "jquery", "unpkg"):
        assert forbidden not in text.lower(), forbidden


def test_an_inputs_licence_and_attribution_are_printed(notebooks: Path, tmp_path: Path) -> None:
    from kit.runner.report import render

    found = done(notebooks / "simple.ipynb", tmp_path)
    given = make_plan(find(str(notebooks / "uses_part.ipynb")), target="n").inputs
    record = {**found.record, "inputs": [vars(one) for one in given]}
    text = render(found.path / "executed.ipynb", record, None)
    assert "CC-BY-SA-4.0" in text
    assert "OpenMoji" in text
    assert given[0].digest[:12] in text

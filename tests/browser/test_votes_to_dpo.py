"""The loop from votes to a child as a person goes through it: cell by cell in JupyterLab, voting in its widgets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.humaneval.store import Store
from kit.result import MIME, Result

# Half a minute and more of a whole notebook, so among the long ones.
pytestmark = [pytest.mark.browser, pytest.mark.weights, pytest.mark.soak]

STUDIES = ("candidates-0", "parent-or-child-0")
RUN = """async ([first, last]) => {
    const {commands, shell} = window.jupyterapp;
    for (let place = first; place < last; place++) {
        shell.currentWidget.content.activeCellIndex = place;
        await commands.execute('notebook:run-cell');
    }
    await commands.execute('docmanager:save');
}"""


def _voted(cell: Any) -> int:
    """Vote on everything that the widget in a cell asks, by keys, and return how often."""
    page, widget, count = cell.page, cell.locator(".kit-vote"), 0
    widget.locator(".kv-question").wait_for(timeout=60_000)
    widget.scroll_into_view_if_needed()
    widget.focus()
    root = widget.element_handle()
    while True:
        # A press right after a page was put in place is ignored.
        page.wait_for_function("root => root.hasAttribute('data-ready') || root.dataset.status !== 'asking'", arg=root)
        if widget.get_attribute("data-status") != "asking":
            return count
        before = widget.locator(".kv-count").text_content()
        page.keyboard.press(("ArrowLeft", "ArrowRight")[count % 2])
        moved = "([root, before]) => root.querySelector('.kv-count').textContent !== before"
        page.wait_for_function(moved, arg=[root, before])
        count += 1


def test_a_person_s_votes_become_preference_rows_and_judge_the_child(
    lab: tuple[str, Path], root: Path, browser: Any, kernel_idle: Callable[..., None]
) -> None:
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    address, folder = lab
    smoke = yaml.safe_load((root / "recipes" / "votes-to-dpo.yaml").read_text())["sizes"]["smoke"]
    source = load_notebook_node(str(root / "notebooks" / "08_votes_to_dpo.ipynb"))
    notebook = parameterize_notebook(source, smoke | {"raters": "ana"})
    path = folder / "votes.ipynb"
    path.write_text(json.dumps(notebook))
    sources = [cell.source for cell in notebook.cells]
    polls = [place for place, source in enumerate(sources) if "put_to_vote(" in source]
    assert len(polls) == 2, "candidates, and parent against child"
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.goto(address.format("votes.ipynb"))
    kernel_idle(page)
    count, first = [], 0
    for place in polls:
        page.evaluate(RUN, [first, place + 1])
        count.append(_voted(page.locator(".jp-Notebook .jp-Cell").filter(has=page.locator(".kit-vote")).last))
        first = place + 1
    page.evaluate(RUN, [first, len(sources)])
    cells = json.loads(path.read_text())["cells"]
    errors = [out for cell in cells for out in cell.get("outputs", ()) if out["output_type"] == "error"]
    assert not errors, errors
    (found,) = [out["data"][MIME] for cell in cells for out in cell.get("outputs", ()) if MIME in out.get("data", {})]
    result = Result.from_json(found)
    assert "People voted." in result.notes
    assert result.measurements["child_wins_0"].method.startswith("votes by item")
    with Store(str(next(folder.rglob("votes.db")))) as store:
        # A pair of equal answers is a tie that nobody is shown, in a row of its own.
        votes = {name: [vote for vote in store.votes(name) if vote.kind != "identical"] for name in STUDIES}
    assert [len(own) for own in votes.values()] == count
    assert min(count) > 3, "hardly anything was asked"
    assert result.measurements["votes_missing"].value == 0
    assert {vote.rater for own in votes.values() for vote in own} == {"ana"}
    assert {vote.client for own in votes.values() for vote in own} == {"widget"}

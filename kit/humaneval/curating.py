"""A picture grid in a notebook in which a person keeps or drops rows; each click is one more decision of a curation."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import anywidget

from kit.data.curation import Curation
from kit.data.picture import Picture
from kit.errors import DataError, KitError

HERE = Path(__file__).parent
SCRIPTS = ("common.js", "widget_forms.js", "curating.js")
THUMB = 224  # pixels of the longer side
VERDICTS = ("keep", "drop", "undo")


class CurateWidget(anywidget.AnyWidget):
    """A window on a curation; made by ``look_through``.

    As with voting, what it shows goes to the browser in messages, so that a saved notebook holds no picture of it.

    Args:
        rows: What is looked at, each with ``id``, ``text`` and ``picture``.
        curation: Where decisions go.
        by: Who decides.
        page_size: Rows on a page.
    """

    _esm = "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    _css = (HERE / "curating.css").read_text(encoding="utf-8")

    def __init__(self, rows: Sequence[Any], curation: Curation, *, by: str, page_size: int) -> None:
        self._rows, self.curation, self.by, self._size = list(rows), curation, by, page_size
        self._ids = {row.id for row in self._rows}
        self.trouble: KitError | None = None
        super().__init__()
        self.on_msg(self._heard)

    @property
    def pages(self) -> int:
        """How many pages there are."""
        return max(1, -(-len(self._rows) // self._size))

    def _heard(self, _widget: object, said: Mapping[str, Any], _buffers: object) -> None:
        """Show a page, or record a decision; a fault is shown too, and kept in ``trouble``."""
        try:
            if said.get("kind") == "page":
                self._show(int(said.get("page", 0)))
            elif said.get("kind") == "decide":
                self._decide(str(said.get("row", "")), str(said.get("verdict", "")))
        except KitError as error:
            self.trouble = error
            self.send({"kind": "trouble", "message": str(error)})

    def _show(self, page: int) -> None:
        page = min(max(page, 0), self.pages - 1)
        shown = self._rows[page * self._size : (page + 1) * self._size]
        buffers = [_thumb(row.picture) for row in shown]
        cards = [{"row": row.id, "text": row.text, **self._standing(row.id)} for row in shown]
        place = {"page": page, "pages": self.pages, "total": len(self._rows)}
        self.send({"kind": "page", "cards": cards, "counts": self._counts(), **place}, buffers)

    def _decide(self, row: str, verdict: str) -> None:
        if row not in self._ids or verdict not in VERDICTS:
            raise DataError.of("decide", f"{verdict!r} about {row!r} is none of this window's")
        if verdict == "undo":
            self.curation.undo(row=row, by=self.by)
        elif verdict == "keep":
            self.curation.keep(row, by=self.by)
        else:
            self.curation.drop(row, by=self.by)
        self.send({"kind": "decided", "row": row, "counts": self._counts(), **self._standing(row)})

    def _standing(self, row: str) -> dict[str, Any]:
        standing = self.curation.standing(row)
        people = [one for one in standing if one.check == "person"]
        verdict = people[-1].verdict if people else "drop" if standing else "keep"
        reasons = [f"{one.check}: {one.reason}" for one in standing if one.check != "person"]
        return {"verdict": verdict, "person": people[-1].by if people else "", "reasons": reasons}

    def _counts(self) -> dict[str, int]:
        dropped = sum(self._standing(row)["verdict"] == "drop" for row in self._ids)
        return {"drop": dropped, "keep": len(self._ids) - dropped}


def look_through(
    rows: Sequence[Any], curation: Curation, *, by: str, check: str = "", page_size: int = 12
) -> CurateWidget:
    """Return a widget that shows rows with the reasons against them, to keep or drop, by mouse or by keys.

    Args:
        rows: The rows that the curation is about.
        curation: The decisions so far, and where new ones go.
        by: Who decides; every click is recorded under this name.
        check: Show the rows that this check drops, the closest call first; "" for all that any check drops.
        page_size: Rows on a page, at least 1.

    Raises:
        DataError: nobody is named, no row is dropped so, or one that was not decided about.
    """
    if not by.strip():
        raise DataError.of("look_through", "who decides is not said", "give by=")
    if page_size < 1:
        raise DataError.of("page_size", f"must be at least 1, got {page_size}")
    found = []
    for row in rows:
        standing = [one for one in curation.standing(row.id) if one.check != "person" and check in {"", one.check}]
        if standing:
            scores = [abs(one.score) for one in standing if one.score is not None]
            found.append((-max(scores, default=0.0) if check else 0.0, row))
    if not found:
        what = f"drops none of these rows: {check!r}" if check else "no row is dropped by a check"
        raise DataError.of("look_through", what, f"checks so far: {', '.join(curation.counts()) or 'none'}")
    shown = [row for _, row in sorted(found, key=lambda one: one[0])]
    return CurateWidget(shown, curation, by=by.strip(), page_size=page_size)


def _thumb(picture: Picture | None) -> bytes:
    if picture is None:
        return b""
    image = picture.open()
    image.thumbnail((THUMB, THUMB))
    image.info.clear()  # a colour profile or a comment would travel along
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=3)
    return file.getvalue()

"""Voting in a notebook: JupyterLab, Notebook 7, Colab, VS Code and Binder, with ipywidgets 7.7 or 8."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import anywidget

from kit.errors import KitError, listed
from kit.humaneval.errors import StudyError
from kit.humaneval.live import LiveDecision
from kit.humaneval.media import Media
from kit.humaneval.pages import Page, State
from kit.humaneval.session import Session
from kit.humaneval.store import Store
from kit.humaneval.study import Study

HERE = Path(__file__).parent
SCRIPTS = ("common.js", "widget_forms.js", "widget.js")
TROUBLE = "This page cannot be shown. The widget's attribute 'trouble' says why; it may name what is compared."


class VoteWidget(anywidget.AnyWidget):
    """One window on a study; made by ``vote``.

    What it shows goes to the browser in messages, never as the widget's state, so that a saved notebook holds nothing
    of the study. The browser says ``hello`` when it can show something; nothing is handed out before.

    Args:
        study: A registered study.
        store: Where the votes go.
        rater: Who votes.
        holder: A name for this window, unique among the open ones; empty for one that a restarted kernel finds again.
        live: Says who is ahead; None to say nothing.
    """

    _esm = "\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    _css = (HERE / "widget.css").read_text(encoding="utf-8")
    _held: ClassVar[set[str]] = set()  # the names of this kernel's open windows

    def __init__(
        self, study: Study, store: Store, *, rater: str, holder: str = "", live: LiveDecision | None = None
    ) -> None:
        self.trouble: KitError | None = None
        self._asked = (study, store, rater, live)
        self._name = holder
        self._holder = ""
        self._session: Session | None = None
        self._views: dict[str, str] = {}
        super().__init__()
        self.on_msg(self._heard)

    @property
    def session(self) -> Session:
        """The sitting behind the window; it begins when the browser first asks for something."""
        if self._session is None:
            study, store, rater, live = self._asked
            self._holder = self._name or _free_holder(f"{study.digest}|{rater}", self._held)
            self._session = Session(study, store, rater=rater, holder=self._holder, live=live)
        return self._session

    def _heard(self, _widget: object, said: Mapping[str, Any], _buffers: object) -> None:
        """Do what the browser asks for, and answer with the state of the sitting."""
        try:
            state = self._done(said)
            if state is None:
                return
            self._tell(state, uuid=str(said.get("uuid", "")), whole=said.get("kind") in {"hello", "want"})
        except KitError as error:
            self.trouble = error
            self.send({"kind": "trouble", "message": TROUBLE, "uuid": said.get("uuid", "")})

    def _done(self, said: Mapping[str, Any]) -> State | None:
        kind, name = said.get("kind"), str(said.get("uuid", ""))
        if kind == "bye":
            self._left(str(said.get("view", "")))
            return None
        if kind == "hello":
            page = str(said.get("page", ""))
            here = {view for view, where in self._views.items() if where == page}  # a closed page says no good-bye
            self._views = dict.fromkeys((*here, str(said.get("view", ""))), page)
        if kind == "answer":
            return self.session.answer(str(said["token"]), said["answer"], uuid=name, ms=float(said.get("ms", 0)))
        if kind == "undo":
            return self.session.undo(uuid=name, undoes=str(said.get("undoes", "")))
        return self.session.retry() if kind == "retry" else self.session.state()

    def _tell(self, state: State, *, uuid: str, whole: bool) -> None:
        """Send the state at once, since the browser has the page already, and then what comes after it."""
        if whole:
            form = self.session.form
            rubric = [[name, list(labels)] for name, labels in form.rubric.items()]
            asked = {"question": form.question, "design": form.design, "rubric": rubric}
            study, _, rater, _ = self._asked
            sitting = hashlib.sha256(f"{study.digest}|{rater}|{self._holder}".encode()).hexdigest()[:16]
            self.send({"kind": "form", "sitting": sitting, **asked})
            self._send_page(state.page)
        self.send(_state_message(state, uuid=uuid))
        ahead = self.session.prefetch()
        self._send_page(ahead)
        if (decision := self.session.decision) != state.decision:
            self.send({"kind": "decision", "text": decision})

    def _send_page(self, page: Page | None) -> None:
        if page is None:
            return
        buffers: list[bytes] = []
        parts = {
            "prompt": [_part(one, buffers) for one in page.prompt],
            "answers": [_part(one, buffers) for one in page.answers],
        }
        self.send({"kind": "page", "token": page.token, **parts}, buffers)

    def _left(self, view: str) -> None:
        """Give back what is held when the last view of this window is gone."""
        self._views.pop(view, None)
        if not self._views and self._session is not None:
            self._session.release()
            self._held.discard(self._holder)
            self._session = None


def vote(
    study: Study, store: Store | str, *, rater: str | None = None, decision: bool = True, holder: str = ""
) -> VoteWidget:
    """Return a widget to vote with, by mouse or by keys; registers the study.

    Args:
        study: The study.
        store: Its store, or the URL of one.
        rater: Who votes; may be left out where the study has one rater.
        decision: Whether to show who is ahead, under letters.
        holder: A name for this window, unique among the open ones, where a kernel that is started anew does not keep
            its name; by default the kernel's own.

    Raises:
        StudyError: no such rater, or the study changed after its first vote.
        StoreError: the store cannot be opened.
    """
    if rater is None and len(study.raters) == 1:
        rater = study.raters[0]
    if rater not in study.raters:
        what = "who votes is not said" if rater is None else f"no such rater: {rater!r}"
        raise StudyError.of("vote", what, "give rater=", allowed=f"Raters: {listed(study.raters)}.")
    opened = Store(store) if isinstance(store, str) else store
    opened.register(study)
    live = LiveDecision(study, opened) if decision else None
    return VoteWidget(study, opened, rater=rater, holder=holder, live=live)


def _free_holder(what: str, held: set[str]) -> str:
    """Return the first name that no open window of this kernel has, the same again after the kernel was restarted."""
    number = 0
    while (name := hashlib.sha256(f"{_kernel()}|{what}|{number}".encode()).hexdigest()[:32]) in held:
        number += 1
    held.add(name)
    return name


def _kernel() -> str:
    """Return what a kernel keeps when it is restarted: its connection file; outside of kernels something random."""
    from ipykernel.connect import get_connection_file

    try:
        return str(get_connection_file())
    except RuntimeError:
        return str(uuid.uuid4())


def _part(media: Media, buffers: list[bytes]) -> dict[str, Any]:
    if media.kind == "text":
        return {"kind": "text", "text": media.text}
    buffers.append(media.content)
    return {"kind": media.kind, "type": media.media_type, "buffer": len(buffers) - 1}


def _state_message(state: State, *, uuid: str) -> dict[str, Any]:
    return {
        "kind": "state",
        "uuid": uuid,
        "status": state.status,
        "token": state.page.token if state.page is not None else "",
        "done": state.done,
        "left": state.left,
        "left_s": state.left_s,
        "decision": state.decision,
        "message": state.message,
        "last": state.last,
    }

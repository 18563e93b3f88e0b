"""Who ends an answer: it is over when the call returns, and nobody else's is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from kit.sharing.demo_ask import AskPage
from kit.sharing.turns import Turns


class _Endless:
    """Says a word every hundredth of a second."""

    name, turns, has_adapter = "it", False, False

    def __init__(self) -> None:
        self.said = 0
        self.closed = False

    def answer(self, *_given: object, **_options: object) -> Iterator[str]:
        try:
            while True:
                time.sleep(0.01)
                self.said += 1
                yield f"word {self.said}"
        finally:
            self.closed = True


def test_when_it_is_hushed_nothing_more_is_said() -> None:
    it = _Endless()
    page = AskPage([it])  # type: ignore[list-item]
    heard: list[object] = []
    listening = threading.Thread(target=lambda: heard.extend(page.talk(None, "what is it?", "it", [], "one")))
    listening.start()
    while it.said < 3:
        time.sleep(0.01)
    page.hush("two")
    page.hush("nobody")
    assert listening.is_alive(), "somebody else's answer was ended"
    page.hush("one")
    said = it.said
    assert it.closed, "the model still works"
    listening.join(5)
    assert not listening.is_alive()
    time.sleep(0.05)
    assert it.said == said
    assert len(heard) >= 3
    assert not page.turns._open, "it is remembered for ever"


def test_whoever_does_not_end_in_time_is_told() -> None:
    turns = Turns()
    with turns.turn("one") as unwanted, turns.turn("one") as also:
        assert not turns.end("one", patience_s=0.01)
        assert unwanted.is_set()
        assert also.is_set()
    assert turns.end("one", patience_s=0.01)
    with turns.turn("one") as fresh:
        assert not fresh.is_set()

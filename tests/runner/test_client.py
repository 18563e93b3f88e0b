"""A reply is found although nobody was told of it, and a wait ends when it should."""

from __future__ import annotations

import asyncio
import time
from queue import Empty

import pytest
import zmq
import zmq.asyncio
from jupyter_client.session import Session

from kit.runner.client import PatientChannel


async def answered(channel_class: type, *, sent: bool, timeout: float | None = None) -> str:
    """Send a message whose news is taken from the socket before the loop can hear of it, as a send on it does."""
    context, session = zmq.asyncio.Context(), Session(key=b"")
    ours, theirs = context.socket(zmq.PAIR), zmq.Context.shadow(context.underlying).socket(zmq.PAIR)
    try:
        theirs.connect(f"tcp://127.0.0.1:{ours.bind_to_random_port('tcp://127.0.0.1')}")
        waiting = asyncio.create_task(channel_class(ours, session).get_msg(timeout=timeout))
        await asyncio.sleep(0.2)
        if sent:
            session.send(theirs, "execute_reply")
            time.sleep(0.2)
            zmq.Socket.shadow(ours.underlying).get(zmq.EVENTS)
        return str((await asyncio.wait_for(waiting, 10))["header"]["msg_type"])
    finally:
        ours.close(0)
        theirs.close(0)


def test_a_message_is_found_although_its_news_was_lost() -> None:
    assert asyncio.run(answered(PatientChannel, sent=True)) == "execute_reply"


def test_a_wait_ends_when_it_should() -> None:
    began_s = time.monotonic()
    with pytest.raises(Empty):
        asyncio.run(answered(PatientChannel, sent=False, timeout=1.5))
    assert 1.4 < time.monotonic() - began_s < 8

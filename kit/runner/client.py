"""A kernel client that no lost wake-up can leave waiting for ever, and a manager that closes what it gave out."""

from __future__ import annotations

import subprocess
import time
from contextlib import suppress
from queue import Empty
from typing import Any

from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.manager import AsyncKernelManager
from traitlets import Type

# zmq tells once that a socket has news, and forgets it when the socket is used in between. nbclient answers widgets on
# the socket on which it waits for a cell's reply, so that a reply coming just then was never noticed: of ten runs of a
# notebook with a widget, beside two others on two cores, two waited for ever (github.com/jupyter/nbclient/issues/312).
LOOK_AGAIN_S = 1.0


class PatientChannel(AsyncZMQSocketChannel):  # type: ignore[misc]
    """A channel that looks itself for messages now and then, and does not only wait to be told."""

    async def get_msg(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the next message.

        Args:
            timeout: Seconds to wait for it; None for as long as it takes.

        Raises:
            Empty: none came in time.
        """
        end_s = None if timeout is None else time.monotonic() + timeout
        while True:
            left_s = LOOK_AGAIN_S if end_s is None else min(LOOK_AGAIN_S, max(0.0, end_s - time.monotonic()))
            try:
                found: dict[str, Any] = await super().get_msg(timeout=left_s)
            except Empty:
                if end_s is not None and time.monotonic() >= end_s:
                    raise
            else:
                return found


class PatientClient(AsyncKernelClient):  # type: ignore[misc]
    """jupyter_client's own, on such channels."""

    shell_channel_class = Type(PatientChannel)
    iopub_channel_class = Type(PatientChannel)
    control_channel_class = Type(PatientChannel)


class ClosingManager(AsyncKernelManager):  # type: ignore[misc]
    """jupyter_client's own, with such clients, which it closes with itself.

    nbclient leaves a client open where it was given the manager: a dozen file descriptors for each notebook.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(client_factory=PatientClient, **settings)
        self._given: list[Any] = []

    def client(self, **settings: Any) -> Any:
        """Return a client of this kernel, see jupyter_client."""
        self._given.append(super().client(**settings))
        return self._given[-1]

    def close(self) -> None:
        """Close every client and every socket of a kernel that has ended, well or not."""
        process = getattr(self.provisioner, "process", None)
        if process is not None:
            with suppress(TimeoutError, subprocess.TimeoutExpired):
                process.wait(timeout=5)  # a forked kernel's link closes when its end was heard
        for client in self._given:
            client.stop_channels()
        self.context.destroy(linger=0)

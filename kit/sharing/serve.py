"""The voting page as a server: Gradio's, with kit's page in it, on this machine alone unless told otherwise."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kit.humaneval.errors import StoreError
from kit.sharing.arena import Arena
from kit.sharing.places import address_of, check_free
from kit.sharing.routes import Desk, add_routes

PORT = 7860
TAKEN = "end what listens there, or choose another --port, where links that were given out do not hold"


@dataclass(eq=False)
class Served:
    """A server that is running.

    Args:
        arena: What it serves.
        address: Where it is, without a token.
        share_address: Where it is for everybody, through Gradio's tunnel; empty unless that was asked for.
        server: Gradio's server.
    """

    arena: Arena
    address: str
    share_address: str
    server: Any
    _closed: threading.Event = field(default_factory=threading.Event, init=False, repr=False)

    @property
    def links(self) -> Mapping[str, str]:
        """The link of each rater."""
        return {rater: self.link(self.arena.tokens.of_rater(rater)) for rater in self.arena.raters}

    @property
    def owner_link(self) -> str:
        """The link to the leaderboard."""
        return self.link(self.arena.tokens.of_owner())

    def link(self, token: str) -> str:
        """Return a link with a token: behind a #, which browsers send to nobody, so that no log holds it."""
        return f"{self.share_address or self.address}/#{token}"

    def wait(self) -> None:
        """Wait until somebody closes it or presses ^C."""
        self._closed.wait()

    def close(self) -> None:
        """Stop; what raters hold goes back to the store."""
        if not self._closed.is_set():
            self._closed.set()
            self.server.close(verbose=False)
            self.arena.close()


def serve(arena: Arena, *, host: str = "127.0.0.1", port: int = PORT, share: bool = False) -> Served:
    """Start serving an arena and return while it runs.

    Gradio's server mode is used rather than Gradio's own components: their page loads megabytes before the first
    picture, reloads itself when the connection was gone, and keeps names and files under its own routes.

    Args:
        arena: What to serve.
        host: Where to listen; only this machine by default.
        port: At which port. Links hold only as long as it stays the same.
        share: Whether everybody with a link may come in, through Gradio's tunnel, from anywhere.

    Raises:
        StoreError: the port is taken, or the tunnel did not open.
    """
    check_free(host, port, StoreError, fix=TAKEN)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # nobody is told that somebody votes
    import gradio

    arena.warm()
    app = gradio.Server(docs_url=None, redoc_url=None, openapi_url=None, title="kit")
    add_routes(app, Desk(arena))
    try:
        _, _, share_address = app.launch(
            server_name=host, server_port=port, share=share, prevent_thread_lock=True, quiet=True, show_error=False,
            max_file_size=1, enable_monitoring=False, ssr_mode=False, pwa=False, mcp_server=False, inbrowser=False,
            inline=False,
            # Else Gradio looks whether its page comes within 3 seconds; on a busy machine it says it cannot be reached.
            _frontend=False,
        )  # fmt: skip
    except (OSError, RuntimeError) as error:
        raise StoreError.of(
            f"{host}:{port}", f"cannot be served: {error}", "choose another --host or --port"
        ) from error
    running: Any = app.blocks
    if share and not share_address:
        running.close(verbose=False)
        fix = "look whether this machine reaches the internet, or leave --share out"
        raise StoreError.of("--share", "Gradio's tunnel did not open", fix)
    return Served(arena, address_of(host, port), (share_address or "").rstrip("/"), running)

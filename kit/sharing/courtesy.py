"""How a demo treats strangers: one clear message for what cannot be done, bounds, and no word about this machine."""

from __future__ import annotations

import functools
import html
import inspect
import sys
import traceback
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from kit.errors import DataError
from kit.sharing.uploads import MOST_BYTES

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

BROKEN = "Something went wrong here, and whoever runs this page can read what. Please try something else."
UPLOAD = "/gradio_api/upload"
# Of everything but an upload: a long text is told how long it may be, a larger one is not even read.
MOST_BODY = 4_000_000
SHOWN_S = 15


def told(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return a handler whose failures reach a visitor as one message, without a stack trace.

    What kit says about a visitor's own input is shown as it is; of anything else a visitor is told that it happened,
    and the terminal what it was.
    """

    @functools.wraps(handler)
    def once(*given: Any) -> Any:
        try:
            return handler(*given)
        except Exception as error:  # noqa: BLE001 - whatever it is, a visitor is told no more than this
            raise _message(error) from None

    @functools.wraps(handler)
    def stream(*given: Any) -> Any:
        try:
            yield from handler(*given)
        except Exception as error:  # noqa: BLE001 - likewise
            raise _message(error) from None

    return stream if inspect.isgeneratorfunction(handler) else once


def _message(error: Exception) -> Exception:
    import gradio

    if isinstance(error, gradio.Error):
        return error
    if isinstance(error, DataError):
        fault = error.faults[0]
        text = f"{fault.where} {fault.what}." + (f" {fault.fix[:1].upper()}{fault.fix[1:]}." if fault.fix else "")
    else:
        traceback.print_exception(error, file=sys.stderr)
        text = BROKEN
    return gradio.Error(html.escape(text, quote=False), duration=SHOWN_S, print_exception=False)


def picture_input(**options: Any) -> Any:
    """Return a picture's input whose upload is handed on as a path, unopened, and that fetches no addresses.

    Gradio's own would decode a file before kit can look at its size, and download whatever address a client names.
    """
    import gradio

    image: Any = gradio.Image(type="filepath", buttons=[], **options)
    moved = image.async_move_resource_to_block_cache

    def raw(payload: Any) -> str | None:
        return None if payload is None else payload.path

    async def no_address(path: Any) -> Any:
        if path is not None and "://" in str(path):
            raise gradio.Error("This picture is an address. Send the file.", print_exception=False)
        return await moved(path)

    # On the instance: Gradio writes a stub file beside the source of every subclass.
    image.preprocess = raw
    image.async_move_resource_to_block_cache = no_address
    return image


@dataclass
class Bounds:
    """Refuses requests whose body is larger than anything that a page sends."""

    app: Callable[[Scope, Receive, Send], Awaitable[None]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer that it is too large."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        # Gradio counts an upload's files itself; what is around them in a form is small.
        most = 2 * MOST_BYTES if scope["path"].rstrip("/") == UPLOAD else MOST_BODY
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > most:
            await _too_large(send)
            return
        seen = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            return {"type": "http.disconnect"} if seen > most else message

        await self.app(scope, counted, send)


async def _too_large(send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"detail": "This request is too large."}'})

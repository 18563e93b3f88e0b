"""The voting page over HTTP: a handful of routes, a gate before everything else, and nothing that tells too much."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from kit.errors import KitError
from kit.humaneval.errors import StoreError, StudyError
from kit.sharing.arena import Arena, Told
from kit.sharing.limits import Limit
from kit.sharing.page import page_html, page_policy
from kit.sharing.tokens import Guest

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

# Gradio's server brings routes for uploads, files, monitoring and more; friends need none of them. The last one is
# what its launch asks itself whether it is up.
OPEN = {"/", "/api/form", "/api/state", "/api/answer", "/api/undo", "/api/leaderboard", "/gradio_api/startup-events"}
MOST_BYTES = 16_384  # of a request; an answer has some hundreds
NAME_CHARS = 64  # of a window's name
HAVE = 8  # pages that a browser may say it has

HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

NO_LINK = "This link is not valid. Ask whoever sent it for a new one."
NO_OWNER = "The leaderboard is for whoever runs the study."
NOT_FIT = "This answer does not fit a page that you were shown."
NOT_READ = "This request could not be read."
TOO_LARGE = f"This request is over the limit of {MOST_BYTES // 1024} KiB."
TOO_FAST = "Too many requests. The page waits a moment and goes on by itself."
BROKEN = "Something went wrong on the server. Your answers are kept in this browser and sent again."


class Refused(Exception):  # noqa: N818 - an answer to a visitor, and no error of kit's
    """A request that is answered with a reason instead."""

    def __init__(self, status: int, why: str, **headers: str) -> None:
        super().__init__(why)
        self.status, self.why, self.headers = status, why, headers


@dataclass(eq=False)
class Desk:
    """Answers requests for an arena.

    Args:
        arena: The study.
        limit: How often each rater may ask. A quick rater votes once a second, and a phone that comes back sends what
            it kept at once.
        strangers: How often all others together may try a token.
    """

    arena: Arena
    limit: Limit = field(default_factory=lambda: Limit(per_s=4.0, burst=40))
    strangers: Limit = field(default_factory=lambda: Limit(per_s=2.0, burst=40))

    def guest(self, token: str) -> Guest:
        """Return whose token it is.

        Raises:
            Refused: nobody's, or its owner asks too often.
        """
        guest = self.arena.tokens.guest(token)
        limit, name = (self.strangers, "") if guest is None else (self.limit, guest.rater)
        if wait_s := limit.wait_s(name):
            raise Refused(429, TOO_FAST, **{"retry-after": str(max(1, round(wait_s)))})
        if guest is None:
            raise Refused(401, NO_LINK)
        return guest

    def form(self, guest: Guest, _body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer who somebody is and what is asked."""
        return {"owner": True} if guest.is_owner else {"owner": False, **self.arena.form(guest.rater)}

    def state(self, guest: Guest, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer what is to be shown."""
        return self._seen(self.arena.state(*self._where(guest, body)))

    def answer(self, guest: Guest, body: Mapping[str, Any]) -> dict[str, Any]:
        """Write an answer."""
        good = isinstance(body.get("page"), str) and isinstance(body.get("uuid"), str) and body["uuid"]
        ms = body.get("ms", 0)
        good = good and isinstance(ms, int | float) and not isinstance(ms, bool) and 0 <= ms < 1e12
        if not good or not isinstance(body.get("answer"), str | list | dict):
            raise Refused(422, NOT_READ)
        try:
            return self._seen(self.arena.answer(*self._where(guest, body), body))
        except StudyError as error:
            raise Refused(422, NOT_FIT) from error

    def undo(self, guest: Guest, body: Mapping[str, Any]) -> dict[str, Any]:
        """Take an answer back."""
        if not isinstance(body.get("uuid"), str) or not body["uuid"] or not isinstance(body.get("undoes", ""), str):
            raise Refused(422, NOT_READ)
        return self._seen(self.arena.undo(*self._where(guest, body), body))

    def leaderboard(self, guest: Guest, _body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer the owner how things stand."""
        if not guest.is_owner:
            raise Refused(403, NO_OWNER)
        return self.arena.leaderboard()

    def _where(self, guest: Guest, body: Mapping[str, Any]) -> tuple[str, str, set[str]]:
        window, have = body.get("window"), body.get("have", [])
        if guest.is_owner:
            raise Refused(403, "The owner's link shows the leaderboard; to vote, open a rater's.")
        if not isinstance(window, str) or not 8 <= len(window) <= NAME_CHARS or not isinstance(have, list):
            raise Refused(422, NOT_READ)
        return guest.rater, window, {one for one in have[:HAVE] if isinstance(one, str)}

    def _seen(self, told: Told) -> dict[str, Any]:
        if not told.stored:
            raise Refused(503, told.view["message"])
        return told.view


def add_routes(app: Any, desk: Desk) -> None:
    """Put the page and its interface onto a FastAPI application, and the gate before all that it has."""
    from fastapi import Request, Response
    from fastapi.concurrency import run_in_threadpool
    from fastapi.responses import HTMLResponse, JSONResponse

    def route(path: str, ask: Callable[[Guest, Mapping[str, Any]], dict[str, Any]]) -> None:
        async def answer(request: Request) -> Response:
            try:
                token = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
                guest = desk.guest(token)
                body = await _body(request)
                return JSONResponse(await run_in_threadpool(ask, guest, body))
            except Refused as refused:
                return JSONResponse({"error": refused.why}, refused.status, refused.headers)
            except Exception as error:  # noqa: BLE001 - whatever it is, a visitor is told no more than this
                _say(error)
                return JSONResponse({"error": BROKEN}, 503)

        app.add_route(path, answer, methods=["POST"], include_in_schema=False)

    html, policy = page_html(), page_policy()

    async def page(_request: Request) -> Response:
        return HTMLResponse(html, headers={"content-security-policy": policy})

    app.add_route("/", page, methods=["GET", "HEAD"], include_in_schema=False)
    for name in ("form", "state", "answer", "undo", "leaderboard"):
        route(f"/api/{name}", getattr(desk, name))
    app.add_middleware(Gate)


async def _body(request: Any) -> Mapping[str, Any]:
    """Return a request's JSON object, having read no more than is allowed."""
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > MOST_BYTES:
            raise Refused(413, TOO_LARGE)
    try:
        body = json.loads(content or b"{}")
    except (ValueError, RecursionError) as error:
        raise Refused(422, NOT_READ) from error
    if not isinstance(body, dict):
        raise Refused(422, NOT_READ)
    return body


def _say(error: Exception) -> None:
    """Tell the owner, in the terminal, what visitors are not told."""
    if isinstance(error, StoreError | StudyError | KitError):
        print(error, file=sys.stderr, flush=True)
    else:
        traceback.print_exception(error, file=sys.stderr)


@dataclass
class Gate:
    """Lets only the page's own paths through, and puts headers onto every answer."""

    app: Callable[[Scope, Receive, Send], Awaitable[None]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer that there is nothing."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http" or scope["path"] not in OPEN:
            if scope["type"] == "http":
                headers = [(b"content-type", b"text/plain"), *_raw(HEADERS)]
                await send({"type": "http.response.start", "status": 404, "headers": headers})
                await send({"type": "http.response.body", "body": b"There is nothing here.\n"})
            return

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in _raw(HEADERS) if pair[0] not in given)]
            await send(message)

        await self.app(scope, receive, with_headers)


def _raw(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]

"""The door of the server: who may come in, and how many at a time."""

from __future__ import annotations

import hmac
import logging
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from detseg.server.service import Service
from detseg.server.settings import is_loopback

_LOG = logging.getLogger("uvicorn.error")
PREDICTIONS = ("/predict", "/draw")
_OPEN = ("/", "/page.css", "/page.js", "/health", "/ready", "/openapi.json")
"""What needs no token: the page, which asks for it, and what says nothing of images."""
_PATHS = (*PREDICTIONS, *_OPEN, "/model", "/metrics")


class Guard:
    """Lets requests through to ``app`` that may come in, and counts all of them.

    Without a token only programs of this machine are served. Pages of other sites that the user has open are such
    programs, so what they send (by its ``Origin``), or send through a name of their own (by its ``Host``), is refused.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, path, status = time.monotonic(), str(scope["path"]), 0
        wants_head = scope["method"] == "HEAD"
        if wants_head:
            scope = {**scope, "method": "GET"}
        predicts = path in PREDICTIONS and scope["method"] == "POST"

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif wants_head:
                message = {**message, "body": b""}
            await send(message)

        service = self._service
        refusal = self._refusal(scope, path, predicts)
        if refusal is not None:
            await refusal(scope, receive, noting)
        else:
            service.num_under_way += predicts
            try:
                await self._app(scope, receive, noting)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is answered
                _LOG.exception("%s failed", path)
                if not status:
                    told = f"the server failed at this request ({type(error).__name__}); its log says more"
                    await _answer(500, told, {})(scope, receive, noting)
            finally:
                service.num_under_way -= predicts
        service.counters.requests.add(path if path in _PATHS else "other", str(status))
        if predicts and status == 200:
            service.counters.request_s.observe(time.monotonic() - begin)

    def _refusal(self, scope: Scope, path: str, predicts: bool) -> JSONResponse | None:
        headers, settings = Headers(scope=scope), self._service.settings
        if settings.token is not None:
            if path not in _OPEN and not _shows(headers, settings.token):
                return _answer(
                    401, "this server wants its token: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
                )
        elif reason := _reason_for_strangers(headers):
            return _answer(403, reason, {})
        if predicts and self._service.num_under_way >= settings.queue:
            return _answer(429, f"{settings.queue} requests are under way, which is the limit; try again", RETRY)
        if predicts and not self._service.works:
            return _answer(503, "the server is starting or stopping; try again", RETRY)
        return None


RETRY = {"Retry-After": "1"}


def _answer(status: int, detail: str, headers: dict[str, str]) -> JSONResponse:
    return JSONResponse({"detail": detail}, status, headers)


def _shows(headers: Headers, token: str) -> bool:
    scheme, _, given = headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def _reason_for_strangers(headers: Headers) -> str:
    host = headers.get("host", "")
    if not is_loopback(_hostname(f"//{host}")):
        return "the request is for another host: without a token only names of this machine are served"
    if "origin" in headers and urlsplit(headers["origin"]).netloc != host:
        return "the request comes from a page of another site: without a token only the server's own page is served"
    return ""


def _hostname(address: str) -> str:
    """The name or number in ``address``, "" where there is none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""

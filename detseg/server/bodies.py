"""What a request brings: one image as it is, several in a form, or the address of one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from fastapi import HTTPException, Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from detseg.server.budget import Budget
from detseg.server.settings import MAX_IMAGES, ServerSettings

FORM = "multipart/form-data"
ADDRESS = "application/json"


@dataclass(frozen=True, slots=True)
class Encoded:
    """The bytes of an image, and what whoever sent it calls it."""

    name: str
    data: bytes


Fetch = Callable[[str], bytes]
"""Opens a network address."""


async def read_images(request: Request, settings: ServerSettings, bytes_left: Budget, fetch: Fetch) -> list[Encoded]:
    """The images of ``request``, at least one, still encoded; ``bytes_left`` is what all bodies together may take
    while they arrive.

    Raises:
        HTTPException: 400: the form is damaged, or the JSON none; 403: addresses are not opened; 408: it took too long;
            413: too many bytes; 415: the body is compressed; 422: no image, or too many of them; 429: others have taken
            all the memory.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise HTTPException(415, f"the body has the Content-Encoding {encoding}; send images as they are", _CLOSE)
    body = await _read_body(request, settings, bytes_left)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == FORM:
        found = await _images_of_form(request, body)
    elif content_type == ADDRESS:
        address = _address(body, settings)
        found = [Encoded(address, await asyncio.get_running_loop().run_in_executor(None, fetch, address))]
    else:
        found = [Encoded("", body)]
    if not found or not all(one.data for one in found):
        raise HTTPException(422, "there is no image in the request: send its bytes as the body, or as a file of a form")
    return found


async def _read_body(request: Request, settings: ServerSettings, bytes_left: Budget) -> bytes:
    limit = settings.max_bytes
    too_much = HTTPException(413, f"the request has more than {limit:,} bytes, which is the limit", _CLOSE)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_much
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_s):
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise too_much
                if not bytes_left.take(len(chunk)):
                    raise HTTPException(
                        429, "too much is being sent at a time; try again", {"Retry-After": "1", **_CLOSE}
                    )
                body += chunk
    except TimeoutError as error:
        raise HTTPException(408, f"the request did not arrive within {settings.body_s:g} s", _CLOSE) from error
    finally:
        bytes_left.give(len(body))
    return bytes(body)


_CLOSE = {"Connection": "close"}
"""The rest of the body is not waited for."""


async def _images_of_form(request: Request, body: bytes) -> list[Encoded]:
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise HTTPException(400, "the form cannot be read: it names no boundary")
    if not body.rstrip().endswith(b"--" + boundary + b"--"):
        # The parser would pass over the last file.
        raise HTTPException(400, "the form cannot be read: it is cut off")

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(request.headers, stream(), max_files=MAX_IMAGES, max_fields=0)
    parser.spool_max_size = len(body) + 1  # nothing goes to the disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, f"the form cannot be read: {error.message}") from error
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    return [Encoded(file.filename or "", await file.read()) for file in files]


def _address(body: bytes, settings: ServerSettings) -> str:
    if not settings.allow_url:
        raise HTTPException(403, "this server opens no network addresses: send the image itself")
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, "the body is no JSON, as its type says") from error
    if not isinstance(given, dict) or given.keys() != {"url"} or not isinstance(given["url"], str):
        raise HTTPException(422, 'the body must be {"url": "http://..."}')
    return str(given["url"])

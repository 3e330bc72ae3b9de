"""The verb ``download``: released weights from their address to a folder, each checked against the table."""

from __future__ import annotations

import hashlib
import http.client
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from detseg import __version__
from detseg.files import atomic_path
from detseg.runtime.weights.released import (
    Release,
    ReleaseError,
    ReleaseTable,
    find_release,
    read_table,
    weights_folder,
)
from detseg.runtime.weights.steady import TooSlowError, steadily

EXIT_STOPPED = 130
"""As shells have it for what Ctrl-C ends."""

_TIMEOUT_SECONDS = 30.0
_CHUNK_BYTES = 1 << 16
_LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class DownloadError(ValueError):
    """A file could not be had, or is not what was released; nothing was written."""


def download_command(names: Sequence[str], folder: Path | None = None, url: str | None = None) -> int:
    """``detseg download``: fetch the weights called ``names``, or without names list what there is.

    Returns 0, or ``EXIT_STOPPED`` after Ctrl-C. The first failure ends the command; what was complete before stays. A
    file that is there is never replaced.

    Raises:
        FileNotFoundError: no released weights have this name; nothing was fetched.
        detseg.runtime.weights.released.ReleaseError: what has the name of the file is another one.
        DownloadError, detseg.files.SaveError: see :func:`download`.
    """
    table = read_table()
    if not names:
        if folder is not None or url is not None:
            raise ValueError("name the weights to download; without names, what there is is listed")
        print(render_table(table))
        return 0
    releases = {name: table[name] for name in names}
    try:
        for name, release in releases.items():
            path = find_release(release, None if folder is None else [folder])
            if path is not None:
                print(f"{name}: already here, {path}")
                continue
            path = download(release, weights_folder() if folder is None else folder, _base_url(table, url))
            print(f"{name}: {path}, {_megabytes(release.num_bytes)}, sha256 as released")
    except KeyboardInterrupt:
        print("detseg download: stopped; nothing was left of the file that was on its way", file=sys.stderr)
        return EXIT_STOPPED
    return 0


def _base_url(table: ReleaseTable, url: str | None) -> str:
    base = table.url if url is None else url
    if base is None:
        raise DownloadError(
            "released weights have no address yet; name the folder they are served from: --url https://..."
        )
    if urllib.parse.urlsplit(base).query or urllib.parse.urlsplit(base).fragment:
        raise DownloadError(f"--url must be the address of a folder, without ? and #, got {base}")
    return base


def render_table(table: ReleaseTable) -> str:
    """What there is: name, size, task, data, license, quality, and where it is on this machine."""
    if not table.weights:
        return "no weights are released yet"
    blocks = []
    for name, release in table.weights.items():
        facts = {
            "data": release.data,
            "quality": release.quality,
            "license": release.license,
            "here": _whereabouts(release),
        }
        lines = [f"{name}: {release.task}, {_megabytes(release.num_bytes)}"]
        blocks.append("\n".join(lines + [f"  {key + ':':<9}{value}" for key, value in facts.items()]))
    return "\n".join(blocks)


def _whereabouts(release: Release) -> str:
    try:
        path = find_release(release)
    except ReleaseError as error:
        return str(error)
    return "no" if path is None else str(path)


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB"


def download(release: Release, folder: Path, base_url: str) -> Path:
    """Fetch the file of ``release`` from the folder at ``base_url`` into ``folder``; returns its path.

    It takes its place only when it is complete, and its length and SHA-256 are those of the table; what is longer is
    not read to its end. Only HTTPS is spoken, except with this machine itself, and redirects keep to that.

    Raises:
        DownloadError: the address is not allowed or does not answer, or sends very slowly (see
            :mod:`detseg.runtime.weights.steady`), or what comes is not the released file.
        detseg.files.SaveError: the file could not be written, as where the disk is full.
    """
    if folder.exists() and not folder.is_dir():
        raise DownloadError(f"weights go to a folder, and {folder} is a file")
    url = f"{base_url.rstrip('/')}/{urllib.parse.quote(release.file)}"
    path = folder / release.file
    digest = hashlib.sha256()
    try:
        with closing(steadily(_pieces(url, release, path))) as pieces:
            next(pieces)
            with atomic_path(path) as temporary, temporary.open("wb") as file, _progress_bar(release) as bar:
                for piece in pieces:
                    digest.update(piece)
                    file.write(piece)
                    bar.update(len(piece))
                if digest.hexdigest() != release.sha256:
                    raise DownloadError(
                        f"{url} is not the released file: its sha256 is {digest.hexdigest()}, not {release.sha256}; "
                        "it was not kept"
                    )
    except TooSlowError as error:
        raise DownloadError(f"{url}: {error}; try again, or put the file into {path.parent} by hand") from error
    return path


def _pieces(url: str, release: Release, path: Path) -> Iterator[bytes]:
    """Nothing, once the server has answered; then the file."""
    with _open(url, release, path) as response:
        yield b""
        yield from _chunks(response, release, url)


def _progress_bar(release: Release) -> tqdm[Any]:
    return tqdm(
        total=release.num_bytes,
        desc=release.file,
        unit="B",
        unit_scale=True,
        leave=False,
        dynamic_ncols=True,
        disable=None,
    )


def _open(url: str, release: Release, path: Path) -> http.client.HTTPResponse:
    _check_scheme(url)
    handlers: list[urllib.request.BaseHandler] = [_Redirects()]
    if urllib.parse.urlsplit(url).scheme == "http":
        handlers.append(urllib.request.ProxyHandler({}))  # plain HTTP never leaves this machine
    headers = {"User-Agent": f"detseg/{__version__}", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=headers)
    try:
        response: http.client.HTTPResponse = urllib.request.build_opener(*handlers).open(
            request, timeout=_TIMEOUT_SECONDS
        )
    except urllib.error.HTTPError as error:
        error.close()
        raise DownloadError(f"{url}: the server answers {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(
            f"{url}: no answer: {reason}; where there is no network, put the file into {path.parent} by hand"
        ) from error
    announced = response.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced) != release.num_bytes:
        response.close()
        raise DownloadError(f"{url}: the server has {announced} bytes, the released file has {release.num_bytes}")
    return response


def _chunks(response: http.client.HTTPResponse, release: Release, url: str) -> Iterator[bytes]:
    """The body of ``response`` in pieces, together as long as the released file."""
    num_bytes = 0
    while chunk := _read(response, url):
        num_bytes += len(chunk)
        if num_bytes > release.num_bytes:
            raise DownloadError(f"{url}: the server sends more than the {release.num_bytes} bytes of the released file")
        yield chunk
    if num_bytes < release.num_bytes:
        raise DownloadError(f"{url}: ended after {num_bytes} of {release.num_bytes} bytes; try again")


def _read(response: http.client.HTTPResponse, url: str) -> bytes:
    try:
        return response.read1(_CHUNK_BYTES)  # what is there: a piece that grows byte by byte would never be whole
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{url}: the connection broke: {error}; try again") from error


def _check_scheme(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if not parts.hostname or not (
        parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOCAL_HOSTS)
    ):
        raise DownloadError(f"addresses must begin with https:// (http:// for localhost only), got {url}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only where the new address would be allowed too, and never from HTTPS to HTTP."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        fp.close()
        _check_scheme(newurl)
        if req.type == "https" and urllib.parse.urlsplit(newurl).scheme != "https":
            raise DownloadError(f"{req.full_url} leads from https to {newurl}, which is refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)

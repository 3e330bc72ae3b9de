"""The image at a network address, for servers that were told to open such."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from http.client import HTTPException as BadAnswerError
from urllib.parse import urlsplit

SCHEMES = ("http", "https")
_SILENCE_S = 10.0
"""How long the other side may say nothing."""
_TOTAL_S = 30.0
_BLOCK = 1 << 16


class FetchError(ValueError):
    """The address cannot be opened, or holds too much; the message begins with it."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections of the same schemes only; the usual one goes to FTP, too."""

    def redirect_request(self, *arguments: object) -> urllib.request.Request | None:
        """The next request."""
        _require_scheme(str(arguments[-1]))
        return super().redirect_request(*arguments)  # type: ignore[arg-type]


def _opener() -> urllib.request.OpenerDirector:
    """What opens HTTP and HTTPS, through the proxies of the environment, and nothing else: no files, no FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        _Redirects(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def fetch(address: str, max_bytes: int) -> bytes:
    """What lies at ``address``, at most ``max_bytes``.

    Raises:
        FetchError: the address is of another scheme than HTTP and HTTPS, does not answer, or gives more.
    """
    _require_scheme(address)
    end = time.monotonic() + _TOTAL_S
    found = bytearray()
    try:
        with _opener().open(urllib.request.Request(address), timeout=_SILENCE_S) as answer:
            while block := answer.read1(_BLOCK):
                found += block
                if len(found) > max_bytes:
                    raise FetchError(f"{address}: gives more than {max_bytes:,} bytes")
                if time.monotonic() > end:
                    raise FetchError(f"{address}: took longer than {_TOTAL_S:g} s")
    except FetchError:
        raise
    except (OSError, BadAnswerError, ValueError) as error:  # what urllib raises for answers and addresses of all kinds
        reason = error.reason if type(error) is urllib.error.URLError else error
        raise FetchError(f"{address}: cannot be opened: {reason}") from error
    return bytes(found)


def _require_scheme(address: str) -> None:
    try:
        parts = urlsplit(address)
        known = parts.scheme in SCHEMES and bool(parts.hostname)
    except ValueError:
        known = False
    if not known:
        raise FetchError(f"{address}: is no address of {' or '.join(SCHEMES)}")

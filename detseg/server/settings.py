"""What a server is told: where it listens, who may ask, and how much it takes on."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass

MAX_IMAGES = 32
"""How many images one request may bring."""


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """The settings of ``detseg serve``.

    Raises:
        ValueError: one of them is impossible, or others could reach the server without a token.
    """

    host: str = "127.0.0.1"
    """The address to listen at."""
    port: int = 8080
    """The port; 0: any that is free."""
    token: str | None = None
    """What requests must show, as ``Authorization: Bearer TOKEN``; None: nothing, on this machine only."""
    allow_url: bool = False
    """Whether requests may name the address of an image."""
    max_bytes: int = 20_000_000
    """Longest body of a request."""
    max_pixels: int = 50_000_000
    """Most pixels of one image."""
    queue: int = 128
    """Requests that are taken on at a time; further ones are sent away with 429."""
    batch_size: int = 8
    """Most images that go through the network together."""
    batch_wait_s: float = 0.002
    """How long an image may wait for others to make a batch, in seconds."""
    body_s: float = 30.0
    """How long a request may take to arrive, in seconds."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must lie between 0 and 65535, got {self.port}")
        for name in ("max_bytes", "max_pixels", "queue", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.batch_wait_s < math.inf:
            raise ValueError(f"the wait for a batch must be a number that is not negative, got {self.batch_wait_s:g} s")
        if self.token is not None and not (self.token and self.token.isascii() and self.token.isprintable()):
            raise ValueError("the token must be one line of printable ASCII, and not empty")
        if self.token is None and not self.is_local:
            raise ValueError(
                f"at {self.host} other machines reach the server, so it needs a token: put one into a file and name "
                "that with --token-file, or set DETSEG_TOKEN"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the server."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether ``host``, a name or an address, is this machine as only itself sees it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may be anyone's
        return False

from __future__ import annotations

from typing import Any

import pytest

from detseg.server.settings import ServerSettings


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
        ("::", False), ("10.0.0.1", False), ("192.168.1.4", False), ("name.example", False),
        ("localhost.example", False),
    ],
)  # fmt: skip
def test_other_machines_need_a_token(host: str, is_local: bool) -> None:
    if is_local:
        assert ServerSettings(host=host).is_local
    else:
        with pytest.raises(ValueError, match=f"at {host} other machines reach the server, so it needs a token"):
            ServerSettings(host=host)
    assert ServerSettings(host=host, token="x").is_local == is_local


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"port": 65536}, "between 0 and 65535, got 65536"),
        ({"port": -1}, "got -1"),
        ({"queue": 0}, "queue must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"max_bytes": 0}, "max_bytes must be at least 1"),
        ({"max_pixels": -5}, "max_pixels must be at least 1, got -5"),
        ({"batch_wait_s": -0.1}, "not negative, got -0.1 s"),
        ({"batch_wait_s": float("nan")}, "not negative, got nan s"),
        ({"token": ""}, "not empty"),
        ({"token": "two\nlines"}, "one line"),
        ({"token": "süß"}, "ASCII"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ServerSettings(**settings)

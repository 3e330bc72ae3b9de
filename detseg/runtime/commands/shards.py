"""A list of sources in shares, one for each of several machines, and what a share says of itself."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detseg.files import holds_keys, printable, storable, write_text

RUN = "run.json"
"""Says of a complete run which share of which list it is. It is written last."""
SHARES = "shares"
"""The folder for the shares of a run on a cluster, in that for its results."""
_SHARD = re.compile(r"([1-9]\d{0,8})/([1-9]\d{0,8})")


@dataclass(frozen=True)
class Shard:
    """Share ``index`` of ``count``, from 1 on."""

    index: int = 1
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def positions(self, titles: Sequence[str]) -> list[int]:
        """Which of ``titles`` belong to this share, in their order.

        They are dealt out in the order of their hashes: shares differ by one source at most, depend on what is in the
        list and not on its order, and neighbors in a folder, which are often alike, go to different shares.
        """
        order = sorted(range(len(titles)), key=lambda position: _digest(titles[position]))
        return sorted(order[self.index - 1 :: self.count])


WHOLE = Shard()
"""All of a list."""


def parse_shard(text: str) -> Shard:
    """``2/8``: the second of eight shares.

    Raises:
        ValueError: it is no such share.
    """
    match = _SHARD.fullmatch(text)
    if match is None or int(match[1]) > int(match[2]):
        raise ValueError(f"a share must be I/N, such as 2/8, with I from 1 to N; got {text!r}")
    return Shard(int(match[1]), int(match[2]))


def list_digest(titles: Sequence[str]) -> str:
    """What tells a list from others, whatever its order."""
    return hashlib.sha256(b"".join(sorted(map(_digest, titles)))).hexdigest()


def write_run(folder: Path, shard: Shard, titles: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Say in ``folder`` that the share is complete: of ``titles``, the whole list, those that belong to it with their
    positions."""
    content = {
        "shard": str(shard),
        "num_sources": len(titles),
        "list": list_digest(titles),
        "settings": json.loads(json.dumps(settings, default=str)),
        "sources": {titles[position]: position for position in shard.positions(titles)},
    }
    write_text(folder / RUN, json.dumps(content, indent=1) + "\n")


def read_run(folder: Path) -> dict[str, Any] | None:
    """What :func:`write_run` has said in ``folder``; None where it has not.

    Raises:
        ValueError: the file is not one of these.
    """
    path = folder / RUN
    if not path.exists():
        return None
    if not holds_keys(path, "shard", "num_sources", "list", "settings", "sources"):
        raise ValueError(f"{printable(path)}: was not written by detseg predict")
    content: dict[str, Any] = json.loads(path.read_bytes())
    sources, settings = content["sources"], content["settings"]
    if not (
        isinstance(content["shard"], str)
        and isinstance(settings, dict)
        and isinstance(sources, dict)
        and all(type(position) is int for position in sources.values())
    ):
        raise ValueError(f"{printable(path)}: is not as detseg predict wrote it")
    return content


def is_complete(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether a run with these ``settings`` is complete in ``folder``.

    Raises:
        ValueError: one with others is.
    """
    run = read_run(folder)
    if run is None:
        return False
    require_same_settings(run["settings"], settings, f"the results in {printable(folder)} are of another run")
    return True


def require_same_settings(there: Mapping[str, Any], wanted: Mapping[str, Any], message: str) -> None:
    """Raise ValueError, which begins with ``message``, where settings differ."""
    known = json.loads(json.dumps(wanted, default=str))
    other = sorted(name for name in {*there, *known} if there.get(name) != known.get(name))
    if other:
        told = ", ".join(
            "the list of sources is another one"
            if name == "list"
            else f"{name} was {there.get(name)!r} and is {known.get(name)!r}"
            for name in other
        )
        raise ValueError(f"{message}: {told}; say the same as then, or name another folder")


def _digest(title: str) -> bytes:
    return hashlib.sha256(storable(title).encode()).digest()

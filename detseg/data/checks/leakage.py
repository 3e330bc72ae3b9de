"""Finding the same content twice: in two splits, where a model would be judged on what it has learned, or in one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path

from detseg.data.findings import Finding

Members = Mapping[str, Set[Path]]
"""The files of every split."""


def find_leakage(splits: Sequence[Members], digest_of: Mapping[Path, str | None], root: Path) -> Iterator[Finding]:
    """What is in two splits of one of the ``splits``, or else twice in a split; each content is told once.

    ``digest_of`` a file is None where it could not be read. Splits that only put others together do not count, as VOC's
    trainval. Files are named as they lie in ``root``.
    """
    found: dict[str, Finding] = {}
    for members in splits:
        places: dict[str, dict[str, list[Path]]] = defaultdict(dict)
        for split in _without_unions(members):
            for path in sorted(members[split]):
                digest = digest_of[path]
                if digest is not None:
                    places[digest].setdefault(split, []).append(path)
        for digest, by_split in places.items():
            files = [(split, path) for split, paths in by_split.items() for path in paths]
            if len(files) == 1 or (digest in found and (len(by_split) == 1 or found[digest].code == "D201")):
                continue
            listing = "; ".join(f"{split}: {relative_name(path, root)}" for split, path in files)
            code, split_name = ("D201", None) if len(by_split) > 1 else ("D203", files[0][0])
            message = f"the same content {len(files)} times: {listing}"
            found[digest] = Finding(code, str(files[0][1]), message, (), split_name)
    yield from found.values()


def relative_name(path: Path, root: Path) -> str:
    """``path`` relative to ``root`` if it lies in there, else as it is."""
    return str(path.relative_to(root)) if root in path.parents else str(path)


def _without_unions(members: Members) -> list[str]:
    kept = []
    for split, paths in members.items():
        parts = [other for other in members.values() if other < paths]
        if not parts or set().union(*parts) != paths:
            kept.append(split)
    return kept

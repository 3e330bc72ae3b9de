"""When two names of classes are spellings of one."""

from __future__ import annotations

from collections.abc import Iterable


def fold_name(name: str) -> str:
    """``name`` without what spellings differ in: the case of letters, and spaces, hyphens or underscores."""
    return "".join(letter for letter in name.casefold() if not letter.isspace() and letter not in "-_")


def find_spellings(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """For those of ``names`` that are another spelling of exactly one of ``known``, that one."""
    by_folded: dict[str, list[str]] = {}
    for name in dict.fromkeys(known):
        by_folded.setdefault(fold_name(name), []).append(name)
    alike = {name: by_folded.get(fold_name(name), []) for name in names}
    return {name: same[0] for name, same in alike.items() if len(same) == 1 and same[0] != name}

"""Other names for the classes of a data set: ``classes: {van: car, Anterior: anterior}`` in its YAML.

Classes that get the same name become one. What is not listed keeps its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from detseg.data.entries.parsing import enumerate_some, show
from detseg.data.source import DatasetError, check_class_names


class Merged(NamedTuple):
    """Classes after a map: their ``names``; in ``kept`` the old position of the class whose number each of them keeps;
    in ``position_of`` the new position of each old one."""

    names: tuple[str, ...]
    kept: tuple[int, ...]
    position_of: tuple[int, ...]


def read_class_map(value: Any, where: str) -> dict[str, str]:
    """``classes:`` of a YAML that messages call ``where``: new names by old ones. Raises DatasetError: it is none."""
    if not isinstance(value, Mapping) or not value:
        raise DatasetError(f"{where}: classes: expected old names with new ones, {{van: car}}, got {show(value)}")
    # Digits are common as names; a bool is YAML's reading of an unquoted yes or no.
    plain = {_text(old): _text(new) for old, new in value.items()}
    for names in (list(plain), list(dict.fromkeys(plain.values()))):
        check_class_names(names, f"{where}: classes")
    return {str(old): str(new) for old, new in plain.items()}


def merge_classes(class_names: Sequence[str], class_map: Mapping[str, str]) -> Merged:
    """What becomes of ``class_names``. Of several that become one, the one that has the name already counts, else the
    first: its number is kept, and its place among the others."""
    new_names = [class_map.get(name, name) for name in class_names]
    owner: dict[str, int] = {}
    for position, (old, new) in enumerate(zip(class_names, new_names, strict=True)):
        if new not in owner or old == new:
            owner[new] = position
    kept = sorted(owner.values())
    place = {new_names[position]: number for number, position in enumerate(kept)}
    return Merged(tuple(place), tuple(kept), tuple(place[name] for name in new_names))


def describe_unknown(unknown: Iterable[str], class_names: Iterable[str], where: str) -> str:
    """What to say where a map renames what is no class."""
    return (
        f"{where}: classes: {enumerate_some(map(show, unknown))} is no class of the data set; it has "
        f"{enumerate_some(class_names)}"
    )


def _text(name: Any) -> Any:
    return str(name) if type(name) in (int, float) else name

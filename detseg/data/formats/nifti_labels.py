"""What the values in label volumes mean: from a YAML, or from the dataset.json of the Decathlon or of nnU-Net.

Regions are as nnU-Net defines them: each is made of several values, they may lie in each other, and each is written as
one value of its own, in an order in which later ones are written over those before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detseg.data.datasets.volumes import MAX_CLASSES, MAX_VALUE
from detseg.data.entries.parsing import as_integer
from detseg.data.formats.nifti_description import DESCRIPTION_NAME, read_description
from detseg.data.source import DatasetError, DataSource, check_class_names
from detseg.runtime.volumes.volume_files import read_label_values

ORDER_KEY = "regions_class_order"
IGNORE = "ignore"
"""What nnU-Net calls the voxels that belong to no class."""

_NUM_LOOKED_AT = 5


def read_class_names(source: DataSource, labels: Sequence[Path]) -> dict[int, str]:
    """The name of every value, the background, 0, first: from ``names`` in the YAML, else from dataset.json.

    Raises:
        DatasetError: they are contradictory, or missing; then the message says what the first of ``labels`` hold.
    """
    found = find_regions(source)
    if found is not None:
        return found.name_of
    named = source.settings.get("names")
    if named is not None:
        where = f"{source.name}: names"
        if isinstance(named, (list, tuple)):
            named = dict(enumerate(named))
        if not isinstance(named, Mapping):
            raise DatasetError(f"{where}: expected a list of names by value or {{VALUE: NAME}}, got {named!r:.100}")
        return _checked_names(list(named.items()), where)
    root = source.data_root().absolute()
    described = read_description(root).get("labels")
    if described is not None:
        where = f"{root / DESCRIPTION_NAME}: labels"
        if not isinstance(described, Mapping):
            raise DatasetError(f"{where}: expected {{VALUE: NAME}} or {{NAME: VALUE}}, got {described!r:.100}")
        return _checked_names(_values_and_names(described, where), where)
    raise DatasetError(_ask_for_names(source, root, labels))


def _values_and_names(described: Mapping[str, Any], where: str) -> list[tuple[Any, Any]]:
    """The pairs of the Decathlon, {"1": "anterior"}, or of nnU-Net's second version, {"anterior": 1}."""
    if all(key.isdecimal() and len(key) < 10 and isinstance(name, str) for key, name in described.items()):
        return [(int(key), name) for key, name in described.items()]
    for name, value in described.items():
        if isinstance(value, list) and len(value) > 1:
            raise DatasetError(
                f"{where}: {name} is a region of several values, so {ORDER_KEY} must say which value each region is "
                "written as, the innermost last"
            )
    return [(_as_value(value), name) for name, value in described.items() if name != IGNORE]


def _as_value(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    number = as_integer(value)
    return value if number is None else number


def read_ignore_index(source: DataSource, name_of: Mapping[int, str]) -> int | None:
    """The value of voxels that belong to no class: ``ignore_index`` in the YAML, else ``ignore`` in dataset.json of
    nnU-Net.

    Raises:
        DatasetError: it is no value, or that of a class.
    """
    where, value = f"{source.name}: ignore_index", source.settings.get("ignore_index")
    if value is None and source.settings.get("names") is None:
        root = source.data_root().absolute()
        described = read_description(root).get("labels")
        where = f"{root / DESCRIPTION_NAME}: labels: {IGNORE}"
        value = _as_value(described.get(IGNORE)) if isinstance(described, Mapping) else None
    if value is None:
        return None
    if type(value) is not int or not -MAX_VALUE <= value <= MAX_VALUE or value in name_of:
        raise DatasetError(f"{where}: expected a value that is no class, such as 255, got {value!r:.100}")
    return value


def _checked_names(pairs: Sequence[tuple[Any, Any]], where: str) -> dict[int, str]:
    for value, name in pairs:
        if type(value) is not int or not 0 <= value <= MAX_VALUE:
            raise DatasetError(
                f"{where}: the values must be integers from 0 to {MAX_VALUE}, got {value!r} for {name!r}"
            )
    check_class_names([name for _, name in pairs], where)
    name_of = dict(sorted(pairs))
    if len(name_of) < len(pairs):
        raise DatasetError(f"{where}: a value has two names; every class has a value of its own")
    if 0 not in name_of:
        raise DatasetError(f"{where}: the value 0, which is the background, has no name")
    if not 2 <= len(name_of) <= MAX_CLASSES:
        raise DatasetError(
            f"{where}: expected 2 to {MAX_CLASSES} classes with the background, got {len(name_of)}: {list(name_of)}"
        )
    return name_of


def _ask_for_names(source: DataSource, root: Path, labels: Sequence[Path]) -> str:
    chosen = labels[:_NUM_LOOKED_AT]
    found = sorted({0}.union(*(np.unique(read_label_values(path)[0]).tolist() for path in chosen)))
    names = ", ".join(f"{value}: {'NAME' if value else 'background'}" for value in found)
    looked = f"the labels hold the values {', '.join(map(str, found))} ({len(chosen)} of {len(labels)} were read). "
    missing = f"{source.name}: the names of the classes are missing; {looked if chosen else ''}"
    if source.yaml_path is not None:
        return f"{missing}Add to the YAML:\n  names: {{{names}}}"
    return (
        f"{missing}Write a YAML and give that as the data set:\n"
        f"  format: nifti\n  path: {root}\n  names: {{{names}}}\n"
        f"or name them under `labels` in {root / DESCRIPTION_NAME}"
    )


@dataclass(frozen=True, slots=True)
class Regions:
    """``name_of`` each region's own value, the background first; ``positions`` of the values that make each region but
    the background."""

    name_of: dict[int, str]
    positions: tuple[tuple[int, ...], ...]


def find_regions(source: DataSource) -> Regions | None:
    """The regions in a YAML (``names: {NAME: VALUE or [VALUES]}`` with ``regions_class_order``) or, where it names
    nothing, in dataset.json of nnU-Net (``labels``); None where there is no such order.

    Raises:
        DatasetError: they are of another form, or an order does not fit them.
    """
    if ORDER_KEY in source.settings:
        return _regions(source.settings.get("names"), source.settings[ORDER_KEY], source.name, "names")
    if source.settings.get("names") is not None:
        return None
    root = source.data_root().absolute()
    description = read_description(root)
    if ORDER_KEY not in description:
        return None
    return _regions(description.get("labels"), description[ORDER_KEY], str(root / DESCRIPTION_NAME), "labels")


def read_regions(source: DataSource, name_of: Mapping[int, str]) -> tuple[tuple[int, ...], ...]:
    """Of which positions in ``name_of`` each class but the first consists; nothing where classes exclude each other.

    Raises:
        DatasetError: as :func:`find_regions`.
    """
    found = find_regions(source) if name_of else None
    return () if found is None else found.positions


def _regions(named: Any, order: Any, where: str, key: str) -> Regions:
    if not isinstance(named, Mapping):
        raise DatasetError(f"{where}: {key}: with {ORDER_KEY} expected {{NAME: VALUE or [VALUES]}}, got {named!r:.100}")
    values_of = {str(name): _values(values, f"{where}: {key}: {name}") for name, values in named.items()}
    values_of.pop(IGNORE, None)
    background = [name for name, values in values_of.items() if values == (0,)]
    regions = {name: values for name, values in values_of.items() if values != (0,)}
    if len(background) != 1 or any(0 in values for values in regions.values()):
        raise DatasetError(f"{where}: {key}: one name, the background, must have the value 0 and no region may hold it")
    check_class_names([*background, *regions], f"{where}: {key}")
    own = _values(order, f"{where}: {ORDER_KEY}")
    if len(own) != len(regions) or len(set(own)) < len(own):
        raise DatasetError(
            f"{where}: {ORDER_KEY}: expected a value of its own for each of {', '.join(regions)}, got {order!r:.100}"
        )
    positions = []
    for (name, values), value in zip(regions.items(), own, strict=True):
        if value not in values or set(values) - set(own):
            raise DatasetError(
                f"{where}: {ORDER_KEY}: {name} has the values {', '.join(map(str, values))}; its own, {value}, must be "
                f"one of them, and each of them that of a region: {', '.join(map(str, own))}"
            )
        positions.append(tuple(sorted(own.index(one) + 1 for one in values)))
    return Regions(dict(zip((0, *own), (background[0], *regions), strict=True)), tuple(positions))


def _values(given: Any, where: str) -> tuple[int, ...]:
    listed = given if isinstance(given, list | tuple) else [given]
    values = [as_integer(one) for one in listed]
    if not values or any(one is None or not 0 <= one < 2**16 for one in values):
        raise DatasetError(f"{where}: expected a value or a list of values from 0 to {2**16 - 1}, got {given!r:.100}")
    return tuple(one for one in values if one is not None)

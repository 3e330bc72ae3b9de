"""Regions as nnU-Net defines them: each is made of several values, they may lie in each other, and each is written as
one value of its own, in an order in which later ones are written over those before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from detseg.data.formats.nifti_description import DESCRIPTION_NAME, read_description
from detseg.data.parsing import as_integer
from detseg.data.source import DatasetError, DataSource, check_class_names

ORDER_KEY = "regions_class_order"
_IGNORE = "ignore"


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
    values_of.pop(_IGNORE, None)
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

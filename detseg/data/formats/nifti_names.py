"""What the values in label volumes mean: from a YAML, or from the dataset.json of the Decathlon or of nnU-Net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detseg.data.datasets.volumes import MAX_CLASSES, MAX_VALUE
from detseg.data.formats.nifti_description import DESCRIPTION_NAME, read_description
from detseg.data.formats.nifti_regions import ORDER_KEY, find_regions
from detseg.data.parsing import as_integer
from detseg.data.source import DatasetError, DataSource, check_class_names
from detseg.runtime.volumes.volume_files import read_label_values

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
        if isinstance(value, list):
            raise DatasetError(
                f"{where}: {name} is a region of several values, so {ORDER_KEY} must say which value each region is "
                "written as, the innermost last"
            )
    return [(_as_value(value), name) for name, value in described.items() if name != IGNORE]


def _as_value(value: Any) -> Any:
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

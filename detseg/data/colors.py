"""The colors in which the classes of a data set are drawn: ``colors:`` in its YAML, or those that its masks have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detseg.data.datasets.label_mapping import LabelMapping, unpack_color
from detseg.data.source import DatasetError, DataSource
from detseg.runtime.drawing.palette import user_palette

_Color = tuple[int, int, int]


def read_colors(source: DataSource, dataset: Any) -> tuple[_Color, ...]:
    """Red, green and blue of each class of ``dataset``, opened from ``source``; nothing where nothing is said. A list
    is for ``names:`` in their order, where there are some, else for the classes; a mapping may leave classes out, which
    keep their usual color.

    Raises:
        DatasetError: something is no color, there are too few or too many, or a name is unknown.
    """
    given, names = source.settings.get("colors"), source.settings.get("names")
    mapping = getattr(dataset, "mapping", None)
    if given is None:
        if not isinstance(mapping, LabelMapping) or not mapping.colored:
            return ()
        return tuple(unpack_color(value) for value in mapping.values)
    if isinstance(names, Mapping):
        names = list(names.values())
    if isinstance(given, list | tuple) and isinstance(names, list | tuple) and len(given) == len(names):
        given = dict(zip(names, given, strict=True))
    if isinstance(given, Mapping):
        renamed: dict[str, Any] = {}
        for name, color in given.items():
            # Of classes that become one, the first color counts, unless one has the name already.
            new = source.class_map.get(str(name), str(name))
            if new not in renamed or new == str(name):
                renamed[new] = color
        # Classes of masks may belong to another truth than the one that is opened.
        given = {name: color for name, color in renamed.items() if name in dataset.class_names}
        if not given:
            raise DatasetError(
                f"{source.name}: colors: names none of the classes {', '.join(dataset.class_names[:20])}"
            )
    try:
        return user_palette(given, dataset.class_names, source.name).colors
    except ValueError as error:
        raise DatasetError(str(error)) from error

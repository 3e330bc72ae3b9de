"""The colors of a model's classes: from a file of the user, and as a legend: the verb ``colors``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detseg.config_files import parse_yaml
from detseg.files import read_text, require_replaceable, write_text
from detseg.runtime.drawing.legend import draw_legend
from detseg.runtime.drawing.palette import Palette, palette_of, user_palette
from detseg.runtime.media.images import WRITABLE_SUFFIXES, write_image
from detseg.runtime.model import Model

_WIDTH = 900


def read_palette(path: Path | str, class_names: Sequence[str]) -> Palette:
    """The colors in a YAML: a list for all classes in their order, a mapping from names, or the description of a data
    set with ``colors:`` and, where that is a list, ``names:``.

    Raises:
        ValueError: the file holds no colors, or none for these classes.
        FileNotFoundError: there is no such file.
    """
    where = str(path)
    try:
        given: Any = parse_yaml(read_text(Path(path)), where)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"--colors: {path} not found") from error
    if isinstance(given, Mapping) and "colors" in given:
        names, given = given.get("names"), given["colors"]
        if isinstance(names, (list, tuple)) and isinstance(given, (list, tuple)) and len(names) == len(given):
            # Of a data set that has other classes, too, or these in another order.
            given = {name: color for name, color in zip(names, given, strict=True) if name in class_names}
    return user_palette(given, class_names, where)


def colors_command(model: Model, output: Path | None, palette: Palette | None = None, overwrite: bool = False) -> int:
    """Print the color of each class, and write ``output``: an image of the legend, or a ``.yaml`` that ``--colors``
    and data sets take.

    Raises:
        ValueError: ``output`` is neither.
    """
    palette = palette or model.palette or palette_of(model.class_names)
    print(f"colors: {palette.name}")
    for label, name in enumerate(model.class_names):
        note = "  (background, not drawn)" if label == 0 and palette.has_background else ""
        print(f"{'#{:02x}{:02x}{:02x}'.format(*palette[label])}  {name}{note}")
    if output is None:
        return 0
    require_replaceable(output, overwrite=overwrite)
    if output.suffix in (".yaml", ".yml"):
        lines = [f"  {json.dumps(name)}: {list(palette[label])}\n" for label, name in enumerate(model.class_names)]
        write_text(output, "colors:\n" + "".join(lines))
    elif output.suffix.lower() in WRITABLE_SUFFIXES:
        write_image(output, draw_legend(palette, model.class_names, _WIDTH, 0.8))
    else:
        raise ValueError(f"{output}: a legend is an image ({', '.join(WRITABLE_SUFFIXES)}) or a .yaml")
    print(f"written: {output}")
    return 0

"""The verb ``set``: confidences and colors of the classes, stored in a model file. Nothing else in it changes, not even
by a byte."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from detseg.files import atomic_path, read_bytes, require_replaceable
from detseg.runtime.commands.colors import read_palette
from detseg.runtime.drawing.palette import palette_of
from detseg.runtime.onnx.file import KEY, parse_metadata, read_onnx_file, with_property
from detseg.runtime.postprocess.class_settings import (
    confidences_of,
    describe_confidences,
    read_confidences,
    require_class_settings,
)

NOTHING = "none"
"""In place of a file: nothing shall be stored."""
_LENGTH_BYTES, _ALIGNMENT = 8, 8


def set_command(
    model: Path,
    output: Path | None,
    *,
    confidences: str | None = None,
    colors: str | None = None,
    overwrite: bool = False,
) -> int:
    """``detseg set``: write ``model`` with what the files ``confidences`` and ``colors`` say of its classes to
    ``output``, or in its place; without either, list what it holds. ``none`` in place of a file takes away what is
    there. Returns 0.

    Raises:
        ValueError: the file is none of detseg's, or the settings do not fit its classes.
        FileNotFoundError: there is no such file.
        SaveError: the file cannot be written.
    """
    described, write = _open(model)
    class_names = described["class_names"]
    if confidences is not None:
        given = {} if confidences == NOTHING else read_confidences(confidences)
        described["class_confidences"] = list(confidences_of(given, class_names, confidences)) if given else []
    if colors is not None:
        palette = None if colors == NOTHING else read_palette(colors, class_names)
        described["class_colors"] = [] if palette is None else [list(palette[at]) for at in range(len(class_names))]
    floors, stored = described.get("class_confidences", []), described.get("class_colors", [])
    require_class_settings(floors, stored, class_names)
    if confidences is None and colors is None:
        print(f"confidence by class: {describe_confidences(class_names, floors) if floors else 'not stored'}")
        print(f"colors: {'stored' if stored else f'not stored, {palette_of(class_names).name}'}")
        return 0
    if floors and not _has_scores(described):
        raise ValueError(f"{model}: only boxes have a confidence, this model is for another task")
    for name in ("class_confidences", "class_colors"):
        if not described.get(name):
            described.pop(name, None)
    target = output or model
    if target.suffix.lower() != model.suffix.lower():
        raise ValueError(f"-o: {target} must end in {model.suffix}, as the model does")
    require_replaceable(target, overwrite=overwrite)
    content = write(described)
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)
    print(f"confidence by class: {describe_confidences(class_names, floors) if floors else 'not stored'}")
    print(f"colors: {'stored' if stored else 'not stored'}")
    print(f"written: {target}")
    return 0


def _has_scores(described: Mapping[str, Any]) -> bool:
    """Whether results are boxes with scores, by the settings of the task."""
    postprocess = described.get("postprocess") or (described.get("task") or {}).get("postprocess") or {}
    return "confidence" in postprocess


_Write = Callable[[Mapping[str, Any]], bytes]


def _open(path: Path) -> tuple[dict[str, Any], _Write]:
    """What the file says of itself, and what makes its bytes anew where it shall say something else."""
    if path.suffix.lower() == ".onnx":
        file = read_onnx_file(path)
        parse_metadata(file.properties, path)  # what is wrong is told here

        def write_onnx(described: Mapping[str, Any]) -> bytes:
            text = json.dumps(described, sort_keys=True)
            parse_metadata({KEY: text}, path)
            return with_property(file.content, KEY, text)

        return json.loads(file.properties[KEY]), write_onnx
    content = read_bytes(path)
    header, tensors = _split(content, path)
    metadata = dict(header.get("__metadata__") or {})
    described: Any = None
    with suppress(KeyError, ValueError, RecursionError):
        described = json.loads(metadata[KEY])
    if not isinstance(described, dict) or not isinstance(described.get("class_names"), list):
        raise ValueError(f"{path}: is no model file of detseg, so its classes are unknown")

    def write(changed: Mapping[str, Any]) -> bytes:
        text = json.dumps(changed, sort_keys=True)
        whole = json.dumps({**header, "__metadata__": {**metadata, KEY: text}}, separators=(",", ":")).encode()
        whole += b" " * (-len(whole) % _ALIGNMENT)
        return len(whole).to_bytes(_LENGTH_BYTES, "little") + whole + tensors

    return described, write


def _split(content: bytes, path: Path) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file and what follows it: a length of 8 bytes, as much JSON, the tensors."""
    end = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    try:
        header = json.loads(content[_LENGTH_BYTES:end]) if _LENGTH_BYTES < end <= len(content) else None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ValueError(f"{path}: is no readable safetensors file")
    return header, content[end:]

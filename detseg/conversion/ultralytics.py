"""What a checkpoint of Ultralytics tells beside its weights, and the checks of what names and shapes cannot show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from detseg.conversion.report import ConversionError
from detseg.foreign.records import Record
from detseg.layers.conv import BATCH_NORM_EPS

STRIDES = (8, 16, 32)


@dataclass(frozen=True)
class Details:
    """``names`` of the classes and ``image_size`` (height, width) of training, where the file tells them."""

    names: tuple[str, ...] | None
    image_size: tuple[int, int] | None


def read_details(content: object, module: Record | None) -> Details:
    """What ``content``, with the network ``module`` in it, tells; settings of training before those of the network.

    Raises:
        ConversionError: it contradicts a YOLOv8, or names or sizes are damaged.
    """
    file = content if isinstance(content, Mapping) else {}
    network = _state(module)
    if module is not None:
        _check_layers(module)
    stride = network.get("stride")
    if isinstance(stride, np.ndarray) and tuple(np.ravel(stride).tolist()) != STRIDES:
        raise ConversionError(f"the network has the strides {np.ravel(stride).tolist()}, a YOLOv8 {list(STRIDES)}")
    size = _setting(file.get("train_args"), "imgsz")
    if size is None:
        size = _setting(network.get("args"), "imgsz")
    names = network.get("names", file.get("names"))
    return Details(None if names is None else _names(names), None if size is None else _image_size(size))


def _state(module: object) -> Mapping[object, object]:
    return module.state if isinstance(module, Record) and isinstance(module.state, Mapping) else {}


def _setting(settings: object, name: str) -> object:
    """Settings are a dictionary, or an object with attributes."""
    return (settings if isinstance(settings, Mapping) else _state(settings)).get(name)


def _names(names: object) -> tuple[str, ...]:
    if isinstance(names, Mapping) and all(type(key) is int for key in names):
        if sorted(names) != list(range(len(names))):
            raise ConversionError(f"the class names are numbered {sorted(names)}, expected 0 to {len(names) - 1}")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise ConversionError("the class names of the file are no list of texts; give them with --names")
    return tuple(names)


def _image_size(size: object) -> tuple[int, int]:
    """Height and width, rounded up to what the strides allow, as its trainer does."""
    sides = [size, size] if type(size) is int else size
    if not isinstance(sides, list | tuple) or len(sides) != 2 or not all(type(side) is int for side in sides):
        raise ConversionError(f"the image size of the file is {size!r}, expected one or two whole numbers")
    if not all(0 < side <= 2**16 for side in sides):
        raise ConversionError(f"the image size of the file is {size!r}, expected 1 to {2**16} pixels")
    height, width = (-(-side // STRIDES[-1]) * STRIDES[-1] for side in sides)
    return height, width


def _check_layers(module: Record) -> None:
    """Names and shapes are those of a YOLOv8 also where activations or the constant of batch norms differ."""
    for path, layer in _layers(module):
        eps = _state(layer).get("eps")
        if eps is not None and eps != BATCH_NORM_EPS:
            raise ConversionError(
                f"{path}: a batch norm with eps {eps}, where detseg's have {BATCH_NORM_EPS}: results would differ"
            )
        if path.endswith(".act") and layer.name.rpartition(".")[2] != "SiLU":
            raise ConversionError(f"{path}: the activation is {layer.name}; detseg converts networks with SiLU")


def _layers(module: Record) -> Iterator[tuple[str, Record]]:
    """All modules inside, by their paths. No module contains itself: its tensors were read before."""
    waiting: list[tuple[str, object]] = [("", module)]
    while waiting:
        path, layer = waiting.pop()
        if not isinstance(layer, Record):
            continue
        yield path, layer
        inside = _state(layer).get("_modules")
        if isinstance(inside, Mapping):
            waiting += [(f"{path}.{name}".lstrip("."), child) for name, child in inside.items()]

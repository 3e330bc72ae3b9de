"""From a foreign graph to metadata: tried once on an empty input, compared with every layout."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detseg.arrays import FloatArray
from detseg.config import load_entry
from detseg.runtime.foreign import LAYOUTS
from detseg.runtime.foreign.base import Description, Found, Layout, UnfitError
from detseg.runtime.foreign.lists import BoxLists, Custom
from detseg.runtime.foreign.options import ForeignOptions
from detseg.runtime.foreign.properties import Properties
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.kinds.base import Metadata

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
"""The types of inputs that an image may become, by ONNX Runtime's names."""


class Value(NamedTuple):
    """An input or output: its name, its type by ONNX Runtime's name, and its sides, where they are fixed."""

    name: str
    type: str
    shape: Sequence[Any]


class Graph(NamedTuple):
    """A graph that is open: ``run`` takes ``[1, 3, H, W]`` and gives all outputs by name."""

    path: Path
    properties: Mapping[str, str]
    inputs: Sequence[Value]
    run: Callable[[FloatArray], Mapping[str, NDArray[Any]]]


def recognize(graph: Graph, options: ForeignOptions, size: tuple[int, int] | None) -> Metadata:
    """What the graph of a foreign file is, as metadata of our own kinds. ``size``: height and width that the user
    wants.

    Raises:
        UnfitError: it takes no images, fits no layout or several, or something is not known that only the user can
            say; the message lists what was found, and names no path.
    """
    properties = Properties.of(graph.properties)
    taken = _image_input(graph.inputs)
    height, width = _size(taken, properties, options, size)
    InputSpec(height, width)  # refuses a size that is not possible before anything is made of it
    names = options.names or properties.names
    outputs = graph.run(np.zeros((1, 3, height, width), np.float32))
    if options.outputs is not None:
        missing = [name for name in options.outputs if name not in outputs]
        if missing:
            raise UnfitError(f"has no output {', '.join(missing)}; it has {', '.join(outputs)}")
        outputs = {name: outputs[name] for name in options.outputs}
    found = Found(outputs, height, width, None if names is None else len(names), properties.task)
    layout = _layout(found, options)
    if names is None:
        number = "" if layout.num_classes is None else f", {layout.num_classes},"
        raise UnfitError(
            f"its classes{number} have no names: give them with --names a,b,c or a file with one a line (names=)"
        )
    if layout.note:
        warnings.warn(f"{graph.path}: {layout.note}", stacklevel=2)
    try:
        spec = options.pixels(layout.pixels).spec(height, width)
        return layout.describe(Description(taken.name, names, spec, properties.stride or layout.stride))
    except ValueError as error:
        raise UnfitError(str(error)) from error


def _image_input(inputs: Sequence[Value]) -> Value:
    """The only input, which must take images."""
    shown = ", ".join(f"{one.name} {list(one.shape)} {one.type}" for one in inputs)
    if len(inputs) != 1:
        raise UnfitError(
            f"takes {len(inputs)} inputs ({shown}); detseg gives images alone: export the network without the others"
        )
    (one,) = inputs
    channels, last = (one.shape[1], one.shape[3]) if len(one.shape) == 4 else (None, None)
    takes_three = channels == 3 or (not isinstance(channels, int) and last != 3)
    if len(one.shape) != 4 or not takes_three or one.type not in FLOATS:
        raise UnfitError(
            f"its input is {shown}; a network for images takes floats [N, 3, H, W]; export it with such an input"
        )
    return one


def _size(
    taken: Value, properties: Properties, options: ForeignOptions, size: tuple[int, int] | None
) -> tuple[int, int]:
    fixed = [side if isinstance(side, int) and side > 0 else None for side in taken.shape[2:]]
    wanted = size or options.size or properties.size
    if wanted is None:
        if fixed[0] is None or fixed[1] is None:
            raise UnfitError(
                "takes images of any size and does not say which is best: give one with --size HxW (size=)"
            )
        return fixed[0], fixed[1]
    if size is None and options.size is None:
        return fixed[0] or wanted[0], fixed[1] or wanted[1]
    if any(side not in (None, other) for side, other in zip(fixed, wanted, strict=True)):
        raise UnfitError(f"takes inputs of {fixed[0] or 'any'}x{fixed[1] or 'any'} (height x width) only, got {wanted}")
    stride = properties.stride or 1
    if any(side % stride for side in wanted):
        raise UnfitError(f"height and width must be multiples of {stride}, got {wanted[0]}x{wanted[1]}")
    return wanted


def _layout(found: Found, options: ForeignOptions) -> Layout:
    """The layout that the user names, or the only one that fits."""
    if options.postprocess is not None:
        return Custom(tuple(found.outputs), None, options.postprocess)
    if options.layout is not None or options.boxes is not None:
        try:
            if options.boxes is not None:
                return BoxLists.configured(options.boxes, found)
            chosen: type[Layout] = load_entry(LAYOUTS, str(options.layout))
            return chosen.recognize(found, chosen=True)
        except UnfitError as error:
            named = options.layout or "that of the YAML"
            raise UnfitError(f"does not have the layout {named}: {error}; it gives {found.describe()}") from error
    fitting: dict[str, Layout] = {}
    reasons: dict[str, str] = {}
    for name in LAYOUTS:
        layout: type[Layout] = load_entry(LAYOUTS, name)
        try:
            fitting[name] = layout.recognize(found, chosen=False)
        except UnfitError as error:
            if error.is_near:
                reasons[name] = str(error)
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    if fitting:
        raise UnfitError(
            f"may have the layouts {' or '.join(fitting)}: for an input of {found.height}x{found.width} it gives "
            f"{found.describe()}; say which with --layout (layout=), or name the classes with --names (names=)"
        )
    near = "".join(f"; not {name}, as {reason}" for name, reason in reasons.items())
    raise UnfitError(
        f"was not written by `detseg export`, and its layout is none of {', '.join(LAYOUTS)}: for an input of "
        f"{found.height}x{found.width} it gives {found.describe()}{near}; describe the outputs in a YAML (--layout "
        "FILE.yaml), or read them by a function (postprocess= of detseg.load), see docs/foreign-onnx.md"
    )

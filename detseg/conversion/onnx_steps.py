"""An ONNX file as a graph of steps."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from detseg.conversion.report import ConversionError
from detseg.conversion.steps import Step, convolution, pooling
from detseg.foreign.records import ForeignArray
from detseg.runtime.onnx.file import KEY, read_onnx_file


@dataclass
class OnnxGraph:
    """``arrays`` of the file by name, ``steps`` by the name of their result, and the ``biases`` of convolutions by the
    name of their weights.

    ``image_size``: height and width of the input, None where it may have any; ``used``: names of arrays that settle
    what a step is; ``sha256`` of the file.
    """

    arrays: dict[str, ForeignArray]
    image_size: tuple[int, int] | None
    sha256: str
    steps: dict[str, Step] = field(default_factory=dict)
    biases: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def levels(self) -> list[Step]:
        """The results of a head of YOLOX, in the order of the file: concatenations of box, objectness and class logits,
        whose sigmoids are taken off."""
        return [
            Step("concatenation", (), (step.inputs[0], *(part.inputs[0] for part in step.inputs[1:])))
            for step in self.steps.values()
            if step.kind == "concatenation"
            and [part.kind for part in step.inputs] == ["convolution", "sigmoid", "sigmoid"]
            and all(part.inputs[0].kind == "convolution" for part in step.inputs[1:])
        ]


def read_onnx_graph(path: Path) -> OnnxGraph:
    """The graph in the ONNX file ``path``; it is not run.

    Raises:
        ConversionError, detseg.runtime.onnx.file.OnnxFileError: the file cannot be read, or is one of detseg's own.
    """
    file = read_onnx_file(path)
    if KEY in file.properties:
        raise ConversionError(f"{path} was exported by detseg and is used as it is: detseg predict {path} ...")
    if importlib.util.find_spec("onnx") is None:
        raise ConversionError("converting ONNX files needs onnx: pip install 'detseg[export]'")
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        graph = onnx.load_model_from_string(file.content).graph
        arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        constants = {
            node.output[0]: onnx.numpy_helper.to_array(attribute.t)
            for node in graph.node
            if node.op_type == "Constant"
            for attribute in node.attribute
            if attribute.name == "value"
        }
    except (DecodeError, ValueError, TypeError, LookupError) as error:
        raise ConversionError(f"{path}: damaged: {error}") from error
    try:
        return _trace(graph, arrays | constants, hashlib.sha256(file.content).hexdigest())
    except (ValueError, TypeError, LookupError) as error:
        raise ConversionError(f"{path}: a layer of the graph is not as ONNX has it: {error}") from error


def _trace(graph: Any, arrays: dict[str, ForeignArray], sha256: str) -> OnnxGraph:
    import onnx

    inputs = [value for value in graph.input if value.name not in arrays]
    if len(inputs) != 1:
        raise ValueError(f"the network has {len(inputs)} inputs, expected one, the images")
    _, _, height, width = (side.dim_value for side in inputs[0].type.tensor_type.shape.dim)
    found = OnnxGraph(arrays, (height, width) if height and width else None, sha256)
    found.steps[inputs[0].name] = Step("image")
    halves: dict[str, tuple[Step, int, int]] = {}
    for node in graph.node:
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        step = _corner(node, found, halves) if node.op_type == "Slice" else _step(node, attributes, found)
        known = tuple(found.steps[name] for name in node.input if name in found.steps)
        found.steps |= {name: step or Step("other", (node.op_type, name), known) for name in node.output}
    return found


def _step(node: Any, attributes: Mapping[str, Any], graph: OnnxGraph) -> Step | None:
    """The step that ``node`` is; None where it is none that a YOLOX has."""
    sources = [graph.steps.get(name) for name in node.input]
    first = sources[0] if sources else None
    if first is None:
        return None
    match node.op_type:
        case "Conv":
            return _convolution(node, attributes, first, graph)
        case "Sigmoid":
            return Step("sigmoid", (), (first,))
        case "Mul":
            return _activated(sources)
        case "Add":
            both = tuple(source for source in sources if source is not None)
            return Step("sum", (), both) if len(both) == 2 else None
        case "Concat":
            parts = tuple(source for source in sources if source is not None)
            return Step("concatenation", (), parts) if len(parts) == len(sources) and attributes["axis"] == 1 else None
        case "MaxPool":
            return _pooling(attributes, first)
        case "Resize" | "Upsample":
            return _upsampling(node, attributes, first, graph)
    return None


def _convolution(node: Any, attributes: Mapping[str, Any], source: Step, graph: OnnxGraph) -> Step | None:
    weights = graph.arrays.get(node.input[1])
    if weights is None or weights.ndim != 4 or len(node.input) < 3 or node.input[2] not in graph.arrays:
        return None
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    if attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or (top, left) != (bottom, right):
        return None
    graph.biases[node.input[1]] = node.input[2]
    return convolution(
        source,
        node.input[1],
        weights.shape,
        stride=attributes.get("strides", (1, 1)),
        padding=(top, left),
        dilation=attributes.get("dilations", (1, 1)),
        groups=attributes.get("group", 1),
        activated=False,
    )


def _activated(sources: list[Step | None]) -> Step | None:
    """SiLU: the product of a convolution's result and its sigmoid."""
    for source, gate in (sources, sources[::-1]):
        if source is not None and gate is not None and gate.kind == "sigmoid" and gate.inputs == (source,):
            if source.kind != "convolution":
                return None
            return Step("convolution", (*source.settings[:-1], True), source.inputs, source.name)
    return None


def _pooling(attributes: Mapping[str, Any], source: Step) -> Step | None:
    height, width = attributes["kernel_shape"]
    around = [height // 2] * 4
    plain = (
        attributes.get("strides", [1, 1]) == [1, 1]
        and attributes.get("pads") == around
        and attributes.get("dilations", [1, 1]) == [1, 1]
        and not attributes.get("ceil_mode", 0)
    )
    return pooling(source, height) if plain and height == width and height % 2 else None


def _upsampling(node: Any, attributes: Mapping[str, Any], source: Step, graph: OnnxGraph) -> Step | None:
    """Twice the size, from the nearest pixel."""
    scales = [name for name in node.input[1:] if graph.arrays.get(name, np.empty(0)).tolist() == [1, 1, 2, 2]]
    if attributes.get("mode", b"nearest") != b"nearest" or not scales:
        return None
    graph.used.update(name for name in node.input[1:] if name)
    return Step("upsampling", (), (source,))


def _corner(node: Any, graph: OnnxGraph, halves: dict[str, tuple[Step, int, int]]) -> Step | None:
    """Every second row of the image, then every second column of that: a corner."""
    known = [graph.arrays.get(name) for name in node.input[1:]]
    settings = [value.tolist() for value in known if value is not None and value.shape == (1,)]
    if len(settings) != 4 or len(known) != 4:
        return None
    (start,), (end,), (axis,), (step,) = settings
    if step != 2 or start not in (0, 1) or axis not in (2, 3) or end < 2**31 - 1:
        return None
    graph.used.update(node.input[1:])
    source = graph.steps.get(node.input[0])
    if source is not None and source.kind == "image":
        halves[node.output[0]] = source, axis, start
        return None
    if node.input[0] not in halves:
        return None
    image, first_axis, first_start = halves[node.input[0]]
    if first_axis == axis:
        return None
    row, column = (first_start, start) if axis == 3 else (start, first_start)
    return Step("corner", (row, column), (image,))

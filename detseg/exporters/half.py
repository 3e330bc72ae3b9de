"""Half precision for exported networks."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from detseg.exporters.convolutions import nodes_after_last_convolutions

_FLOAT, _HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
_LARGEST = float(np.finfo(np.float16).max)

_FLOAT_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs, by operator, that are float32 whatever the data is: regions and scales."""


def to_half(network: onnx.ModelProto) -> onnx.ModelProto:
    """``network`` in float16 up to and with its last convolutions; inputs, outputs and what follows stay float32.

    What follows is decoding: float16 counts in steps of half a pixel from 512 on, which is too coarse for boxes.
    """
    half = onnx.shape_inference.infer_shapes(network)
    conversion = _Conversion(half)
    known = conversion.known_values(half)
    del half.graph.node[:]
    half.graph.node.extend(conversion.nodes)
    del half.graph.initializer[:]
    half.graph.initializer.extend(conversion.initializers)
    # Without the sizes of values, ONNX Runtime takes several times as long to load a file.
    del half.graph.value_info[:]
    half.graph.value_info.extend(known)
    return half


class _Conversion:
    """The nodes and weights of a graph, with casts where values cross between float16 and float32, one for each."""

    def __init__(self, network: onnx.ModelProto) -> None:
        graph = network.graph
        known = (*graph.input, *graph.output, *graph.value_info)
        self._is_float = {value.name for value in known if value.type.tensor_type.elem_type == _FLOAT}
        self._weights = {weight.name: weight for weight in graph.initializer}
        self._half_values: set[str] = set()
        self._made: set[str] = set()
        self._kept: dict[str, onnx.TensorProto] = {}
        self.nodes: list[onnx.NodeProto] = []
        in_float = set(nodes_after_last_convolutions(network))
        outputs = {value.name for value in graph.output}
        for node in graph.node:
            if node.name in in_float:
                self._add(node, [self._as_float(name) for name in node.input])
            else:
                self._add_half(node)
        for name in sorted(outputs & self._half_values):
            self._end_in_float(name)

    @property
    def initializers(self) -> list[onnx.TensorProto]:
        """The weights, in the precision in which they are used."""
        return list(self._kept.values())

    def known_values(self, network: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
        """The sizes of the values between the nodes, as far as ``network`` tells them, with the types they have now."""
        live = {name for node in self.nodes for name in node.output} - {value.name for value in network.graph.output}
        known = []
        for value in network.graph.value_info:
            is_half = value.name in self._half_values
            copies = {f"{value.name}_half": _HALF, f"{value.name}_float": _FLOAT}
            copies[value.name] = _HALF if is_half else value.type.tensor_type.elem_type
            for name, kind in copies.items():
                if name in live:
                    copy = onnx.ValueInfoProto()
                    copy.CopyFrom(value)
                    copy.name, copy.type.tensor_type.elem_type = name, kind
                    known.append(copy)
        return known

    def _add(self, node: onnx.NodeProto, inputs: list[str]) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = inputs
        self.nodes.append(copy)

    def _add_half(self, node: onnx.NodeProto) -> None:
        stays = _FLOAT_INPUTS.get(node.op_type, ())
        inputs = [
            self._as_float(name) if index in stays else self._as_half(name) for index, name in enumerate(node.input)
        ]
        self._add(node, inputs)
        for attribute in self.nodes[-1].attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == _FLOAT:
                attribute.i = _HALF
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == _FLOAT:
                attribute.t.CopyFrom(_half_tensor(attribute.t, attribute.t.name))
        self._half_values.update(name for name in node.output if name in self._is_float)

    def _as_half(self, name: str) -> str:
        weight = self._weights.get(name)
        if weight is not None and weight.data_type == _FLOAT:
            half_name = f"{name}_half"
            if half_name not in self._kept:
                self._kept[half_name] = _half_tensor(weight, half_name)
            return half_name
        if weight is None and name in self._is_float and name not in self._half_values:
            return self._cast(name, f"{name}_half", _HALF)
        return self._as_it_is(name)

    def _as_float(self, name: str) -> str:
        return self._cast(name, f"{name}_float", _FLOAT) if name in self._half_values else self._as_it_is(name)

    def _as_it_is(self, name: str) -> str:
        if name in self._weights:
            self._kept[name] = self._weights[name]
        return name

    def _cast(self, name: str, new_name: str, to: int) -> str:
        if new_name not in self._made:
            self._made.add(new_name)
            self.nodes.append(onnx.helper.make_node("Cast", [name], [new_name], name=f"cast_{new_name}", to=to))
        return new_name

    def _end_in_float(self, name: str) -> None:
        """Let the output ``name``, which a node gives in float16, be a float32 copy of that."""
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [f"{name}_half" if one == name else one for one in names]
        self.nodes.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], name=f"cast_{name}", to=_FLOAT))


def _half_tensor(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    values = np.clip(numpy_helper.to_array(tensor), -_LARGEST, _LARGEST)
    return numpy_helper.from_array(values.astype(np.float16), name)

"""Fewer nodes for exported graphs, with the same results."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from detseg.runtime.onnx.limits import SILENT
from detseg.runtime.onnx.session import import_onnxruntime

_OWN_DOMAINS = ("", "ai.onnx")


def simplified(network: onnx.ModelProto) -> onnx.ModelProto:
    """``network`` with constants folded, batch norms and paddings in the convolutions they follow, equal nodes merged,
    dead ones gone: what ONNX Runtime calls its basic optimizations, which give standard operators for any runtime.
    Means of whole maps become poolings, and every node has a name of its own.

    It takes ONNX Runtime a second where the optimizer of torch's exporter takes most of the time of an export.

    Raises:
        ValueError: the graph holds an operator that is not in the ONNX standard.
    """
    simple = _optimized(network)
    # What is folded here was in the way of the batch norms behind.
    if _fold_biases(simple.graph):
        simple = _optimized(simple)
    _require_standard(simple)
    kept = [entry for entry in network.opset_import if entry.domain in _OWN_DOMAINS]
    del simple.opset_import[:]
    simple.opset_import.extend(kept)
    simple.ir_version = network.ir_version
    _pool_means(simple.graph)
    _split_plainly(simple.graph)
    _drop_unused(simple.graph)
    _name_nodes(simple.graph)
    return simple


def _optimized(network: onnx.ModelProto) -> onnx.ModelProto:
    onnxruntime = import_onnxruntime()
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "traced.onnx", Path(folder) / "simplified.onnx"
        onnx.save(network, source)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        options.log_severity_level = SILENT
        onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        return onnx.load(target)


def _require_standard(network: onnx.ModelProto) -> None:
    strange = sorted(
        {f"{node.domain}.{node.op_type}" for node in network.graph.node if node.domain not in _OWN_DOMAINS}
    )
    if strange:
        raise ValueError(f"the graph has operators that are not in the ONNX standard: {', '.join(strange)}")


def _pool_means(graph: onnx.GraphProto) -> None:
    """The same value, which runtimes take without leaving the memory layout of their convolutions."""
    constants = {weight.name: weight for weight in graph.initializer}
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        keeps = all(one.i == 1 for one in node.attribute if one.name == "keepdims")
        axes = sorted(numpy_helper.to_array(constants[node.input[1]]).tolist())
        if keeps and axes in ([2, 3], [-2, -1]) and _rank(graph, node.input[0]) == 4:
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]
            del node.input[1:]


def _split_plainly(graph: onnx.GraphProto) -> None:
    """A Split in place of a sequence whose members are taken one by one: few runtimes know sequences, and ONNX Runtime
    copies them."""
    constants = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer if _num_values(weight) == 1}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in list(graph.node):
        if node.op_type != "SplitToSequence" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
        side = _side(graph, node.input[0], axis)
        taken = readers.get(node.output[0], [])
        known = all(one.op_type == "SequenceAt" and one.input[1] in constants for one in taken)
        if side is None or not known or node.output[0] in {value.name for value in graph.output}:
            continue
        part = int(constants[node.input[1]].item())
        parts = [min(part, side - start) for start in range(0, side, part)]
        places = [int(constants[one.input[1]].item()) % len(parts) for one in taken]
        if len(set(places)) < len(places):
            continue  # equal nodes were merged, so that this does not happen
        names = {place: one.output[0] for place, one in zip(places, taken, strict=True)}
        sizes = numpy_helper.from_array(np.array(parts, np.int64), f"{node.output[0]}/sizes")
        graph.initializer.append(sizes)
        node.op_type = "Split"
        node.input[1] = sizes.name
        node.output[:] = [names.get(place, f"{node.output[0]}/{place}") for place in range(len(parts))]
        del node.attribute[:]
        node.attribute.append(onnx.helper.make_attribute("axis", axis))
        for one in taken:
            graph.node.remove(one)


def _side(graph: onnx.GraphProto, name: str, axis: int) -> int | None:
    """The length of the value ``name`` along ``axis``; None where the graph does not say."""
    for value in (*graph.value_info, *graph.input):
        if value.name == name and value.type.tensor_type.HasField("shape"):
            return value.type.tensor_type.shape.dim[axis].dim_value or None
    return None


def _fold_biases(graph: onnx.GraphProto) -> bool:
    """The biases that torch makes for convolutions without one, by a cast and an expansion of a zero each, are gone;
    whether there were any."""
    values = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer if _num_values(weight) <= 4}
    zeros = {name for name, value in values.items() if not value.any()}
    for node in graph.node:
        if node.op_type in ("Cast", "Expand") and node.input[0] in zeros:
            zeros.update(node.output)
    found = False
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose") and len(node.input) > 2 and node.input[2] in zeros:
            del node.input[2:]
            found = True
    return found


def _num_values(tensor: onnx.TensorProto) -> int:
    return math.prod(tensor.dims)


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Nodes and constants that no output depends on."""
    used = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if used.intersection(node.output):
            used.update(node.input)
            nodes.append(node)
    kept = [weight for weight in graph.initializer if weight.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(kept)


def _rank(graph: onnx.GraphProto, name: str) -> int | None:
    """Of the value ``name``; None where the graph does not say."""
    for value in (*graph.value_info, *graph.input):
        if value.name == name and value.type.tensor_type.HasField("shape"):
            return len(value.type.tensor_type.shape.dim)
    return None


def _name_nodes(graph: onnx.GraphProto) -> None:
    taken: set[str] = set()
    for node in graph.node:
        name = node.name or f"{node.op_type}_{node.output[0]}"
        while name in taken:
            name = f"{name}_{node.output[0]}"
        taken.add(name)
        node.name = name

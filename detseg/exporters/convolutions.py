"""The convolutions of an exported graph by where they stand; after the last ones comes decoding."""

from __future__ import annotations

import onnx


def first_convolutions(network: onnx.ModelProto) -> list[str]:
    """The names of the convolutions that no other one comes before."""
    behind: set[str] = set()
    first = []
    for node in network.graph.node:
        follows = bool(behind & set(node.input))
        if _is_convolution(node) and not follows:
            first.append(node.name)
        if _is_convolution(node) or follows:
            behind.update(node.output)
    return first


def depthwise_convolutions(network: onnx.ModelProto) -> list[str]:
    """The names of the convolutions whose channels do not mix."""
    return [
        node.name
        for node in network.graph.node
        if _is_convolution(node) and any(one.name == "group" and one.i > 1 for one in node.attribute)
    ]


def last_convolutions(network: onnx.ModelProto) -> list[str]:
    """The names of the convolutions that no other one follows."""
    followed = _before_a_convolution(network)
    return [node.name for node in network.graph.node if _is_convolution(node) and not followed & set(node.output)]


def nodes_after_last_convolutions(network: onnx.ModelProto) -> list[str]:
    """The names of all other nodes that no convolution follows."""
    followed = _before_a_convolution(network)
    return [node.name for node in network.graph.node if not _is_convolution(node) and not followed & set(node.output)]


def _before_a_convolution(network: onnx.ModelProto) -> set[str]:
    """The names of the values that convolutions depend on; nodes are sorted by their dependence, as ONNX requires."""
    needed: set[str] = set()
    for node in reversed(network.graph.node):
        if _is_convolution(node) or needed & set(node.output):
            needed.update(node.input)
    return needed


def _is_convolution(node: onnx.NodeProto) -> bool:
    return node.op_type in ("Conv", "ConvTranspose")

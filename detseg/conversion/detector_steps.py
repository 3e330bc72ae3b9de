"""A detector of detseg as a graph of steps, traced by torch.fx."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from detseg.conversion.steps import Step, convolution, pooling
from detseg.layers.conv import ConvNormAct
from detseg.models.detector import Detector


class _Parts(nn.Module):
    """A detector without its check of the image's size, which a trace cannot follow."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = detector.backbone, detector.neck, detector.head

    def forward(self, images: Tensor) -> Any:
        return self.head(self.neck(self.backbone(images)))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, ConvNormAct | nn.Conv2d)


def detector_steps(detector: Detector) -> list[Step]:
    """The levels of the output, fine to coarse; convolutions bear the names of their modules."""
    parts = _Parts(detector)
    graph = _Tracer().trace(parts)
    steps: dict[fx.Node, Step] = {}
    for node in graph.nodes:
        if node.op == "output":
            return [steps[level] for level in node.args[0]]
        steps[node] = _step(node, parts, steps)
    raise AssertionError("a graph without an output")


def _step(node: fx.Node, parts: nn.Module, steps: dict[fx.Node, Step]) -> Step:
    if node.op == "placeholder":
        return Step("image")
    arguments: Sequence[Any] = node.args
    if node.op == "call_module":
        assert isinstance(node.target, str)
        return _convolution(steps[arguments[0]], node.target, parts.get_submodule(node.target))
    assert node.op == "call_function", node.format_node()
    if node.target is operator.getitem:
        _, rows, columns = arguments[1]
        assert rows.step == columns.step == 2
        return Step("corner", (rows.start, columns.start), (steps[arguments[0]],))
    if node.target is torch.cat:
        return Step("concatenation", (), tuple(steps[source] for source in arguments[0]))
    if node.target is operator.add:
        return Step("sum", (), tuple(steps[source] for source in arguments))
    if node.target is F.interpolate:
        assert node.kwargs["scale_factor"] == 2
        return Step("upsampling", (), (steps[arguments[0]],))
    if getattr(node.target, "__name__", "").startswith("max_pool2d") or node.target is F.max_pool2d:
        assert node.kwargs["stride"] == 1
        return pooling(steps[arguments[0]], arguments[1])
    raise AssertionError(f"an unknown step: {node.format_node()}")


def _convolution(source: Step, name: str, module: nn.Module) -> Step:
    activated = isinstance(module, ConvNormAct)
    conv = module.conv if isinstance(module, ConvNormAct) else module
    assert isinstance(conv, nn.Conv2d)
    assert not isinstance(conv.padding, str)
    return convolution(
        source,
        name,
        conv.weight.shape,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        activated=activated,
    )

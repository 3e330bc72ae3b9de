"""YOLOX from ONNX files, whose batch norms are folded into convolutions and whose tensors have numbers for names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from detseg.conversion.detector_steps import detector_steps
from detseg.conversion.families import Recognized, yolox
from detseg.conversion.mapping import Mapped, check_fit, expected_tensors
from detseg.conversion.onnx_steps import OnnxGraph
from detseg.conversion.report import ConversionError
from detseg.conversion.steps import Identities, Step, pair_convolutions, shape_of, steps_before
from detseg.layers.conv import BATCH_NORM_EPS

_NEUTRAL = "neutral, as the file has the batch norm folded into the convolution"
FINE_TUNING_NOTE = (
    "the batch norms of an ONNX file are folded and their statistics lost: results are the same, but to train further "
    "convert the .pth file"
)


def recognize_graph(graph: OnnxGraph) -> Recognized:
    """The YOLOX that ``graph`` is, by the number of its first channels and of its classes.

    Raises:
        ConversionError: it is none.
    """
    corners = {step for step in graph.steps.values() if step.kind == "corner"}
    stems = [
        step
        for step in graph.steps.values()
        if step.kind == "convolution"
        and step.inputs[0].kind == "concatenation"
        and step.inputs[0].inputs
        and set(step.inputs[0].inputs) <= corners
    ]
    levels = graph.levels()
    if not stems or not levels:
        lacking = "its first layer does not take pixels by corners" if not stems else "it has no head with objectness"
        raise ConversionError(f"this is no YOLOX: {lacking}; of ONNX files, detseg converts YOLOX nano to x")
    return yolox(shape_of(stems[0])[0], shape_of(levels[0].inputs[2])[0])


def map_graph(graph: OnnxGraph, recognized: Recognized) -> Mapped:
    """The weights in ``graph``, found by the places of their convolutions.

    Raises:
        ConversionError: the graph is not that of the network; an array of the file was not used.
    """
    with torch.device("meta"):
        detector: Any = recognized.model.build(num_classes=recognized.num_classes)
    own, found = detector_steps(detector), graph.levels()
    identities = Identities()
    by_identity = {identities.of(level): level for level in found}
    if len(found) != len(own) or by_identity.keys() != {identities.of(level) for level in own}:
        _refuse(own, graph, recognized, identities)
    pairs = pair_convolutions(own, [by_identity[identities.of(level)] for level in own], identities)
    expected = expected_tensors(recognized.model, recognized.num_classes)
    weights: dict[str, Tensor] = {}
    mapped: list[tuple[str, str]] = []
    for module, name in pairs.items():
        folded = f"{module}.bn.bias" in expected
        for source, place in (
            (name, f"{module}.conv.weight" if folded else f"{module}.weight"),
            (graph.biases[name], f"{module}.bn.bias" if folded else f"{module}.bias"),
        ):
            weights[place] = check_fit(source, graph.arrays[source], expected[place])
            mapped.append((source, place))
    missing = tuple((place, _NEUTRAL) for place in expected if place not in weights)
    weights |= {place: _neutral(place, expected[place]) for place, _ in missing}
    return Mapped(weights, tuple(mapped), _unused(graph, {name for name, _ in mapped}), missing)


def _neutral(place: str, expected: Tensor) -> Tensor:
    """What makes a batch norm add its bias and do nothing else: the root of variance plus eps is one."""
    values = {"weight": 1.0, "running_mean": 0.0, "running_var": 1.0 - BATCH_NORM_EPS, "num_batches_tracked": 0}
    return torch.full(expected.shape, values[place.rpartition(".")[2]], dtype=expected.dtype)


def _unused(graph: OnnxGraph, mapped: set[str]) -> tuple[tuple[str, str], ...]:
    """What is not weights. Raises ConversionError for arrays that nothing accounts for."""
    unused, problems = [], []
    for name, array in graph.arrays.items():
        if name in mapped:
            continue
        if name in graph.used:
            unused.append((name, "a setting of a layer: where it begins, how far it goes"))
        elif array.dtype.kind == "i" and array.ndim <= 1:
            unused.append((name, "a shape"))
        else:
            problems.append(f"{name} {list(array.shape)}")
    if problems:
        raise ConversionError(f"the graph is that of a YOLOX, but has more tensors: {', '.join(problems)}")
    return tuple(unused)


def _refuse(own: Sequence[Step], graph: OnnxGraph, recognized: Recognized, identities: Identities) -> NoReturn:
    """Say which layer is the first that has no match."""
    levels = graph.levels()
    present = {identities.of(step) for step in (*graph.steps.values(), *levels)}
    for step in steps_before(own):
        if identities.of(step) not in present:
            what = f"{step.kind} {step.name}".rstrip()
            raise ConversionError(
                f"the graph begins as that of a YOLOX {recognized.size}, but has nothing in the place of its {what}"
            )
    raise ConversionError(f"the graph has {len(levels)} outputs, a YOLOX {len(own)}")

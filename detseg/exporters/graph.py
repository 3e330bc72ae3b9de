"""From a module of torch to a clean ONNX graph: one file, folded, without traces of the machine it was made on."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import onnx
import torch

from detseg import __version__
from detseg.config import to_dict
from detseg.exporters.base import ExportSettings
from detseg.exporters.simplify import simplified
from detseg.runtime.onnx.file import FORMAT, KEY, KINDS_OF_TASKS
from detseg.tasks.base import ExportGraph, Task

MAX_FILE_BYTES = 2**31 - 1
"""What a protobuf file can hold; larger models would need their weights in a second file."""


def export_network(graph: ExportGraph, input_name: str, stride: int, settings: ExportSettings) -> onnx.ModelProto:
    """``graph``, traced by torch and simplified: constants folded, dead nodes gone. Sides are multiples of ``stride``.

    Raises:
        ValueError: the model is too large for one file.
    """
    example = graph.example
    if not settings.dynamic:
        example = example[:1]
    elif min(example.shape[2:]) <= stride:
        # A map of a single row or column would pass for one that always is.
        example = example.new_zeros((*example.shape[:2], *(max(side, 2 * stride) for side in example.shape[2:])))
    with torch.no_grad(), warnings.catch_warnings():
        # What torch says of its own internals while it traces is nothing that a user could act on.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph.module.eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=(dict(graph.free_sides),) if settings.dynamic else None,
            input_names=[input_name],
            output_names=list(graph.output_names),
            opset_version=settings.opset,
            optimize=False,  # see `simplified`, which takes seconds where torch takes minutes
            verbose=False,
        )
    assert program is not None
    network = program.model_proto
    if network.ByteSize() > MAX_FILE_BYTES:
        raise ValueError(f"the model takes {network.ByteSize() / 1e9:.1f} GB; one ONNX file holds 2 GB at most")
    network = simplified(network)
    _clean(network)
    return network


def _clean(network: onnx.ModelProto) -> None:
    """Remove what torch notes about its sources, which are paths of this machine, and give sides their plain names."""
    del network.metadata_props[:]
    network.doc_string = ""
    graph = network.graph
    graph.doc_string = ""
    del graph.metadata_props[:]
    # The sizes of values stay, by name where they are free: without them, loading takes ONNX Runtime several times as
    # long, as it searches for the memory of each among all others.
    live = {name for node in graph.node for name in node.output} - {value.name for value in graph.output}
    known = [value for value in graph.value_info if value.name in live]
    del graph.value_info[:]
    graph.value_info.extend(known)
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output, *known):
        del item.metadata_props[:]
        item.doc_string = ""
    network.producer_name, network.producer_version = "detseg", __version__


def name_sides(network: onnx.ModelProto, sides: dict[str, tuple[str, ...]]) -> None:
    """Give the free dimensions of each input and output the names that ``sides`` has for them."""
    for value in (*network.graph.input, *network.graph.output):
        for dimension, name in zip(value.type.tensor_type.shape.dim, sides[value.name], strict=True):
            if not dimension.HasField("dim_value"):
                dimension.dim_param = name


def describe(task: Task, settings: ExportSettings) -> dict[str, Any]:
    """What a file of ``task`` says of itself: all that is needed to run it."""
    kind = {} if KINDS_OF_TASKS.get(task.name) == task.kind.name else {"kind": task.kind.name}
    return {
        "version": __version__,
        "task": task.name,
        **kind,
        "class_names": list(task.class_names),
        "category_ids": list(task.category_ids),
        "input": to_dict(task.spec),
        "stride": task.stride,
        "precision": settings.precision,
        "form": settings.form,
        "postprocess": to_dict(task.config.postprocess),
        **task.metadata(),
    }


def write_metadata(network: onnx.ModelProto, described: Mapping[str, Any]) -> None:
    """Write into the file what it says of itself: one entry for detseg, and plain ones for other tools."""
    names, spec = described["class_names"], described["input"]
    entries = {
        KEY: json.dumps({"format": FORMAT, **described}, sort_keys=True),
        "task": described["task"],
        "stride": str(described["stride"]),
        "names": json.dumps({str(index): name for index, name in enumerate(names)}),
    }
    if "height" in spec:
        entries["imgsz"] = json.dumps([spec["height"], spec["width"]])
    onnx.helper.set_model_props(network, entries)

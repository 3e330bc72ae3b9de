"""From a module of torch to a clean ONNX graph: one file, folded, without traces of the machine it was made on."""

from __future__ import annotations

import json
import warnings
from typing import Any

import onnx
import torch

from detseg import __version__
from detseg.config import to_dict
from detseg.export.base import Exporter, ExportSettings
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.onnx.metadata import FORMAT, KEY

MAX_FILE_BYTES = 2**31 - 1
"""What a protobuf file can hold; larger models would need their weights in a second file."""


def export_network(exporter: Exporter, settings: ExportSettings) -> onnx.ModelProto:
    """The graph of ``exporter``, traced by torch and simplified: constants folded, dead nodes gone.

    Raises:
        ValueError: the model is too large for one file.
    """
    example = exporter.example()
    if not settings.dynamic:
        example = example[:1]
    elif min(example.shape[2:]) <= exporter.task.stride:
        # A map of a single row or column would pass for one that always is.
        example = example.new_zeros(
            (*example.shape[:2], *(max(side, 2 * exporter.task.stride) for side in example.shape[2:]))
        )
    names = exporter.output_names
    with torch.no_grad(), warnings.catch_warnings():
        # What torch says of its own internals while it traces is nothing that a user could act on.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            exporter.graph().eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=(dict(exporter.free_sides()),) if settings.dynamic else None,
            input_names=[exporter.input_name],
            output_names=list(names),
            opset_version=settings.opset,
            verbose=False,
        )
    assert program is not None
    network = program.model_proto
    if network.ByteSize() > MAX_FILE_BYTES:
        raise ValueError(f"the model takes {network.ByteSize() / 1e9:.1f} GB; one ONNX file holds 2 GB at most")
    _clean(network)
    return network


def _clean(network: onnx.ModelProto) -> None:
    """Remove what torch notes about its sources, which are paths of this machine, and give sides their plain names."""
    del network.metadata_props[:]
    network.doc_string = ""
    graph = network.graph
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        del item.metadata_props[:]
        item.doc_string = ""
    network.producer_name, network.producer_version = "detseg", __version__


def name_sides(network: onnx.ModelProto, sides: dict[str, tuple[str, ...]]) -> None:
    """Give the free dimensions of each input and output the names that ``sides`` has for them."""
    for value in (*network.graph.input, *network.graph.output):
        for dimension, name in zip(value.type.tensor_type.shape.dim, sides[value.name], strict=True):
            if not dimension.HasField("dim_value"):
                dimension.dim_param = name


def write_metadata(network: onnx.ModelProto, exporter: Exporter, task: Any, settings: ExportSettings) -> None:
    """Write into the file all that is needed to run it: one entry for detseg, and plain ones for other tools."""
    own = {
        "format": FORMAT,
        "version": __version__,
        "task": task.name,
        "class_names": list(task.class_names),
        "category_ids": list(task.category_ids),
        "input": to_dict(task.spec),
        "stride": task.stride,
        "precision": settings.precision,
        "form": settings.form,
        "postprocess": to_dict(task.config.postprocess),
        **exporter.metadata(),
    }
    entries = {
        KEY: json.dumps(own, sort_keys=True),
        "task": task.name,
        "stride": str(task.stride),
        "names": json.dumps({str(index): name for index, name in enumerate(task.class_names)}),
    }
    if isinstance(task.spec, InputSpec):
        entries["imgsz"] = json.dumps([task.spec.height, task.spec.width])
    onnx.helper.set_model_props(network, entries)

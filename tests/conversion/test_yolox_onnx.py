"""The official ONNX file with one thing changed at a time."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper

from detseg.conversion.convert import convert
from detseg.conversion.report import ConversionError
from detseg.tasks.model_file import load_model_file

Change = Callable[[ModelProto], None]


@pytest.fixture
def official(detseg_data: Path) -> ModelProto:
    return onnx.load(detseg_data / "weights/yolox_nano_coco.onnx")


def converted(model: ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "changed.onnx")
    convert(folder / "changed.onnx", folder / "out.safetensors")
    return folder / "out.safetensors"


def nodes(model: ModelProto, kind: str) -> list[NodeProto]:
    return [node for node in model.graph.node if node.op_type == kind]


def set_attribute(node: NodeProto, name: str, value: object) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def test_names_do_not_matter(official: ModelProto, detseg_data: Path, tmp_path: Path) -> None:
    """Every tensor gets a random name, and twins change places in the list: the weights go where they belong."""
    draw = random.Random(0)
    names = {tensor.name for tensor in official.graph.initializer} | {
        name for node in official.graph.node for name in node.output
    }
    numbers = draw.sample(range(10**6), len(names))
    renamed = {name: f"t{number}" for name, number in zip(sorted(names), numbers, strict=True)}
    for tensor in official.graph.initializer:
        tensor.name = renamed[tensor.name]
    for node in official.graph.node:
        for values in (node.input, node.output):
            values[:] = [renamed.get(name, name) for name in values]
    official.graph.output[0].name = renamed[official.graph.output[0].name]
    shuffled = list(official.graph.initializer)
    draw.shuffle(shuffled)
    del official.graph.initializer[:]
    official.graph.initializer.extend(shuffled)
    for addition in nodes(official, "Add")[::2]:
        addition.input[:] = list(addition.input)[::-1]
    found = load_model_file(converted(official, tmp_path)).model.state_dict()
    convert(detseg_data / "weights/yolox_nano_coco.onnx", tmp_path / "official.safetensors")
    for name, value in load_model_file(tmp_path / "official.safetensors").model.state_dict().items():
        assert torch.equal(found[name], value), name


def _other_pads(model: ModelProto) -> None:
    set_attribute(nodes(model, "Conv")[1], "pads", [0, 0, 0, 0])


def _other_stride(model: ModelProto) -> None:
    set_attribute(nodes(model, "Conv")[1], "strides", [1, 1])


def _other_activation(model: ModelProto) -> None:
    nodes(model, "Sigmoid")[5].op_type = "HardSigmoid"


def _other_upsampling(model: ModelProto) -> None:
    set_attribute(nodes(model, "Resize")[0], "mode", "linear")


def _other_pooling(model: ModelProto) -> None:
    pool = nodes(model, "MaxPool")[0]
    set_attribute(pool, "kernel_shape", [7, 7])
    set_attribute(pool, "pads", [3, 3, 3, 3])


def _swapped_corners(model: ModelProto) -> None:
    corners = nodes(model, "Concat")[0]
    corners.input[:] = [corners.input[index] for index in (0, 2, 1, 3)]


def _swapped_halves(model: ModelProto) -> None:
    halves = nodes(model, "Concat")[3]
    halves.input[:] = list(halves.input)[::-1]


def _lost_level(model: ModelProto) -> None:
    level = next(node for node in reversed(nodes(model, "Concat")) if len(node.input) == 3 and node.attribute[0].i == 1)
    level.input[:] = list(level.input)[:2]


def _more_weights(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((3, 3), np.float32), "left_over"))


def _nan(model: ModelProto) -> None:
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "1179")
    bias.CopyFrom(numpy_helper.from_array(np.full(16, np.nan, np.float32), "1179"))


def _no_slices(model: ModelProto) -> None:
    for node in nodes(model, "Slice"):
        node.op_type = "Identity"


def _no_weights(model: ModelProto) -> None:
    nodes(model, "Conv")[0].input[:] = nodes(model, "Conv")[0].input[:1]


def _no_axis(model: ModelProto) -> None:
    del nodes(model, "Concat")[0].attribute[:]


def _second_input(model: ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", 1, [1, 3, 416, 416]))


def _flat_input(model: ModelProto) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[2:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_pads, r"nothing in the place of its convolution backbone\.stages\.0\.0\.depthwise"),
        (_other_stride, r"nothing in the place of its convolution backbone\.stages\.0\.0\.depthwise"),
        (_other_activation, r"nothing in the place of its convolution backbone\.stages\.0\.1\.blocks\.0\.conv1"),
        (_other_upsampling, "nothing in the place of its upsampling"),
        (_other_pooling, "nothing in the place of its pooling"),
        (_swapped_corners, "nothing in the place of its concatenation"),
        (_swapped_halves, "nothing in the place of its concatenation"),
        (_lost_level, "nothing in the place of its concatenation"),
        (_more_weights, r"has more tensors: left_over \[3, 3\]"),
        (_nan, "1179 holds values that are not finite"),
        (_no_slices, "this is no YOLOX: its first layer does not take pixels by corners"),
        (_no_weights, "a layer of the graph is not as ONNX has it"),
        (_no_axis, "a layer of the graph is not as ONNX has it"),
        (_second_input, "the network has 2 inputs, expected one"),
        (_flat_input, "a layer of the graph is not as ONNX has it"),
    ],
)
def test_what_is_not_the_graph_is_told(change: Change, message: str, official: ModelProto, tmp_path: Path) -> None:
    change(official)
    with pytest.raises(ConversionError, match=message) as caught:
        converted(official, tmp_path)
    assert str(caught.value).startswith(str(tmp_path / "changed.onnx"))
    assert not (tmp_path / "out.safetensors").exists()


def test_damaged_files_end_in_one_kind_of_error(detseg_data: Path, tmp_path: Path) -> None:
    content = (detseg_data / "weights/yolox_nano_coco.onnx").read_bytes()
    draw = random.Random(0)
    messages = []
    # The nodes stand before the weights: most changes go there.
    for index in range(20):
        changed = bytearray(content)
        for _ in range(draw.choice((1, 3, 10))):
            changed[draw.randrange(40_000)] = draw.randrange(256)
        path = tmp_path / f"{index}.onnx"
        path.write_bytes(changed)
        try:
            convert(path, tmp_path / f"{index}.safetensors")
        except ValueError as error:
            messages.append(str(error))
        path.unlink()
    assert len(messages) > 10
    assert all(message.startswith(str(tmp_path)) for message in messages)

"""What would end the process that loads it, as a file of another program, is one error."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from detseg.runtime.onnx.file import OnnxFileError
from detseg.runtime.onnx.model import OnnxModel


def _file(folder: Path, *nodes: onnx.NodeProto, **constants: np.ndarray) -> Path:
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])
    output = helper.make_tensor_value_info("output", TensorProto.FLOAT, None)
    given = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(list(nodes), "one", [images], [output], given)
    path = folder / "one.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(made.SerializeToString())
    return path


def _sliced(node: onnx.NodeProto) -> tuple[onnx.NodeProto, onnx.NodeProto]:
    return node, helper.make_node("Slice", ["wide", "zero", "many", "axis"], ["output"])


INDICES = {"zero": np.array([0]), "many": np.array([4]), "axis": np.array([3])}


@pytest.mark.parametrize(
    ("node", "weights"),
    [
        (helper.make_node("Conv", ["images", "w"], ["wide"], kernel_shape=[8, 127], strides=[8, 8]), (4, 3, 8, 127)),
        (helper.make_node("Conv", ["images", "w"], ["wide"], kernel_shape=[3, 3], dilations=[1, 99]), (4, 3, 3, 3)),
        (helper.make_node("MaxPool", ["images"], ["wide"], kernel_shape=[2, 200]), None),
    ],
    ids=["a kernel beyond the image", "dilated beyond the image", "pooled beyond the image"],
)
def test_sizes_below_zero(tmp_path: Path, node: onnx.NodeProto, weights: tuple[int, ...] | None) -> None:
    given = {} if weights is None else {"w": np.zeros(weights, np.float32)}
    path = _file(tmp_path, *_sliced(node), **given, **INDICES)
    with pytest.raises(OnnxFileError, match=str(path)):
        OnnxModel(path)


def test_the_command_line_says_it_in_one_line(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["images", "w"], ["wide"], kernel_shape=[8, 127], strides=[8, 8])
    path = _file(tmp_path, *_sliced(node), w=np.zeros((4, 3, 8, 127), np.float32), **INDICES)
    command = [sys.executable, "-m", "detseg", "predict", str(path), str(tmp_path), "-o", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert [str(path) in line for line in ended.stderr.splitlines()] == [True]

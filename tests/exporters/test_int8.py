from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import numpy_helper

from detseg.arrays import FloatArray
from detseg.exporters.int8 import to_int8

NETWORK = """
<ir_version: 10, opset_import: ["" : 18]>
network (float[batch, 3, height, width] images) => (float[batch, 2, height, width] out)
{
    [first] a = Conv (images, w1)
    [act] b = Relu (a)
    [second] c = Conv (b, w2)
    [apart] d = Conv <group = 8> (c, w3)
    [third] e = Conv (d, w2)
    [last] out = Conv (e, w4)
}
"""
SHAPES = {"w1": (8, 3, 1, 1), "w2": (8, 8, 1, 1), "w3": (8, 1, 1, 1), "w4": (2, 8, 1, 1)}


def network() -> onnx.ModelProto:
    model = onnx.parser.parse_model(NETWORK)
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        weight = rng.normal(size=shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    return model


def images(seed: int, count: int = 1) -> FloatArray:
    return np.random.default_rng(seed).random((count, 3, 16, 16)).astype(np.float32)


def test_inner_convolutions_are_on_integers_and_the_rest_is_not() -> None:
    quantized = to_int8(network(), [images(seed) for seed in range(4)])
    weights = {weight.name for weight in quantized.graph.initializer}
    assert {"w1", "w3", "w4", "w2_quantized"} <= weights
    assert "w2" not in weights
    scale = next(weight for weight in quantized.graph.initializer if weight.name == "w2_scale")
    assert list(scale.dims) == [8], "one for each channel"
    # Unsigned, because processors without VNNI add products of signed by unsigned numbers in 16 bits, which overflow.
    values = {one.name: numpy_helper.to_array(one) for one in quantized.graph.initializer}
    assert values["w2_quantized"].dtype == np.uint8
    assert values["w2_zero_point"].tolist() == [128] * 8
    made_by = {name: node for node in quantized.graph.node for name in node.output}
    readers = {node.name: node for node in quantized.graph.node if node.op_type == "Conv"}
    assert made_by[readers["second"].input[0]].op_type == "DequantizeLinear"
    assert readers["first"].input[0] == "images"


def test_results_are_those_of_float32_but_for_256_steps() -> None:
    model = network()
    quantized = to_int8(model, [images(seed) for seed in range(8)])
    unseen = images(99, count=3)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"images": unseen})
    (found,) = onnxruntime.InferenceSession(quantized.SerializeToString()).run(None, {"images": unseen})
    assert found.shape == expected.shape
    error = np.abs(found - expected)
    assert 0 < error.mean() < 0.02 * expected.std()


def test_nothing_is_printed(capsys: object) -> None:
    to_int8(network(), [images(0)])
    assert capsys.readouterr().out == ""  # type: ignore[attr-defined]

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import TensorProto, numpy_helper

from detseg.exporters.half import to_half

# A network with a resize, whose scales are float32 by the standard, and decoding behind it that must not be rounded:
# the position of each column, in float32, is beyond what float16 can count.
NETWORK = """
<ir_version: 10, opset_import: ["" : 18]>
network (float[batch, 2, height, width] x) => (float[batch, 3, h2, w2] out, float[1] kept)
<float[3, 2, 1, 1] w = {0.5, -0.25, 1.5, 2.0, 70000.0, 0.1}, float[4] scales = {1.0, 1.0, 2.0, 2.0},
 float[1] far = {4097.0}>
{
    [conv] raw = Conv (x, w)
    [act] act = Sigmoid (raw)
    [resize] larger = Resize <mode = "nearest"> (act, , scales)
    [again] last = Conv <group = 3> (larger, w3)
    [decode] out = Add (last, far)
    [constant] kept = Mul (far, far)
}
"""


def network() -> onnx.ModelProto:
    model = onnx.parser.parse_model(NETWORK)
    model.graph.initializer.append(numpy_helper.from_array(np.full((3, 1, 1, 1), 2, np.float32), "w3"))
    return model


def test_the_network_is_half_and_the_rest_is_not() -> None:
    half = to_half(network())
    onnx.checker.check_model(half, full_check=True)
    types = {weight.name: weight.data_type for weight in half.graph.initializer}
    assert types == {
        "w_half": TensorProto.FLOAT16,
        "w3_half": TensorProto.FLOAT16,
        "scales": TensorProto.FLOAT,
        "far": TensorProto.FLOAT,
    }
    for value in (*half.graph.input, *half.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    known = {value.name: value.type.tensor_type.elem_type for value in half.graph.value_info}
    assert known["raw"] == known["act"] == known["larger"] == TensorProto.FLOAT16
    assert known["last_float"] == TensorProto.FLOAT
    # One on the way in, one before decoding.
    assert [node.op_type for node in half.graph.node].count("Cast") == 2


def test_results_are_those_of_float32_but_for_rounding() -> None:
    x = np.random.default_rng(0).random((2, 2, 4, 6)).astype(np.float32)
    expected, kept = onnxruntime.InferenceSession(network().SerializeToString()).run(None, {"x": x})
    found, half_kept = onnxruntime.InferenceSession(to_half(network()).SerializeToString()).run(None, {"x": x})
    # 4097 itself would be 4096 in float16; weights beyond its range are the largest it has, not infinite.
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-3)
    assert found.max() > 4098.5
    np.testing.assert_array_equal(kept, half_kept)


def test_an_output_of_the_network_itself_is_float32() -> None:
    model = network()
    del model.graph.node[4:]
    model.graph.node[3].output[0] = "out"
    del model.graph.output[1:]
    half = to_half(model)
    onnx.checker.check_model(half, full_check=True)
    x = np.random.default_rng(0).random((1, 2, 4, 4)).astype(np.float32)
    (found,) = onnxruntime.InferenceSession(half.SerializeToString()).run(None, {"x": x})
    assert found.dtype == np.float32

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import numpy_helper

from detseg.exporters.simplify import simplified

TEXT = """
<ir_version: 10, opset_import: ["" : 18]>
graph (float[batch, 2, height, width] images) => (float[batch, 2, 1, 1] out)
<int64[1] two = {2}, int64 zero = {0}, int64[2] axes = {2, 3},
 float[2] scale = {2.0, 3.0}, float[2] shift = {1.0, -1.0}, float[2] mean = {0.5, 0.25}, float[2] var = {4.0, 9.0}>
{
    no = Cast <to = 1> (zero)
    bias = Expand (no, two)
    one = Conv <kernel_shape = [1, 1]> (images, weight, bias)
    normal = BatchNormalization (one, scale, shift, mean, var)
    unused = Relu (normal)
    out = ReduceMean <keepdims = 1> (normal, axes)
}
"""


def test_what_is_not_needed_is_gone_and_results_stay() -> None:
    network = onnx.parser.parse_model(TEXT)
    weight = np.array([[1, -2], [3, 0.5]], np.float32).reshape(2, 2, 1, 1)
    network.graph.initializer.append(numpy_helper.from_array(weight, "weight"))
    network.graph.value_info.append(onnx.helper.make_tensor_value_info("normal", 1, ["batch", 2, "height", "width"]))
    made = simplified(network)
    onnx.checker.check_model(made, full_check=True)
    assert [node.op_type for node in made.graph.node] == ["Conv", "GlobalAveragePool"]
    assert len({node.name for node in made.graph.node}) == 2
    assert [(entry.domain, entry.version) for entry in made.opset_import] == [("", 18)]
    assert made.graph.input[0].type.tensor_type.shape.dim[2].dim_param == "height"
    images = np.random.default_rng(0).random((3, 2, 4, 5), np.float32)
    expected = np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], images).mean((2, 3), keepdims=True)
    scale = np.array([2, 3]) / np.sqrt(np.array([4, 9]) + 1e-5)
    mean, shift = np.array([0.5, 0.25])[:, None, None], np.array([1, -1])[:, None, None]
    expected = (expected - mean) * scale[:, None, None] + shift
    (found,) = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"images": images})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


SEQUENCE = """
<ir_version: 10, opset_import: ["" : 18]>
graph (float[batch, 5, height, width] images) => (float[batch, 2, height, width] out)
<int64 two = {2}, int64 first = {0}, int64 second = {-2}>
{
    parts = SplitToSequence <axis = 1> (images, two)
    a = SequenceAt (parts, first)
    b = SequenceAt (parts, second)
    out = Sub (a, b)
}
"""


def test_members_of_a_sequence_become_parts() -> None:
    """Of five channels two, two and one; the second is the last but one."""
    made = simplified(onnx.parser.parse_model(SEQUENCE))
    onnx.checker.check_model(made, full_check=True)
    assert [node.op_type for node in made.graph.node] == ["Split", "Sub"]
    images = np.random.default_rng(0).random((2, 5, 3, 4), np.float32)
    (found,) = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"images": images})
    np.testing.assert_array_equal(found, images[:, :2] - images[:, 2:4])

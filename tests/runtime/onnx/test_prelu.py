from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

from detseg.runtime.onnx.prelu import with_convolutions_for_prelu

TEXT = """
<ir_version: 10, opset_import: ["" : 18]>
graph (float[batch, 3, height, width] images) => (float[batch, 3, height, width] out)
{ inner = PRelu(images, slopes)  out = Sigmoid(inner) }
"""
SLOPES = np.array([-0.5, 0.25, 2.0], np.float32)


def network(shape: tuple[int, ...], slopes: np.ndarray = SLOPES) -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT)
    model.graph.initializer.append(numpy_helper.from_array(slopes.reshape(shape), "slopes"))
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("inner", 1, ["batch", 3, "height", "width"]))
    return model


@pytest.mark.parametrize("shape", [(3, 1, 1), (1, 3, 1, 1)])
def test_the_same_function_without_prelu(shape: tuple[int, ...]) -> None:
    before = network(shape).SerializeToString()
    after = with_convolutions_for_prelu(before)
    made = onnx.load_from_string(after)
    onnx.checker.check_model(made, full_check=True)
    assert [node.op_type for node in made.graph.node] == ["Relu", "Conv", "Conv", "Add", "Sigmoid"]
    assert len(made.graph.value_info) == 4
    images = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    found, expected = (onnxruntime.InferenceSession(one).run(None, {"images": images})[0] for one in (after, before))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_a_slope_for_all_channels_stays_a_prelu() -> None:
    before = network((1,), np.array([0.25], np.float32))
    after = onnx.load_from_string(with_convolutions_for_prelu(before.SerializeToString()))
    assert after == before

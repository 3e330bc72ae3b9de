from __future__ import annotations

import onnx
import onnx.parser

from detseg.exporters.convolutions import (
    depthwise_convolutions,
    first_convolutions,
    last_convolutions,
    nodes_after_last_convolutions,
)

# Two branches behind a stem; one has a further convolution. "halved" is used before and after the last ones.
NETWORK = """
<ir_version: 10, opset_import: ["" : 18]>
network (float[1, 2, 4, 4] x, float[2, 2, 1, 1] w) => (float[1, 2, 4, 4] out)
{
    [stem] stem = Conv (x, w)
    [act] act = Relu (stem)
    [left] left = Conv <group = 2> (act, w)
    [middle] middle = Sigmoid (act)
    [right] right = ConvTranspose (middle, w)
    [late] late = Conv (left, w)
    [sum] total = Add (late, right)
    [tail] out = Exp (total)
}
"""


def test_convolutions_are_told_apart() -> None:
    network = onnx.parser.parse_model(NETWORK)
    assert first_convolutions(network) == ["stem"]
    assert depthwise_convolutions(network) == ["left"]
    assert last_convolutions(network) == ["right", "late"]
    assert nodes_after_last_convolutions(network) == ["sum", "tail"]

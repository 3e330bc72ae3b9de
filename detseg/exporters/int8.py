"""8-bit integers for exported networks, by the quantizer of ONNX Runtime."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from detseg.arrays import FloatArray
from detseg.exporters.convolutions import (
    depthwise_convolutions,
    first_convolutions,
    last_convolutions,
    nodes_after_last_convolutions,
)
from detseg.runtime.onnx.session import import_onnxruntime

PERCENTILE = 99.99
"""Of the values of an activation, the share that its range covers."""


def to_int8(network: onnx.ModelProto, inputs: Iterable[FloatArray]) -> onnx.ModelProto:
    """``network`` with convolutions on 8-bit integers: weights by channel, activations by the ranges that they have for
    ``inputs``, batches as the network takes them.

    Some convolutions stay float32, chosen by the AP that YOLOX-Nano loses on COCO. The first sees pixels: rounded to
    256 steps, it alone costs most of what is lost. The depthwise ones have hardly any weights, and the channels of
    each differ in range. The last and what follows give boxes, which must not be rounded. Ranges leave out the most
    extreme of ten thousand values; with these, hardly any AP is left. Weights are unsigned, around 128: processors
    without VNNI add products of signed by unsigned numbers in 16 bits, which overflow.
    """
    import_onnxruntime()
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    name = network.graph.input[0].name
    kept = [
        *first_convolutions(network),
        *depthwise_convolutions(network),
        *last_convolutions(network),
        *nodes_after_last_convolutions(network),
    ]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(network, source)
        quantize_static(
            source,
            target,
            _CalibrationInputs(name, iter(inputs)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QUInt8,
            nodes_to_exclude=kept,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": PERCENTILE, "WeightSymmetric": True},
        )
        return onnx.load(target)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizer's hints to itself, which it prints and logs."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


class _CalibrationInputs:
    """What the quantizer asks for its inputs, one at a time."""

    def __init__(self, name: str, inputs: Iterator[FloatArray]) -> None:
        self._name = name
        self._inputs = inputs

    def get_next(self) -> dict[str, Any] | None:
        """The next input by name, None at the end."""
        array = next(self._inputs, None)
        return None if array is None else {self._name: np.ascontiguousarray(array)}

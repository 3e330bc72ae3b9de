"""Small exported models: one layer each, so that torch can say what they give, in files like those of the exporter."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.parser
import pytest

SaveOnnx = Callable[..., Path]


@pytest.fixture
def save_onnx(tmp_path: Path) -> SaveOnnx:
    """``save(graph, weights, metadata)`` writes a file: ``graph`` in the text form of ONNX, the metadata as JSON."""

    def save(
        graph: str,
        weights: Mapping[str, np.ndarray] | None = None,
        metadata: Mapping[str, Any] | str | None = None,
        name: str = "model.onnx",
    ) -> Path:
        model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> {graph}')
        for key, value in (weights or {}).items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, key))
        if metadata is not None:
            text = metadata if isinstance(metadata, str) else json.dumps(metadata)
            onnx.helper.set_model_props(model, {"detseg": text, "names": "{}"})
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return save

"""The verb ``export``: from a model file to a proved ONNX file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detseg.runtime.weights.released import find_model

EXIT_NOT_EQUAL = 3
"""The exported file does not give the results of the model; it was not kept."""

_EXTRA = ("onnx", "onnxscript")


def export_command(
    model_path: Path,
    output: Path | None,
    *,
    precision: str = "fp32",
    form: str | None = None,
    opset: int | None = None,
    size: tuple[int, int] | None = None,
    dynamic: bool = True,
    calibrate: str | None = None,
    verify: str | None = None,
    postprocess: Mapping[str, Any] | None = None,
) -> int:
    """``detseg export`` of a model file or of released weights, by name.

    Returns 0, or ``EXIT_NOT_EQUAL`` where the file would not give the results of the model.
    """
    named, model_path = model_path, find_model(model_path)
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"export needs {' and '.join(missing)}: pip install 'detseg[export]'")
    from detseg.exporters.base import ParityError
    from detseg.exporters.export import default_path, export_model

    if output is None and model_path != named:
        # The folder of released weights is no place for results.
        output = Path(default_path(model_path, precision).name)
    try:
        made = export_model(
            model_path,
            output,
            precision=precision,
            form=form,
            opset=opset,
            size=size,
            dynamic=dynamic,
            calibrate=calibrate,
            verify=verify,
            postprocess=postprocess or {},
        )
    except ParityError as error:
        print(f"detseg export: {error}", file=sys.stderr)
        return EXIT_NOT_EQUAL
    print(made.render())
    return 0

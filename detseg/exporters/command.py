"""The verb ``export``: from a model file to a proved ONNX file."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detseg.files import holds_keys, require_possible, require_replaceable
from detseg.runtime.onnx.forms import is_exported_file
from detseg.runtime.weights.released import find_model

if TYPE_CHECKING:
    from detseg.exporters.export import Exported

EXIT_NOT_EQUAL = 3
"""The exported file does not give the results of the model; it was not kept."""

_EXTRA = ("onnx", "onnxscript")


def export_command(model_path: Path, output: Path | None, **settings: Any) -> int:
    """``detseg export``, see :func:`run_export`.

    Returns 0, or ``EXIT_NOT_EQUAL`` where the file would not give the results of the model.
    """
    _require_extra()
    from detseg.exporters.base import ParityError

    try:
        made = run_export(model_path, output, **settings)
    except ParityError as error:
        print(f"detseg export: {error}", file=sys.stderr)
        return EXIT_NOT_EQUAL
    print(made.render())
    return 0


def run_export(
    model_path: Path,
    output: Path | None,
    *,
    format: str | None = None,
    precision: str = "fp32",
    form: str | None = None,
    opset: int | None = None,
    size: tuple[int, int] | None = None,
    dynamic: bool = True,
    calibrate: str | None = None,
    verify: str | None = None,
    postprocess: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Exported:
    """Export a model file, the best model of a run, or released weights by name; see
    :func:`detseg.exporters.export.export_model`. Only files of earlier exports are replaced, unless ``overwrite``.

    Raises:
        ModuleNotFoundError: the packages of the extra are not installed.
    """
    _require_extra()
    named, model_path = model_path, find_model(model_path)
    from detseg.exporters.choose_format import format_of
    from detseg.exporters.export import default_path, export_model

    suffix = format_of(output, format).suffix
    if output is None and model_path != named and not named.is_dir():
        # The folder of released weights is no place for results.
        output = Path(default_path(model_path, precision, suffix).name)
    written = output or default_path(model_path, precision, suffix)
    require_possible(written)
    require_replaceable(written, overwrite=overwrite, is_ours=is_exported_file)
    report = written.with_suffix(".parity.json")
    require_replaceable(report, overwrite=overwrite, is_ours=lambda path: holds_keys(path, "made_from", "sha256"))
    return export_model(
        model_path,
        output,
        format=format,
        precision=precision,
        form=form,
        opset=opset,
        size=size,
        dynamic=dynamic,
        calibrate=calibrate,
        verify=verify,
        postprocess=postprocess or {},
    )


def _require_extra() -> None:
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        extra = "train,export" if importlib.util.find_spec("torch") is None else "export"
        raise ModuleNotFoundError(f"export needs {' and '.join(missing)}: pip install 'detseg[{extra}]'")

"""From a model file to an ONNX file that was proved to give the same results."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from detseg.export import EXPORTERS
from detseg.export.base import DEFAULT_OPSET, Exporter, ExportSettings, ParityError
from detseg.export.graph import export_network, name_sides, write_metadata
from detseg.export.half import to_half
from detseg.export.int8 import to_int8
from detseg.export.parity import BATCH_SIZE, Parity, compare
from detseg.export.pictures import calibration_inputs, proving_pictures
from detseg.files import atomic_path, write_text
from detseg.runtime.onnx.model import OnnxModel
from detseg.runtime.onnx.runner import OnnxRunner
from detseg.tasks.package import Package, load_package, read_header


@dataclass(frozen=True)
class Exported:
    """A finished export: the file, its report beside it, and what that says."""

    path: Path
    report_path: Path
    num_bytes: int
    parity: Parity

    def render(self) -> str:
        """What was made and how it compares, for people."""
        lines = [f"{self.path}: {self.num_bytes / 1e6:.1f} MB", f"compared with torch on {self.parity.pictures}"]
        return "\n".join([*lines, *(f"  {line}" for line in self.parity.lines()), f"report: {self.report_path}"])


def export_model(
    model_path: Path,
    output: Path | None = None,
    *,
    precision: str = "fp32",
    form: str | None = None,
    opset: int | None = None,
    size: tuple[int, int] | None = None,
    dynamic: bool = True,
    calibrate: str | None = None,
    verify: str | None = None,
    postprocess: Mapping[str, Any] | None = None,
) -> Exported:
    """Write ``model_path`` as ONNX to ``output`` (default: beside it), with the settings for prediction, and beside
    that a report of the proof, ``<name>.parity.json``.

    Args:
        model_path: a ``.safetensors`` file of detseg.
        output: a file that ends in ``.onnx``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        form: of the outputs; for detection ``decoded``, ``raw`` or ``nms``, for the other tasks ``logits``.
        opset: of the ONNX standard.
        size: height and width of the input, in place of that of the model file.
        dynamic: whether batch and size are free.
        calibrate: the data set whose training images 8-bit ranges are taken from; needed for ``int8``.
        verify: the data set on whose split ``val`` model and file are also evaluated.
        postprocess: settings that replace those of the model file.

    Raises:
        ValueError: for settings that do not fit each other or the model, or a data set that cannot be opened.
        ParityError: the float32 file does not give the results of the model; it was not kept, the report was.
        detseg.files.SaveError: the disk is full or the folder cannot be written to.
    """
    if precision == "int8" and calibrate is None:
        raise ValueError("int8 takes the ranges of activations from training images: name them with --calibrate DATA")
    if precision != "int8" and calibrate is not None:
        raise ValueError(f"--calibrate is for int8, and the precision is {precision}")
    package = load_package(model_path, postprocess=postprocess, size=size, for_prediction=True)
    model: Any = package.model
    model.fuse()
    exporter_class = _exporter_class(package.task.name)
    form = form or exporter_class.forms[0]
    if form not in exporter_class.forms:
        raise ValueError(
            f"the task {package.task.name} has the output form {' or '.join(exporter_class.forms)}, got {form!r}"
        )
    settings = ExportSettings(precision, form, opset or DEFAULT_OPSET, dynamic)  # type: ignore[arg-type]
    output = output or default_path(model_path, precision)
    if output.suffix != ".onnx":
        raise ValueError(f"the output must end in .onnx, got {output}")

    exporter = exporter_class(model, package.task, form)
    pictures = proving_pictures(package.task, verify, calibrate)  # now: a wrong path should not take minutes to tell
    made = make_file(exporter, package.task, settings, calibrate)
    report_path = output.with_suffix(".parity.json")
    with atomic_path(output) as temporary:
        onnx.save(made, temporary)
        task = package.task if form == "nms" else _judging_task(model_path, package, postprocess or {})
        onnx_model = OnnxModel(temporary)
        parity = compare(
            model,
            task,
            onnx_model,
            OnnxRunner(onnx_model, _changed_settings(task, package.task)),
            pictures,
            exporter.comparison(),
            compares_outputs=exporter.compares_outputs,
            batch_size=BATCH_SIZE if dynamic else 1,
        )
        judged = precision == "fp32"
        failed = judged and bool(parity.problems)
        report = {
            "model": output.name,
            "sha256": hashlib.sha256(temporary.read_bytes()).hexdigest(),
            "made_from": str(model_path),
            "precision": precision,
            "form": form,
            "opset": settings.opset,
            "judged": judged,
            "kept": not failed,
            **parity.as_dict(),
        }
        write_text(report_path, json.dumps(report, indent=2) + "\n")
        if failed:
            raise ParityError(
                f"{output} does not give the results of {model_path} on {parity.pictures}: "
                f"{'; '.join(parity.problems)}; the file was not kept, the report is {report_path}"
            )
    return Exported(output, report_path, made.ByteSize(), parity)


def make_file(exporter: Exporter, task: Any, settings: ExportSettings, calibrate: str | None = None) -> onnx.ModelProto:
    """The finished graph in memory, checked, not yet proved.

    Raises:
        ValueError: the model is too large for one file, or the data set cannot be opened.
    """
    network = export_network(exporter, settings)
    if settings.precision == "fp16":
        network = to_half(network)
    elif settings.precision == "int8":
        assert calibrate is not None
        window = None if task.spec.one_size else tuple(exporter.example().shape[2:])
        network = to_int8(network, calibration_inputs(task, calibrate, window))
    made = exporter.finish(network)
    name_sides(made, exporter.sides())
    write_metadata(made, exporter, task, settings)
    onnx.checker.check_model(made, full_check=True)
    return made


def _exporter_class(task_name: str) -> type[Exporter]:
    module, _, attribute = EXPORTERS[task_name].partition(":")
    found: type[Exporter] = getattr(importlib.import_module(module), attribute)
    return found


def default_path(model_path: Path, precision: str) -> Path:
    """Where the file goes if the user does not say: beside the model."""
    return model_path.with_name(f"{model_path.stem}{'' if precision == 'fp32' else f'_{precision}'}.onnx")


def _judging_task(model_path: Path, package: Package, postprocess: Mapping[str, Any]) -> Any:
    """The task with the settings of evaluation where those of prediction differ and the user chose none: average
    precision counts what prediction leaves out."""
    config = package.config.task
    before = read_header(model_path).task.postprocess
    changes = {name: getattr(before, name) for name in config.prediction_settings if name not in postprocess}
    if not changes:
        return package.task
    config = replace(config, postprocess=replace(config.postprocess, **changes))
    return config.build(package.model, package.task.class_names, package.task.category_ids)


def _changed_settings(task: Any, file_task: Any) -> dict[str, Any]:
    """The settings of ``task`` that differ from those in the file."""
    ours, files = task.config.postprocess, file_task.config.postprocess
    names = [name for name in ("confidence", "iou", "max_detections") if hasattr(ours, name)]
    return {name: getattr(ours, name) for name in names if getattr(ours, name) != getattr(files, name)}

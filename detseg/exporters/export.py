"""From a model file to an ONNX file that was proved to give the same results."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

import onnx
from torch import nn

from detseg.config import from_dict, load_entry
from detseg.exporters import COMPARISONS
from detseg.exporters.base import DEFAULT_OPSET, Comparison, ExportSettings, ParityError
from detseg.exporters.choose_format import format_of, require_packages
from detseg.exporters.graph import describe, export_network, name_sides, write_metadata
from detseg.exporters.half import to_half
from detseg.exporters.int8 import to_int8
from detseg.exporters.nms import append_nms
from detseg.exporters.parity import BATCH_SIZE, Parity, Side, compare
from detseg.exporters.verification import calibration_inputs, verification_images
from detseg.files import put_in_place, save_errors, write_text
from detseg.models.base import fused
from detseg.runtime.kinds.base import Metadata, Precision
from detseg.runtime.onnx.choice import in_other_ways
from detseg.runtime.onnx.model import OnnxModel
from detseg.runtime.onnx.runner import OnnxRunner
from detseg.runtime.postprocess.class_settings import stored_settings
from detseg.tasks.base import Task
from detseg.tasks.model_file import ModelFile, load_model_file, read_header


@dataclass(frozen=True)
class Exported:
    """A finished export: the file, its report beside it, and what that says."""

    path: Path
    report_path: Path
    num_bytes: int
    parity: Parity

    def render(self) -> str:
        """What was made and how it compares, for people."""
        lines = [f"{self.path}: {self.num_bytes / 1e6:.1f} MB", f"compared with torch on {self.parity.images}"]
        return "\n".join([*lines, *(f"  {line}" for line in self.parity.lines()), f"report: {self.report_path}"])


def export_model(
    model_path: Path,
    output: Path | None = None,
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
) -> Exported:
    """Write ``model_path`` as ONNX, or in another format, to ``output`` (default: beside it), with the settings for
    prediction, and beside that a report of the proof, ``<name>.parity.json``.

    Args:
        model_path: a ``.safetensors`` file of detseg.
        output: a file that ends as the format wants it, such as ``.onnx``.
        format: one of :data:`detseg.exporters.EXPORTERS`; None for that of the suffix of ``output``.
        precision: ``fp32``, ``fp16`` or ``int8``.
        form: of the outputs; for detection ``decoded``, ``raw`` or ``nms``, for the other tasks ``logits``.
        opset: of the ONNX standard.
        size: height and width of the input, in place of that of the model file.
        dynamic: whether batch and size are free.
        calibrate: the data set whose training images 8-bit ranges are taken from; needed for ``int8``.
        verify: the data set on whose split ``val`` model and file are also evaluated, the file in all runtimes and
            precisions that are here.
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
    chosen = format_of(output, format)
    if precision in get_args(Precision) and precision not in chosen.precisions:
        raise ValueError(f"the format {chosen.name} has the precisions {', '.join(chosen.precisions)}, got {precision}")
    model_file = load_model_file(model_path, postprocess=postprocess, size=size, for_prediction=True)
    model, task = fused(model_file.model), model_file.task
    form = form or chosen.form(task)
    if form not in task.forms:
        raise ValueError(f"the task {task.name} has the output form {' or '.join(task.forms)}, got {form!r}")
    is_free = dynamic and chosen.is_any_size
    opset = DEFAULT_OPSET if opset is None else opset
    settings = ExportSettings(precision, form, opset, is_free)  # type: ignore[arg-type]
    chosen.refuse(task, settings)
    require_packages(chosen)
    output = output or default_path(model_path, precision, chosen.suffix)

    images = verification_images(task, verify, calibrate)  # now: a wrong path should not take minutes to tell
    config = model_file.config
    made, metadata = make_file(
        model,
        task,
        settings,
        calibrate,
        stored_settings(config.class_confidences, config.class_colors),
        keeps_floats=chosen.halves_itself,
    )
    report_path = output.with_suffix(".parity.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    with save_errors(output), tempfile.TemporaryDirectory(prefix=".export-", dir=output.parent) as folder:
        temporary = Path(folder) / output.name
        files = chosen.write(made, temporary, settings)
        judge = task if metadata.postprocess_in_graph else _judging_task(model_path, model_file, postprocess or {})
        changed = _changed_settings(judge, task)

        def side_of(onnx_model: OnnxModel) -> Side:
            comparison: Comparison = load_entry(COMPARISONS, task.kind.name).of(metadata)
            name = f"{onnx_model.runtime} {onnx_model.precision}"
            return Side(name, onnx_model, OnnxRunner(onnx_model, changed), comparison)

        first = OnnxModel(temporary)
        parity = compare(
            model,
            judge,
            side_of(first),
            images,
            [side_of(one) for one in in_other_ways(first)] if verify is not None else (),
            batch_size=BATCH_SIZE if settings.dynamic else 1,
        )
        judged = precision == "fp32"
        failed = judged and bool(parity.problems)
        report = {
            "model": output.name,
            "sha256": hashlib.sha256(temporary.read_bytes()).hexdigest(),
            "made_from": str(model_path),
            "runtime": first.runtime,
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
                f"{output} does not give the results of {model_path} on {parity.images}: "
                f"{'; '.join(parity.problems)}; the file was not kept, the report is {report_path}"
            )
        num_bytes = sum(file.stat().st_size for file in files)
        for file in files:
            put_in_place(file, output.parent / file.name)
    return Exported(output, report_path, num_bytes, parity)


def make_file(
    model: nn.Module,
    task: Task,
    settings: ExportSettings,
    calibrate: str | None = None,
    stored: Mapping[str, Any] | None = None,
    *,
    keeps_floats: bool = False,
) -> tuple[onnx.ModelProto, Metadata]:
    """The finished graph of ``model``, fused, in memory, checked, not yet proved; and what it says of itself, with what
    is ``stored`` for its classes. ``keeps_floats``: it stays float32 although it shall be fp16, for a format that
    converts weights itself.

    Raises:
        ValueError: the model is too large for one file, or the data set cannot be opened.
    """
    described = describe(task, settings) | dict(stored or {})
    given = {name: value for name, value in described.items() if name != "kind"}
    metadata: Metadata = from_dict(task.kind.metadata, given, f"the task {task.name}")
    graph = task.export_graph(model, settings.form)
    network = export_network(graph, metadata.input_name, task.stride, settings)
    if settings.precision == "fp16" and not keeps_floats:
        network = to_half(network)
    elif settings.precision == "int8":
        assert calibrate is not None
        window = None if task.spec.one_size else tuple(graph.example.shape[2:])
        network = to_int8(network, calibration_inputs(task, calibrate, window))
    made = append_nms(network, task.config.postprocess) if metadata.postprocess_in_graph else network
    name_sides(made, metadata.sides)
    write_metadata(made, described)
    onnx.checker.check_model(made, full_check=True)
    return made, metadata


def default_path(model_path: Path, precision: str, suffix: str = ".onnx") -> Path:
    """Where the file goes if the user does not say: beside the model."""
    return model_path.with_name(f"{model_path.stem}{'' if precision == 'fp32' else f'_{precision}'}{suffix}")


def _judging_task(model_path: Path, model_file: ModelFile, postprocess: Mapping[str, Any]) -> Task:
    """The task with the settings of evaluation where those of prediction differ and the user chose none: average
    precision counts what prediction leaves out."""
    config: Any = model_file.config.task
    before = read_header(model_path).task.postprocess
    changes = {name: getattr(before, name) for name in config.prediction_settings if name not in postprocess}
    if not changes:
        return model_file.task
    config = replace(config, postprocess=replace(config.postprocess, **changes))
    task: Task = config.build(model_file.model, model_file.task.class_names, model_file.task.category_ids)
    return task


def _changed_settings(task: Task, file_task: Task) -> dict[str, Any]:
    """The settings of ``task`` that differ from those in the file."""
    ours, files = task.config.postprocess, file_task.config.postprocess
    names = [one.name for one in fields(ours)]
    return {name: getattr(ours, name) for name in names if getattr(ours, name) != getattr(files, name)}

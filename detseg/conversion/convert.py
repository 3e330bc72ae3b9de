"""From a checkpoint of another program to a model file of detseg."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from detseg.config import choice, load_config
from detseg.conversion.classes import choose_names, numbers_of
from detseg.conversion.families import Recognized, recognize, with_input_size
from detseg.conversion.mapping import Mapped, expected_tensors, map_tensors
from detseg.conversion.onnx_steps import read_onnx_graph
from detseg.conversion.report import ConversionError, ConversionReport
from detseg.conversion.ultralytics import read_details
from detseg.conversion.yolox_onnx import FINE_TUNING_NOTE, map_graph, recognize_graph
from detseg.foreign.torch_file import read_torch_file
from detseg.models.foreign_weights import find_weights
from detseg.shipped import find_config
from detseg.tasks import TASKS
from detseg.tasks.base import TaskConfig
from detseg.tasks.model_file import ModelFileConfig, save_model_file

SOURCES = (".pt", ".pth", ".onnx")
OUTPUT = ".safetensors"


@dataclass(frozen=True)
class _TaskOnly:
    """A configuration of training of which the task alone counts."""

    task: TaskConfig = choice(TASKS)
    model: Any = None
    data: Any = None
    augment: Any = None
    train: Any = None


@dataclass(frozen=True)
class _Read:
    """A source once it is understood: its network, its tensors by detseg's names, and what else it tells."""

    recognized: Recognized
    weights: Mapped
    sha256: str
    names: tuple[str, ...] | None = None
    image_size: tuple[int, int] | None = None
    notes: list[str] = field(default_factory=list)


def convert(
    path: Path,
    output: Path,
    *,
    names: Sequence[str] | None = None,
    config: Path | None = None,
    overwrite: bool = False,
) -> ConversionReport:
    """Write the network in ``path`` as a model file that ``detseg eval``, ``predict`` and ``export`` take.

    Nothing in the file is run. Family and size are recognized by names and shapes of the tensors (in ONNX files by the
    graph); every tensor must find its place.

    Args:
        path: ``.pt`` or ``.pth`` with a YOLOv8 or YOLOv8-seg of Ultralytics, a YOLOX or MONAI's VNet; ``.onnx`` with a
            YOLOX.
        output: a file that ends in ``.safetensors``; a new one, unless ``overwrite``.
        names: the classes in order; needed where the file has none, unless there are 80: these are COCO's.
        config: a YAML whose ``task`` says what the input is and how results are made; needed for volumes, whose spacing
            and intensities no file of weights tells. For boxes it replaces what is known of the family.

    Raises:
        ConversionError: the output has a wrong name or exists; the file holds no network that is known, or tensors
            without a place; the class names do not fit.
        detseg.foreign.limits.ForeignFileError, detseg.runtime.onnx.file.OnnxFileError: the file cannot be read, or is
            refused.
        detseg.config.ConfigError: ``config`` is not as it must be.
        detseg.files.SaveError: the output cannot be written.
    """
    if output.suffix != OUTPUT:
        raise ConversionError(f"{output} must end in {OUTPUT}")
    if output.exists() and not overwrite:
        raise ConversionError(f"{output} exists; remove it, or choose another name")
    if path.suffix.lower() not in SOURCES:
        raise ConversionError(f"{path} must end in {', '.join(SOURCES)}")
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    chosen = None if config is None else load_config(_TaskOnly, find_config(config)).task
    try:
        read = _read_onnx(path) if path.suffix.lower() == ".onnx" else _read_torch(path)
        recognized = read.recognized
        class_names = choose_names(names, read.names, recognized.num_classes)
        task = _task(read, chosen)
        numbers = numbers_of(class_names, first=task.first_category_id)
        file_config = ModelFileConfig(recognized.model, task, class_names, numbers)
        with torch.device("meta"):
            built: tuple[Any, Any] = file_config.build()
            network = built[0]
            task.build_criterion(*built)  # so that the model file can be trained further
    except ValueError as error:
        # Some messages begin with the path already.
        if str(error).startswith(str(path)):
            raise
        raise ConversionError(f"{path}: {error}") from error
    save_model_file(output, read.weights.weights, file_config)
    return ConversionReport(
        source=path,
        sha256=read.sha256,
        output=output,
        family=recognized.family,
        size=recognized.size,
        class_names=class_names,
        input_size=(task.input.height, task.input.width) if task.input.one_size else None,
        strides=tuple(network.strides if task.input.one_size else network.stride),
        mapped=read.weights.mapped,
        unused=read.weights.unused,
        missing=read.weights.missing,
        notes=tuple(read.notes),
    )


def _read_torch(path: Path) -> _Read:
    file = read_torch_file(path)
    found = find_weights(file.content)
    recognized = recognize({name: array.shape for name, array in found.arrays.items()})
    weights = map_tensors(found.arrays, expected_tensors(recognized.model, recognized.num_classes))
    notes = ["these are the averaged weights (ema) of the checkpoint"] if found.key == "ema" else []
    if recognized.family not in ("YOLOv8", "YOLOv8-seg"):
        return _Read(recognized, weights, file.sha256, notes=notes)
    details = read_details(file.content, found.module)
    if details.image_size is None:
        notes.append("the file does not tell the image size; the usual one is taken")
    return _Read(recognized, weights, file.sha256, details.names, details.image_size, notes)


def _read_onnx(path: Path) -> _Read:
    graph = read_onnx_graph(path)
    recognized = recognize_graph(graph)
    weights = map_graph(graph, recognized)
    return _Read(recognized, weights, graph.sha256, image_size=graph.image_size, notes=[FINE_TUNING_NOTE])


def _task(read: _Read, chosen: TaskConfig | None) -> TaskConfig:
    """The task ``chosen`` by the user, else that of the family, with the image size of the file."""
    known = read.recognized.task
    if chosen is None and known is None:
        raise ConversionError(
            "no file of weights tells the spacing and the intensities that the network was trained with; give a "
            "configuration with task.input, such as vnet: --config vnet, or your own FILE.yaml"
        )
    wanted = read.recognized.task_name
    if chosen is not None:
        if chosen.name != wanted:
            raise ConversionError(f"the configuration is for the task {chosen.name}, the network for {wanted}")
        if not chosen.input.one_size and chosen.input.spacing is None:
            read.notes.append("the configuration gives no spacing: volumes go in at their own")
        return chosen
    assert known is not None
    return known if read.image_size is None else with_input_size(known, *read.image_size)

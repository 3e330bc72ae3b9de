"""Exported models as evaluation takes them: with its settings, and with a task that judges what they find."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from detseg.losses.detection import SimOTALossConfig, TALLossConfig
from detseg.runtime.load import load_onnx
from detseg.runtime.onnx.file import read_onnx_file
from detseg.runtime.onnx.metadata import (
    DetectionMetadata,
    ModelMetadata,
    SemanticMetadata,
    VolumeMetadata,
    parse_metadata,
)
from detseg.runtime.postprocess.config import HeadMetadata, PostprocessConfig
from detseg.runtime.runner import Runner
from detseg.tasks.base import Task
from detseg.tasks.detection import DetectionTask, DetectionTaskConfig
from detseg.tasks.semantic import SemanticTask, SemanticTaskConfig
from detseg.tasks.volume import VolumeTask, VolumeTaskConfig

# A task builds its loss even where nothing is learned, and the loss has to fit the head.
_LOSSES = {"dfl": TALLossConfig, "direct": SimOTALossConfig}


def load_exported(
    path: Path, device: str, postprocess: Mapping[str, Any], size: tuple[int, int] | None
) -> tuple[Runner, Task]:
    """The ``.onnx`` file ``path`` that ``detseg export`` wrote, ready for evaluation, and the task that judges it.

    The file carries the settings of prediction. Where those of evaluation differ, as average precision counts boxes of
    any confidence, their defaults take the place of the file's, and ``postprocess`` that of both; but suppression that
    is part of the graph keeps its own.

    Raises:
        detseg.runtime.onnx.file.OnnxFileError: the file is missing or damaged, or is not one of detseg's.
        ValueError: impossible settings, or such as the graph has fixed.
        ModuleNotFoundError: ONNX Runtime is not installed.
    """
    metadata = parse_metadata(read_onnx_file(path).properties, path)
    settings = _settings_of_evaluation(metadata) | dict(postprocess)
    _warn_of_confidence(metadata, path)
    runner = load_onnx(
        path, device, precision="fp32", num_threads=None, size=size, full_input=True, settings=settings
    ).runner
    changes: dict[str, Any] = {
        "input": runner.spec,
        "postprocess": replace(metadata.postprocess, **settings),
    }
    return runner, _task(replace(metadata, **changes))


def _settings_of_evaluation(metadata: ModelMetadata) -> dict[str, Any]:
    if not isinstance(metadata, DetectionMetadata) or metadata.form == "nms":
        return {}
    defaults = PostprocessConfig()
    return {name: getattr(defaults, name) for name in DetectionTaskConfig.prediction_settings}


def _warn_of_confidence(metadata: ModelMetadata, path: Path) -> None:
    usual = PostprocessConfig().confidence
    if isinstance(metadata, DetectionMetadata) and metadata.form == "nms" and metadata.postprocess.confidence > usual:
        warnings.warn(
            f"{path}: suppression is part of the graph and leaves out what scores below "
            f"{metadata.postprocess.confidence:g}, so average precision comes out lower than with the usual {usual:g}; "
            f"to compare, export with --nms --conf {usual:g}, or without --nms",
            stacklevel=3,
        )


def _task(metadata: ModelMetadata) -> Any:
    classes = (metadata.class_names, metadata.category_ids)
    match metadata:
        case DetectionMetadata(input=spec, postprocess=boxes, head=head):
            config = DetectionTaskConfig(input=spec, loss=_LOSSES[head.kind](), postprocess=boxes)
            network: Any = _DescribedDetector(head)
            return DetectionTask(config, network, *classes)
        case SemanticMetadata(input=spec, postprocess=views):
            return SemanticTask(SemanticTaskConfig(input=spec, postprocess=views), *classes)
        case VolumeMetadata(input=grid, postprocess=windows, patch=patch, surface_tolerance_mm=tolerance):
            volumes = VolumeTaskConfig(input=grid, patch=patch, postprocess=windows, surface_tolerance_mm=tolerance)
            return VolumeTask(volumes, *classes)


@dataclass(frozen=True)
class _DescribedDetector:
    """What a task asks of a detector, where it does not run: the file says it."""

    head: HeadMetadata

    @property
    def strides(self) -> tuple[int, ...]:
        return self.head.strides

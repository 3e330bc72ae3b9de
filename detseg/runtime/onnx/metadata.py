"""What an exported model says of itself in its file: all that is needed to run it, and to know what comes out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detseg.config import ConfigError, from_dict
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.onnx.file import OnnxFileError
from detseg.runtime.postprocess.config import HeadMetadata, PostprocessConfig, ViewsConfig, WindowsConfig
from detseg.volumes import Shape3

KEY = "detseg"
"""The name of the property."""
FORMAT = 1

DetectionForm = Literal["raw", "decoded", "nms"]
Precision = Literal["fp32", "fp16", "int8"]

_MAX_MASK_CLASSES = 255


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What all model files hold: class ``c`` has the name ``class_names[c]`` and the number ``category_ids[c]`` in
    annotation files; sides of inputs are multiples of ``stride``; ``version`` of detseg wrote the file."""

    version: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    stride: int = 1
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        if not self.class_names:
            raise ValueError("class_names must name at least one class")
        if len(self.category_ids) != len(self.class_names):
            raise ValueError(f"there are {len(self.category_ids)} category_ids for {len(self.class_names)} class_names")
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1, got {self.stride}")


@dataclass(frozen=True, kw_only=True)
class DetectionMetadata(Metadata):
    """A detector; ``form`` says what it gives: raw maps, decoded boxes, or boxes after suppression."""

    task: Literal["detection"]
    form: DetectionForm
    input: InputSpec
    head: HeadMetadata
    postprocess: PostprocessConfig


@dataclass(frozen=True, kw_only=True)
class SemanticMetadata(Metadata):
    """A network for masks."""

    task: Literal["semantic"]
    form: Literal["logits"]
    input: InputSpec
    postprocess: ViewsConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_few_classes(self.class_names)


@dataclass(frozen=True, kw_only=True)
class VolumeMetadata(Metadata):
    """A network for volumes; ``patch``: depth, height and width of windows where ``postprocess`` names none.
    ``surface_tolerance_mm``: how far apart surfaces may lie to count as the same when it is evaluated."""

    task: Literal["volume"]
    form: Literal["logits"]
    input: VolumeSpec
    patch: Shape3
    postprocess: WindowsConfig
    surface_tolerance_mm: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_few_classes(self.class_names)
        if min(self.patch) < 1:
            raise ValueError(f"patch must be a positive depth, height and width, got {self.patch}")


ModelMetadata = DetectionMetadata | SemanticMetadata | VolumeMetadata

_SCHEMAS: dict[str, type[ModelMetadata]] = {
    "detection": DetectionMetadata,
    "semantic": SemanticMetadata,
    "volume": VolumeMetadata,
}


def parse_metadata(properties: Mapping[str, str], path: Path) -> ModelMetadata:
    """The metadata among the ``properties`` of the file ``path``.

    Raises:
        OnnxFileError: there is none, it is of a later format, or something in it is missing or not allowed.
    """
    if KEY not in properties:
        raise OnnxFileError(
            f"{path}: has no detseg metadata, so classes, input and outputs are unknown; only files written by "
            "`detseg export` can be run; of others, a YOLOX becomes a model file by `detseg convert`"
        )
    try:
        data = json.loads(properties[KEY])
    except (ValueError, RecursionError) as error:
        raise OnnxFileError(f"{path}: its detseg metadata is no JSON: {error}; export the model again") from error
    if not isinstance(data, dict):
        raise OnnxFileError(f"{path}: its detseg metadata is no mapping; export the model again")
    _require_known_format(data, path)
    task = data.get("task")
    if not isinstance(task, str) or task not in _SCHEMAS:
        raise OnnxFileError(f"{path}: task {task!r} is unknown; known are {', '.join(_SCHEMAS)}")
    given = {name: value for name, value in data.items() if name != "format"}
    try:
        return from_dict(_SCHEMAS[task], given, f"{path}: detseg metadata")
    except ConfigError as error:
        raise OnnxFileError(f"{error}; export the model again") from error


def _require_known_format(data: dict[str, Any], path: Path) -> None:
    version = data.get("format")
    if type(version) is not int or version < 1:
        raise OnnxFileError(f"{path}: its detseg metadata has no format number; export the model again")
    if version > FORMAT:
        raise OnnxFileError(
            f"{path}: was written by detseg {data.get('version', '(unknown)')} in format {version}, this version reads "
            f"up to {FORMAT}; upgrade detseg, or export the model again with this version"
        )


def _require_few_classes(class_names: tuple[str, ...]) -> None:
    if len(class_names) > _MAX_MASK_CLASSES:
        raise ValueError(f"a mask of 8 bits holds {_MAX_MASK_CLASSES} classes at most, got {len(class_names)}")

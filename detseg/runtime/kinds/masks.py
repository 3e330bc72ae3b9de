"""Masks: a class for every pixel of an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np

from detseg.arrays import BoolArray, ByteArray, FloatArray, IntArray
from detseg.runtime.drawing.compare import compare_labels, draw_errors
from detseg.runtime.drawing.labels import classes_in, draw_labels
from detseg.runtime.drawing.palette import Palette
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.kinds.base import ImageInputs, Kind, Metadata, Network, Save, logits_of, require_few_classes
from detseg.runtime.kinds.saving import IMAGE_WRITERS, JSON_LINES
from detseg.runtime.postprocess.config import InfererConfig
from detseg.runtime.postprocess.inferers import average_over_tta, sliding_window
from detseg.runtime.postprocess.results import best_classes
from detseg.runtime.writers.masks import ColorMaskWriter, MaskWriter, encode_rle
from detseg.structures import IGNORE_INDEX, LabelMap, LetterboxTransform, Sample


@dataclass(frozen=True, kw_only=True)
class SemanticMetadata(Metadata):
    """A network for masks."""

    kind = "masks"

    form: Literal["logits"]
    input: InputSpec
    postprocess: InfererConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        require_few_classes(self.class_names)

    @property
    def sides(self) -> dict[str, tuple[str, ...]]:
        """Images in, logits of the same size out."""
        return dict.fromkeys(("images", "logits"), ("batch", "channels", "height", "width"))

    def pipeline(self, network: Network) -> MaskPipeline:
        """Windows and inferer, then the best class of every pixel."""
        return MaskPipeline(network, self)


class MaskPipeline(ImageInputs):
    """From images to masks. See :class:`detseg.runtime.kinds.base.Pipeline`."""

    def __init__(self, network: Network, metadata: SemanticMetadata) -> None:
        super().__init__(metadata.input)
        self._inferer = metadata.postprocess
        self._look = partial(logits_of, network, len(metadata.class_names))
        if self._inferer.window is not None:
            self._look = partial(
                sliding_window,
                self._look,
                window=self._inferer.window,
                overlap=self._inferer.overlap,
                weighting=self._inferer.weighting,
            )
        network.require_shape((3, *(self._inferer.window or (metadata.input.height, metadata.input.width))))

    def results(self, inputs: FloatArray, transforms: list[LetterboxTransform]) -> list[LabelMap]:
        """The mask of each image."""
        if self._inferer.flip or self._inferer.scales != (1.0,):
            scores = average_over_tta(self._look, inputs, self._inferer.scales, self._inferer.flip)
        else:
            scores = self._look(inputs)
        return [best_classes(one, transform) for one, transform in zip(scores, transforms, strict=True)]


class Masks(Kind):
    """Results are :class:`detseg.structures.LabelMap`, judged by masks ``[H, W]`` of class positions and
    ``IGNORE_INDEX``."""

    name = "masks"
    counted = "images in which a class was found"
    metadata = SemanticMetadata
    writers: ClassVar[Mapping[str, Save]] = {
        **IMAGE_WRITERS,
        "mask": Save(
            lambda to: MaskWriter(
                to.output / "masks", to.class_names, to.sources, palette=to.colors, outputs=to.outputs
            )
        ),
        "color": Save(
            lambda to: ColorMaskWriter(
                to.output / "colors", to.class_names, to.sources, palette=to.colors, outputs=to.outputs
            )
        ),
        "ids": Save(
            lambda to: MaskWriter(
                to.output / "ids", to.class_names, to.sources, category_ids=to.category_ids, outputs=to.outputs
            )
        ),
        "jsonl": JSON_LINES,
    }
    """Beside images and lines: ``mask``: class positions in ``masks``, which viewers show in the colors of the
    classes; ``color``: these colors in ``colors``; ``ids``: the data set's own numbers, in gray, in ``ids``."""
    default_save = ("drawn", "mask")
    has_legend = True

    def draw(
        self,
        image: ByteArray,
        result: LabelMap,
        class_names: Sequence[str],
        line_width: int | None = None,
        palette: Palette | None = None,
    ) -> ByteArray:
        """``image`` tinted by classes, with their names."""
        return draw_labels(image, result.labels, class_names, palette=palette)

    def compare(
        self,
        image: ByteArray,
        truth: ByteArray,
        result: LabelMap,
        class_names: Sequence[str],
        palette: Palette | None = None,
    ) -> ByteArray:
        """Image, truth, prediction and a map of the errors, side by side."""
        return compare_labels(image, truth, result.labels, class_names, palette)

    def layers(
        self,
        image: ByteArray,
        truth: ByteArray,
        result: LabelMap,
        class_names: Sequence[str],
        palette: Palette | None = None,
    ) -> dict[str, ByteArray]:
        """Target, prediction, errors and the image."""
        return {
            "truth": draw_labels(image, truth, class_names, names=False, palette=palette),
            "prediction": draw_labels(image, result.labels, class_names, names=False, palette=palette),
            "errors": draw_errors(image, truth, result.labels),
            "image": image,
        }

    def draw_sample(self, sample: Sample, class_names: Sequence[str], palette: Palette | None = None) -> ByteArray:
        """The image tinted by its mask."""
        assert sample.mask is not None
        return draw_labels(sample.image, sample.mask, class_names, palette=palette)

    def keep(self, result: LabelMap, kept: BoolArray) -> LabelMap:
        """``result`` with ``IGNORE_INDEX`` in place of what is not kept."""
        table = np.arange(256, dtype=np.uint8)
        table[: len(kept)][~kept] = IGNORE_INDEX
        return LabelMap(table[result.labels])

    def relabel(self, result: LabelMap, positions: IntArray) -> LabelMap:
        """``result`` with other class positions; pixels of a class with position -1 become ``IGNORE_INDEX``."""
        table = np.full(256, IGNORE_INDEX, np.uint8)
        known = positions >= 0
        table[: len(positions)][known] = positions[known]
        return LabelMap(table[result.labels])

    def count(self, result: LabelMap, num_classes: int) -> IntArray:
        """1 where there is a pixel of the class."""
        return np.isin(np.arange(num_classes), classes_in(result.labels)).astype(np.int64)

    def record(self, result: LabelMap, class_names: Sequence[str]) -> dict[str, Any]:
        """``classes``: by name the number of ``pixels`` and the mask as COCO's compressed ``rle``."""
        return {"classes": {class_names[label]: _share(result.labels == label) for label in classes_in(result.labels)}}


def _share(mask: BoolArray) -> dict[str, Any]:
    return {"pixels": int(mask.sum()), "rle": encode_rle(mask)}

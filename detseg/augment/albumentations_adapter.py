"""Albumentations pipelines, on samples with boxes, label masks and masks of objects.

The package takes seconds to import, so that happens only when a pipeline is asked for.
"""

from __future__ import annotations

import difflib
import inspect
import os
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module, metadata
from types import ModuleType
from typing import Any

import numpy as np

from detseg.augment.compose import visible_objects
from detseg.augment.geometry import BoxFilter
from detseg.structures import LetterboxTransform, Sample

ALBUMENTATIONS_VERSION = "2.0.8"
# They write 0, which is a class, into a mask, or treat class positions as gray levels, and no parameter changes that.
_NOT_FOR_MASKS = frozenset({"FrequencyMasking", "GridElasticDeform", "Morphological", "TimeMasking"})
_NEAREST = 0
_INSTALL = f"pip install albumentations=={ALBUMENTATIONS_VERSION}"


def import_albumentations() -> ModuleType:
    """Albumentations 2.0.8 (MIT), with its look-up of newer versions switched off.

    Raises:
        ValueError: if the package is missing, has another version, or is the AGPL-licensed albumentationsx.
    """
    installed = {name: _version(name) for name in ("albumentations", "albumentationsx")}
    if installed["albumentationsx"] is not None:
        raise ValueError(
            f"albumentationsx {installed['albumentationsx']} is installed; it is licensed under the AGPL and takes the "
            f"import name of albumentations. Run: pip uninstall albumentationsx, then: {_INSTALL}"
        )
    if installed["albumentations"] != ALBUMENTATIONS_VERSION:
        found = installed["albumentations"] or "no albumentations"
        raise ValueError(
            f"an albumentations pipeline needs albumentations {ALBUMENTATIONS_VERSION}, found {found}. Run: {_INSTALL}"
        )
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    return import_module("albumentations")


class AlbumentationsAdapter:
    """The transforms that ``entries`` names, as one function of a sample and a random generator.

    An entry is ``{name: RandomGamma, params: {p: 0.5}}``, with ``transforms`` where it holds others, as in
    :class:`~detseg.augment.config.AugmentConfig`, which checks that.

    Boxes go through as pixel xyxy with their labels and crowd flags; ``box_filter`` drops those that are nearly gone.
    Where a transform fills a label mask, it does so with ``mask_fill`` unless told otherwise; of masks of objects it is
    no part then.
    Dropouts leave masks alone unless told otherwise. Masks are never interpolated.

    Raises:
        ValueError: if a transform is unknown, refuses its parameters, or is to interpolate masks.
    """

    def __init__(self, entries: Sequence[Mapping[str, Any]], box_filter: BoxFilter, mask_fill: int) -> None:
        library = import_albumentations()
        self._box_filter = box_filter
        # What masks of objects hold inside, so that no fill is taken for it.
        self._inside = next(value for value in range(1, 256) if value not in {mask_fill, *_fills(entries)})
        self._unfit = sorted(_names(entries) & _NOT_FOR_MASKS)
        transforms = [_build(library, one, mask_fill, f"albumentations[{i}]") for i, one in enumerate(entries)]
        bbox_params = library.BboxParams(
            format="pascal_voc",
            label_fields=["rows"],
            min_visibility=box_filter.min_area_ratio,
            clip=True,
            filter_invalid_bboxes=True,
        )
        with warnings.catch_warnings():
            # Boxes may well meet a pipeline that changes colors only.
            warnings.filterwarnings("ignore", message="Got processor for bboxes, but no transform to process it")
            self._pipeline = library.Compose(transforms, bbox_params=bbox_params)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """The transformed sample; its size is what the pipeline made of it.

        Raises:
            ValueError: if the pipeline gives something other than an RGB image of type uint8, or if the sample has a
                mask and a transform cannot keep one.
        """
        if self._unfit and not (sample.mask is None and sample.object_masks is None):
            what = "a label mask" if sample.object_masks is None else "masks of its objects"
            raise ValueError(
                f"{sample.path} has {what}, and {', '.join(self._unfit)} would put wrong classes into it; leave "
                "out of augment.albumentations what is not for label masks"
            )
        # One generator for all transforms: with set_random_seed each would start from the same seed and draw the same
        # numbers, so that all of those with one probability would come and go together.
        self._pipeline.set_random_state(rng, random.Random(int(rng.integers(2**63))))
        targets: dict[str, Any] = {} if sample.mask is None else {"mask": sample.mask}
        rows = np.arange(len(sample.labels))
        if sample.object_masks is not None and len(rows):
            targets["masks"] = np.asarray(sample.object_masks).view(np.uint8) * np.uint8(self._inside)
        result = self._pipeline(image=sample.image, bboxes=sample.boxes_xyxy, rows=rows, **targets)
        image = result["image"]
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            got = f"{image.dtype} {tuple(image.shape)}" if hasattr(image, "dtype") else type(image).__name__
            raise ValueError(
                f"the albumentations pipeline must give uint8 images with 3 channels, it gave {got}; leave out "
                "Normalize, ToFloat, ToGray with one channel and ToTensorV2: normalization belongs to the input spec"
            )
        size: tuple[int, int] = image.shape[:2]
        boxes, keep = self._box_filter.clip(np.asarray(result["bboxes"], np.float64).reshape(-1, 4), size)
        rows = np.asarray(result["rows"]).astype(np.int64)[keep]
        object_masks = None
        if sample.object_masks is not None:
            nothing = np.zeros((0, *size), np.bool_)
            object_masks = result["masks"][rows] == self._inside if "masks" in targets else nothing
        changed = replace(
            sample,
            image=np.ascontiguousarray(image),
            boxes_xyxy=boxes[keep],
            labels=sample.labels[rows],
            crowd=sample.crowd[rows],
            transform=LetterboxTransform.identity(*size),
            mask=None if sample.mask is None else np.ascontiguousarray(result["mask"]),
            object_masks=object_masks,
        )
        return changed if object_masks is None else visible_objects(changed, self._box_filter)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _names(entries: Sequence[Mapping[str, Any]]) -> set[str]:
    """The names of all transforms in a list as the config has it, nested ones included."""
    own = {str(entry.get("name", entry.get("transform"))) for entry in entries}
    return own.union(*(_names(entry.get("transforms", [])) for entry in entries))


def _fills(entries: Sequence[Mapping[str, Any]]) -> set[Any]:
    """What transforms in a list are told to fill masks with, nested ones included."""
    values = (np.ravel(entry.get("params", {}).get("fill_mask", 0)).tolist() for entry in entries)
    return {value for some in values for value in some}.union(*(_fills(one.get("transforms", [])) for one in entries))


def _build(library: ModuleType, entry: Mapping[str, Any], mask_fill: int, where: str) -> Any:
    name = entry.get("name", entry.get("transform"))
    allowed = _transforms(library)
    if name not in allowed:
        nearest = difflib.get_close_matches(str(name), allowed, n=1, cutoff=0.0)[0]
        raise ValueError(f"{where}: albumentations has no transform {name!r}; the nearest name is {nearest!r}")
    kind = allowed[name]
    accepted = inspect.signature(kind.__init__).parameters
    params = {str(key): value for key, value in entry.get("params", {}).items()}
    unknown = sorted(set(params) - set(accepted) - {"p"})
    if unknown:
        known = ", ".join(parameter for parameter in accepted if parameter not in ("self", "transforms"))
        raise ValueError(f"{where}: {name} has no parameter {', '.join(unknown)}; it has {known}")
    if params.get("mask_interpolation", _NEAREST) != _NEAREST:
        raise ValueError(
            f"{where}: mask_interpolation must be {_NEAREST} (nearest), got {params['mask_interpolation']}; a blend of "
            "two class positions would be a third class"
        )
    if "fill_mask" in accepted and accepted["fill_mask"].default is not None:
        params.setdefault("fill_mask", mask_fill)
    if "transforms" in accepted:
        inner = entry.get("transforms", [])
        if not inner:
            raise ValueError(f"{where}: {name} needs a list of transforms under the key `transforms`")
        params["transforms"] = [
            _build(library, one, mask_fill, f"{where}.transforms[{i}]") for i, one in enumerate(inner)
        ]
    elif "transforms" in entry:
        raise ValueError(f"{where}: {name} takes no list of transforms")
    try:
        return kind(**params)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {name} refuses its parameters {entry.get('params', {})}: {error}") from error


def _transforms(library: ModuleType) -> dict[str, Any]:
    bases = (library.BasicTransform, library.BaseCompose)
    abstract = {library.Compose, library.ReplayCompose, *bases}
    found = {name: getattr(library, name) for name in dir(library)}
    return {
        name: kind
        for name, kind in found.items()
        if isinstance(kind, type) and issubclass(kind, bases) and kind not in abstract and not inspect.isabstract(kind)
    }

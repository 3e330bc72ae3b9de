"""Objects of one image pasted into another, with their masks (simple copy-paste, arXiv 2012.07177)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from detseg.arrays import BoolArray
from detseg.augment.compose import visible_objects
from detseg.augment.geometry import BoxFilter
from detseg.structures import Sample

_SHARE = 0.5
"""Probability that an object is among those that are pasted."""


def copy_paste(sample: Sample, other: Sample, rng: np.random.Generator, box_filter: BoxFilter) -> Sample:
    """``sample`` with some objects of ``other``, of the same size, in front, each with probability one half,
    crowd regions never. A label mask is that of the image a pixel comes from.

    What is covered is no part of the objects behind: their boxes are those of the rest, and they are left out where
    less of them is seen than ``box_filter`` wants.

    Raises:
        ValueError: a sample has no masks of its objects.
    """
    target, source = _masks_of(sample), _masks_of(other)
    chosen = (rng.random(len(source)) < _SHARE) & ~other.crowd
    pasted = source[chosen]
    if not len(pasted):
        return sample
    covers: BoolArray = np.logical_or.reduce(pasted, axis=0)
    left: BoolArray = np.logical_and(target, np.logical_not(covers))
    keep: BoolArray = np.sum(left, axis=(1, 2)) >= box_filter.min_area_ratio * np.sum(target, axis=(1, 2))
    mask = sample.mask
    if mask is not None and other.mask is not None:
        mask = np.where(covers, other.mask, mask)
    joined = replace(
        sample,
        image=np.where(covers[..., None], other.image, sample.image),
        boxes_xyxy=np.concatenate([sample.boxes_xyxy[keep], other.boxes_xyxy[chosen]]),
        labels=np.concatenate([sample.labels[keep], other.labels[chosen]]),
        crowd=np.concatenate([sample.crowd[keep], other.crowd[chosen]]),
        mask=mask,
        object_masks=np.concatenate([left[keep], pasted]),
    )
    return visible_objects(joined, box_filter)


def _masks_of(sample: Sample) -> BoolArray:
    if sample.object_masks is None:
        raise ValueError(
            f"{sample.path}: has no masks of its objects, which copy_paste needs; set copy_paste: 0, or learn "
            "instances (task instance)"
        )
    masks: BoolArray = np.asarray(sample.object_masks)
    return masks

"""Runs compared on the images that all of them have: differences, and how sure they are.

Confidence intervals come from the bootstrap over images (Efron and Tibshirani, "An Introduction to the Bootstrap",
1993, chapter 13): as many images as there are, drawn anew with replacement, the same ones for every run, so that a
difference is that of pairs. 95% of the values so found lie in the interval.

Shape legend: R runs, C classes, I images, B samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detseg.arrays import DoubleArray
from detseg.evaluation.per_image import ImageTable, Resampler

_SHARES = (2.5, 97.5)


@dataclass(frozen=True)
class Interval:
    """A metric with the ends of its interval of 95%; NaN where nothing can be said."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """``values`` and ``differences`` to the first run: one list for each run, of which the first entry is the mean of
    the classes and the others are the classes. ``by_image`` ``[R, I]``: the metric of each image by itself."""

    measure: str
    class_names: tuple[str, ...]
    image_names: tuple[str, ...]
    values: Sequence[Sequence[Interval]]
    differences: Sequence[Sequence[Interval]]
    by_image: DoubleArray

    def changed(self, run: int, count: int) -> list[int]:
        """The images that differ most between the first and this run, by position."""
        change = np.abs(np.nan_to_num(self.by_image[run]) - np.nan_to_num(self.by_image[0]))
        order = np.argsort(-change, kind="stable")[:count]
        return [index for index in order.tolist() if change[index] > 0]


def compare_tables(tables: Sequence[ImageTable], num_samples: int = 1000, seed: int = 0) -> Comparison:
    """Compare runs, the first with each of the others.

    Raises:
        ValueError: there is one run only, they have other classes or measure other things, or no image in common.
    """
    first = tables[0]
    if len(tables) < 2:
        raise ValueError("a comparison needs two runs or more")
    if num_samples < 100:
        raise ValueError(f"an interval of 95% needs 100 samples or more, got {num_samples}")
    for number, table in enumerate(tables[1:], start=2):
        if table.form != first.form:
            raise ValueError(f"run {number} gives {table.form}, run 1 {first.form}; compare runs of one task")
        if table.class_names != first.class_names:
            raise ValueError(
                f"run {number} has the classes {', '.join(table.class_names[:20])}, run 1 "
                f"{', '.join(first.class_names[:20])}; compare runs on one data set"
            )
    names = tuple(name for name in first.images if all(name in table.images for table in tables))
    if not names:
        raise ValueError("the runs have no image in common; compare runs on one split of one data set")
    resamplers = [Resampler(table, names) for table in tables]
    whole = _with_means([sampler(np.ones(len(names))) for sampler in resamplers])
    generator = np.random.default_rng(seed)
    samples = []
    for _ in range(num_samples):
        weights = np.bincount(generator.integers(0, len(names), len(names)), minlength=len(names)).astype(np.float64)
        samples.append(_with_means([sampler(weights) for sampler in resamplers]))
    drawn = np.array(samples)
    alone = np.eye(len(names))
    by_image = np.array([[_mean(sampler(weights)) for weights in alone] for sampler in resamplers])
    return Comparison(
        first.measure,
        first.class_names,
        names,
        [_intervals(whole[run], drawn[:, run]) for run in range(len(tables))],
        [_intervals(whole[run] - whole[0], drawn[:, run] - drawn[:, 0]) for run in range(len(tables))],
        by_image,
    )


def _with_means(values: Sequence[DoubleArray]) -> DoubleArray:
    """``[R, 1 + C]``: the mean of the classes before them."""
    return np.array([np.concatenate([[_mean(one)], one]) for one in values])


def _mean(values: DoubleArray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _intervals(whole: DoubleArray, drawn: DoubleArray) -> list[Interval]:
    with warnings.catch_warnings():
        # A class that no sample has any of.
        warnings.filterwarnings("ignore", "All-NaN slice encountered")
        low, high = np.nanpercentile(drawn, _SHARES, axis=0)
    return [Interval(*values) for values in zip(whole.tolist(), low.tolist(), high.tolist(), strict=True)]

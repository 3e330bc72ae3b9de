"""Intersection over union of semantic segmentation, as cityscapesScripts computes it, from one confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from detseg.arrays import ByteArray, DoubleArray, IntArray
from detseg.evaluation.base import EvaluatorState
from detseg.evaluation.checks import category_ids_of, require_labels, require_unique
from detseg.evaluation.plots import plot_class_scores, plot_pixel_confusion
from detseg.structures import IGNORE_INDEX, LabelMap, Metrics


class SegmentationEvaluator:
    """``mIoU``, ``pixel_accuracy``, ``mean_accuracy`` over a data set, then ``IoU/<class>`` and ``accuracy/<class>``.

    All pixels of the data set count alike, except ignored pixels of the truth, which do not count. The IoU of a class
    is ``TP / (TP + FP + FN)``, its accuracy ``TP / (TP + FN)``. A class that is neither true nor predicted anywhere has
    no IoU; one that is predicted but never true has an IoU of 0 and no accuracy. mIoU and mean accuracy are the means
    of those that exist.

    ``category_ids``: the data set's value of each class, which every evaluator is told; no number depends on it.

    Raises:
        ValueError: no class, too many for masks of 8 bits, or names that are not unique.
    """

    def __init__(self, class_names: Sequence[str], category_ids: Sequence[int] | None = None) -> None:
        self.class_names = tuple(class_names)
        num_classes = len(self.class_names)
        if not 1 <= num_classes <= IGNORE_INDEX:
            raise ValueError(f"masks hold 1 to {IGNORE_INDEX} classes, got {num_classes}")
        self.category_ids = category_ids_of(self.class_names, category_ids)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        num_classes = len(self.class_names)
        self._image_ids: dict[int, None] = {}
        self._counts: IntArray = np.zeros((num_classes, num_classes + 1), np.int64)

    def update(self, image_id: int, prediction: LabelMap, truth: ByteArray) -> None:
        """Add one image: its predicted classes and its mask ``[H, W]`` uint8. A pixel predicted as ``IGNORE_INDEX`` is
        wrong.

        Raises:
            ValueError: the image was added before, the two differ in size, or a label is neither a class position nor
                ``IGNORE_INDEX``.
        """
        if image_id in self._image_ids:
            raise ValueError(f"image {image_id} was evaluated twice; image ids must be unique in a data set")
        if prediction.labels.shape != truth.shape or truth.dtype != np.uint8:
            raise ValueError(
                f"image {image_id}: the prediction is {_size(prediction.labels)}, "
                f"the truth {_size(truth)} of {truth.dtype}; they must be of one size, the truth uint8"
            )
        for name, labels in (("truth", truth), ("prediction", prediction.labels)):
            require_labels(labels, len(self.class_names), image_id, name)
        self._counts += _count(truth, prediction.labels, len(self.class_names))
        self._image_ids[image_id] = None

    def compute(self) -> Metrics:
        """The metrics over all images.

        Raises:
            ValueError: no image was added, or all their pixels are ignored.
        """
        counts = self.confusion_matrix()
        correct, true = counts.diagonal(), counts.sum(axis=1)
        union = true + counts[:, :-1].sum(axis=0) - correct
        iou, accuracy = _share(correct, union), _share(correct, true)
        values = {
            "mIoU": float(np.nanmean(iou)),
            "pixel_accuracy": float(correct.sum() / true.sum()),
            "mean_accuracy": float(np.nanmean(accuracy)),
        }
        for name, shares in (("IoU", iou), ("accuracy", accuracy)):
            for class_name, share in zip(self.class_names, shares.tolist(), strict=True):
                if not np.isnan(share):
                    values[f"{name}/{class_name}"] = share
        return Metrics(values, primary="mIoU")

    def classes_without_truth(self) -> tuple[str, ...]:
        """The classes that no mask holds."""
        true = self.confusion_matrix().sum(axis=1).tolist()
        return tuple(name for name, count in zip(self.class_names, true, strict=True) if count == 0)

    def confusion_matrix(self) -> IntArray:
        """Numbers of pixels ``[C, C + 1]`` int64: rows are the truth, columns the prediction, the last one
        ``IGNORE_INDEX``.

        Raises:
            ValueError: no image was added, or all their pixels are ignored.
        """
        if not self._image_ids:
            raise ValueError("no image was evaluated: add images with update() before asking for results")
        if not self._counts.any():
            raise ValueError(
                f"no labeled pixel in {len(self._image_ids)} images: all of their masks is ignored, so nothing can be "
                "judged; check the masks and the ignored value"
            )
        return self._counts.copy()

    def diagnose(self) -> dict[str, float]:
        """Nothing more than :meth:`compute` gives."""
        return {}

    def error_table(self) -> list[list[str]]:
        """Of each class that is there: its share of the labeled pixels, which share of it is missed and which share of
        what is found is wrong, and what it is most taken for, both ways."""
        counts = self.confusion_matrix()
        true, found = counts.sum(axis=1), counts[:, :-1].sum(axis=0)
        names = [*self.class_names, "ignored"]
        rows = [["class", "share of pixels", "missed", "wrongly found", "mostly taken for", "mostly found at"]]
        for label, name in enumerate(self.class_names):
            if not true[label] and not found[label]:
                continue
            right = counts[label, label]
            taken, instead = counts[label].copy(), counts[:, label].copy()
            taken[label] = instead[label] = 0
            rows.append(
                [
                    name,
                    f"{true[label] / true.sum():.2%}",
                    f"{1 - right / true[label]:.2%}" if true[label] else "-",
                    f"{1 - right / found[label]:.2%}" if found[label] else "-",
                    _largest(taken, int(true[label]), names),
                    _largest(instead, int(found[label]), names),
                ]
            )
        return rows

    def facts(self) -> dict[str, str]:
        """Nothing."""
        return {}

    def write_artifacts(self, folder: Path, names: Mapping[int, str] | None = None) -> None:
        """Write ``confusion_matrix.png`` and ``iou.png`` to ``folder``.

        Raises:
            ValueError: see :meth:`compute`.
            SaveError: a file cannot be written.
        """
        plot_pixel_confusion(self.confusion_matrix(), self.class_names, folder / "confusion_matrix.png")
        metrics = self.compute()
        ious = {name: metrics[f"IoU/{name}"] for name in self.class_names if f"IoU/{name}" in metrics}
        plot_class_scores(ious, metrics["mIoU"], "IoU", folder / "iou.png")

    def state(self) -> EvaluatorState:
        """``image_ids`` ``[I]`` int64 and ``counts`` ``[C, C + 1]`` int64, the confusion matrix."""
        return {"image_ids": np.array(list(self._image_ids), np.int64), "counts": self._counts.copy()}

    def merge(self, states: Sequence[EvaluatorState]) -> None:
        """Replace all that was added by the union of ``states``, which include this evaluator's own.

        Raises:
            ValueError: an image is in more than one state, or the arrays are not those of :meth:`state`.
        """
        for state in states:
            shapes = {name: state[name].shape if name in state else None for name in ("image_ids", "counts")}
            if shapes["counts"] != self._counts.shape or shapes["image_ids"] is None or len(shapes["image_ids"]) != 1:
                raise ValueError(
                    f"the state of an evaluator of {len(self.class_names)} classes needs image_ids [I] and counts "
                    f"{list(self._counts.shape)}, got {shapes}"
                )
        image_ids = [image_id for state in states for image_id in state["image_ids"].tolist()]
        require_unique("image id", image_ids)
        self.reset()
        self._image_ids = dict.fromkeys(image_ids)
        for state in states:
            self._counts += state["counts"]


def _count(truth: ByteArray, prediction: ByteArray, num_classes: int) -> IntArray:
    """Pixels ``[C, C + 1]`` by truth and prediction, those of ignored truth left out."""
    # Ignored is counted as one more class and dropped: faster than selecting the labeled pixels.
    rows = np.minimum(truth, num_classes).astype(np.int32).ravel()
    columns = np.minimum(prediction, num_classes).ravel()
    size = num_classes + 1
    counts = np.bincount(rows * size + columns, minlength=size * size).reshape(size, size)
    return counts[:num_classes]


def _share(part: IntArray, whole: IntArray) -> DoubleArray:
    """``part / whole``, not a number where the whole is 0."""
    share: DoubleArray = np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
    return share


def _largest(counts: IntArray, total: int, names: Sequence[str]) -> str:
    """The two largest of ``counts`` with their share of ``total``: ``road 3.1%, sidewalk 0.8%``."""
    order = np.argsort(-counts, kind="stable")[:2].tolist()
    return ", ".join(f"{names[at]} {counts[at] / total:.1%}" for at in order if counts[at]) or "-"


def _size(labels: ByteArray) -> str:
    return "x".join(map(str, labels.shape))

"""Readers of data sets as users have them, and the loaders that feed them to a model.

A format is one file with a :class:`detseg.data.dataset.DatasetFormat`, and one line in the table below.
"""

from __future__ import annotations

DATASETS: dict[str, str] = {
    "coco": "detseg.data.coco:CocoFormat",
    "voc": "detseg.data.voc:VocFormat",
    "yolo": "detseg.data.yolo:YoloFormat",
    "masks": "detseg.data.masks:MasksFormat",
    "cityscapes": "detseg.data.cityscapes:CityscapesFormat",
    "shapes": "detseg.data.shapes:ShapesFormat",
    "nifti": "detseg.data.nifti:NiftiFormat",
    "blobs": "detseg.data.blobs:BlobsFormat",
}

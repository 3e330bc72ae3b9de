"""Readers of data sets as users have them, and the loaders that feed them to a model.

A format is one file with a :class:`detseg.data.format.DatasetFormat`, and one line in the table below.
"""

from __future__ import annotations

DATASETS: dict[str, str] = {
    "coco": "detseg.data.formats.coco:CocoFormat",
    "voc": "detseg.data.formats.voc:VocFormat",
    "yolo": "detseg.data.formats.yolo:YoloFormat",
    "labelme": "detseg.data.programs.labelme:LabelMeFormat",
    "createml": "detseg.data.programs.createml:CreateMlFormat",
    "cvat": "detseg.data.programs.cvat:CvatFormat",
    "supervisely": "detseg.data.programs.supervisely:SuperviselyFormat",
    "via": "detseg.data.programs.via:ViaFormat",
    "masks": "detseg.data.formats.masks:MasksFormat",
    "cityscapes": "detseg.data.formats.cityscapes:CityscapesFormat",
    "shapes": "detseg.data.formats.shapes:ShapesFormat",
    "nifti": "detseg.data.formats.nifti:NiftiFormat",
    "blobs": "detseg.data.formats.blobs:BlobsFormat",
}

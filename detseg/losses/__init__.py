"""What a model is trained on: assignment of predictions to ground truth, and loss functions.

``DETECTION_LOSSES``, ``INSTANCE_LOSSES``, ``SEGMENTATION_LOSSES`` and ``VOLUME_LOSSES`` name every loss that a
configuration may ask for.
Importing this package does not import torch.
"""

DETECTION_LOSSES = {
    "tal": "detseg.losses.detection:TALLossConfig",
    "dual": "detseg.losses.dual:DualLossConfig",
    "simota": "detseg.losses.detection:SimOTALossConfig",
}

INSTANCE_LOSSES = {
    "tal_masks": "detseg.losses.instances:TALMasksLossConfig",
}

SEGMENTATION_LOSSES = {
    "segmentation": "detseg.losses.segmentation:SegmentationLossConfig",
}

VOLUME_LOSSES = {
    "dice": "detseg.losses.dice:DiceLossConfig",
}

"""What a model is trained on: assignment of predictions to ground truth, and loss functions.

``DETECTION_LOSSES`` and ``SEGMENTATION_LOSSES`` name every loss that a configuration may ask for. Importing this
package does not import torch.
"""

DETECTION_LOSSES = {
    "tal": "detseg.losses.detection:TALLossConfig",
    "simota": "detseg.losses.detection:SimOTALossConfig",
}

SEGMENTATION_LOSSES = {
    "segmentation": "detseg.losses.segmentation:SegmentationLossConfig",
}

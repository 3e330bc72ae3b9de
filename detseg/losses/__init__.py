"""What a model is trained on: assignment of predictions to ground truth, and loss functions.

``LOSSES`` names every loss that a configuration may ask for. Importing this package does not import torch.
"""

LOSSES = {
    "tal": "detseg.losses.detection:TALLossConfig",
    "simota": "detseg.losses.detection:SimOTALossConfig",
}

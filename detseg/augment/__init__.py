"""Augmentation of images with their boxes and label masks, and of volumes; the geometry of evaluation inputs.

``AUGMENTS`` names every kind of augmentation that a configuration may ask for; each says in ``truths`` what it can keep
in step with the image, and makes its training pipeline with ``build()``. Importing this package does not import torch.
"""

from __future__ import annotations

AUGMENTS = {
    "image": "detseg.augment.config:AugmentConfig",
    "volume": "detseg.augment.volume_config:VolumeAugmentConfig",
}

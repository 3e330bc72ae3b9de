"""detseg: object detection and segmentation whose numbers can be trusted."""

__version__ = "0.1.0"

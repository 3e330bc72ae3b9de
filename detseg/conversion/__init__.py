"""Checkpoints of other programs into model files of detseg: the same network, the same input, the same class names."""

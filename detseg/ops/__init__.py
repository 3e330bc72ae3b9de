"""Arithmetic on boxes, anchor points and raw predictions: pure functions on tensors."""

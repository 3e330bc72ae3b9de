"""Judging predictions against ground truth; every number equals that of its official tool."""

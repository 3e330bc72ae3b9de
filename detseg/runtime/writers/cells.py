"""Cells of CSV files with text that comes from strangers: names of files and classes."""

from __future__ import annotations

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def as_text_cell(text: str) -> str:
    """``text`` for a cell: spreadsheets run what begins as a formula does, so that a quote goes before such text."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text

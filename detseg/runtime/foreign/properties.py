"""What other programs write into the properties of their ONNX files.

Ultralytics: ``names`` as a Python dictionary, ``stride``, ``imgsz``, ``task``. RapidAI and PaddlePaddle: ``character``,
one name a line.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_CHARACTERS = 1_000_000
"""Longer lists of names are refused before they are parsed."""


@dataclass(frozen=True)
class Properties:
    """``names`` of the classes in order, ``stride``, ``size`` (height, width) and ``task``; None or "" where nothing is
    said."""

    names: tuple[str, ...] | None = None
    stride: int | None = None
    size: tuple[int, int] | None = None
    task: str = ""

    @classmethod
    def of(cls, properties: Mapping[str, str]) -> Properties:
        """What ``properties`` say.

        Raises:
            ValueError: names, stride or size are not written as those programs write them; the message names no path.
        """
        names = None
        if "names" in properties:
            names = _names(properties["names"])
        elif "character" in properties:
            names = tuple(properties["character"].strip("\n").split("\n"))
        stride, size = _numbers(properties, "stride", 1), _numbers(properties, "imgsz", 2)
        sides = None if size is None else (size[0], size[-1])
        return cls(names, None if stride is None else stride[0], sides, properties.get("task", ""))


def _names(text: str) -> tuple[str, ...]:
    problem = f"its property names is no list of class names: {text[:60]!r}; give the names yourself"
    if len(text) > MAX_CHARACTERS:
        raise ValueError(problem)
    try:
        found: Any = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(problem) from error
    if isinstance(found, dict):
        if sorted(map(str, found)) != sorted(map(str, range(len(found)))):
            raise ValueError(problem)
        by_number = {int(number): name for number, name in found.items()}
        found = [by_number[number] for number in range(len(by_number))]
    if not isinstance(found, list | tuple) or not found or not all(isinstance(name, str) for name in found):
        raise ValueError(problem)
    return tuple(found)


def _numbers(properties: Mapping[str, str], name: str, most: int) -> tuple[int, ...] | None:
    """One or, up to ``most``, more positive numbers, such as ``[640, 640]``."""
    if name not in properties:
        return None
    text = properties[name].strip()
    numbers = tuple(map(int, re.findall(r"\d{1,6}", text)))
    if not re.fullmatch(r"\[?\s*\d{1,6}(\s*,\s*\d{1,6})*\s*\]?", text) or len(numbers) > most or not all(numbers):
        raise ValueError(f"its property {name} holds {text[:60]!r}, where up to {most} positive whole numbers belong")
    return numbers

"""The lines of YOLO's label files: boxes, polygons, boxes with key points."""

from __future__ import annotations

from pathlib import Path

from detseg.data.entries.key_points import TOLERANCE, KeyPointDoubts
from detseg.data.entries.parsing import parse_number, show
from detseg.data.records import BoxRecords
from detseg.files import read_any_text


def add_image(records: BoxRecords, path: Path, source: Path, num_key_values: int, doubts: KeyPointDoubts) -> bool:
    """Add an image with the boxes of its label file, ``source``; whether it has one."""
    image = records.add_image(path, source)
    try:
        text = read_any_text(source)
    except FileNotFoundError:
        return False
    except OSError as error:
        records.reject("D100", source, f"cannot be read as text: {error.strerror}")
        return True
    except UnicodeDecodeError as error:
        problem = f"not {error.encoding.upper()}, {error.reason} at byte {error.start}"
        records.reject("D100", source, f"cannot be read as text: {problem}")
        return True
    height, width = (side or 1 for side in records.size(image))
    for number, line in enumerate(text.splitlines(), 1):
        plain = _plain_box(line, len(records.class_names))
        if plain is not None:
            label, x, y, w, h = plain
            left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
            box_xywh = (left * width, top * height, (right - left) * width, (bottom - top) * height)
            records.add_known_box(image, box_xywh, int(label), number)
        elif line.strip():
            _add_box(records, image, source, line, number, num_key_values, doubts)
    return True


def _plain_box(line: str, num_classes: int) -> tuple[float, float, float, float, float] | None:
    """The numbers of a line with a class and a box, None where there is anything to say about it: nearly all lines of a
    large data set are such."""
    try:
        label, x, y, w, h = map(float, line.split())
    except ValueError:
        return None
    lowest, highest = -TOLERANCE, 1 + TOLERANCE
    # Comparisons are false for what is no number.
    in_place = lowest <= x <= highest and lowest <= y <= highest and lowest <= w <= highest and lowest <= h <= highest
    return (label, x, y, w, h) if in_place and 0 <= label < num_classes and label.is_integer() else None


def _add_box(
    records: BoxRecords,
    image: int,
    source: Path,
    line: str,
    number: int,
    num_key_values: int,
    doubts: KeyPointDoubts,
) -> None:
    fields = line.split()
    if num_key_values and len(fields) != 5:
        if len(fields) != 5 + num_key_values:
            expected = f"a box of 5 numbers, alone or with {num_key_values} of key points, as kpt_shape says"
            records.reject("D005", source, f"expected {expected}, got {len(fields)}: {show(line.strip())}", number)
            return
        fields = fields[:5]
    is_box, is_polygon = len(fields) == 5, len(fields) >= 7 and len(fields) % 2 == 1
    numbers = [value for value in map(parse_number, fields) if value is not None]
    if not (is_box or is_polygon):
        forms = "`class cx cy w h` or `class x1 y1 x2 y2 x3 y3 ...`"
        received = f"{len(fields)} numbers: {show(line.strip())}"
        if len(fields) == 6:
            received += "; if the last one is a confidence, these are predictions: take it away to learn from them"
        elif len(fields) > 6:
            received += "; if these are a box and key points, say kpt_shape in the YAML"
        records.reject("D005", source, f"expected {forms}, got {received}", number)
        return
    if len(numbers) < len(fields):
        wrong = next(field for field in fields if parse_number(field) is None)
        records.reject("D005", source, f"{show(wrong)}, allowed are finite numbers", number)
        return
    label, *values = numbers
    if is_polygon and (message := doubts.add(values, source, number)):
        records.reject("D005", source, message, number)
        return
    outside = [text for text, value in zip(fields[1:], values, strict=True) if not -TOLERANCE <= value <= 1 + TOLERANCE]
    if outside:
        message = f"{outside[0]}, allowed are 0 to 1 (fractions of the image's width and height)"
        records.reject("D005", source, message, number)
        return
    known = label.is_integer() and 0 <= label < len(records.class_names)
    if not known:
        allowed = f"integers from 0 to {len(records.class_names) - 1}"
        records.reject("D004", source, f"class {fields[0]}, allowed are {allowed}", number)
    height, width = records.size(image)
    if not height:
        height = width = 1
    if is_box:
        x, y, w, h = values
        left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    else:
        left, top, right, bottom = min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2])
    box_xywh = (left * width, top * height, (right - left) * width, (bottom - top) * height)
    polygon = [value * (width, height)[axis % 2] for axis, value in enumerate(values)]
    records.add_box(image, box_xywh, int(label) if known else None, number, polygons=[polygon] if is_polygon else [])

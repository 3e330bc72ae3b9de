"""Arguments that several verbs have, and how their texts are read."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there already")


def add_postprocess(parser: argparse.ArgumentParser, device: bool = True) -> None:
    if device:
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or 1, mps, xpu (default auto)")
    parser.add_argument(
        "--size",
        type=size,
        metavar="N or HxW",
        help="input size; one number is square (not for volumes; default: as in the model file)",
    )
    boxes = parser.add_argument_group("boxes (default: as in the model file; predict: confidence 0.25)")
    boxes.add_argument("--conf", type=float, dest="confidence", help="lowest score that counts")
    boxes.add_argument(
        "--conf-per-class",
        type=path,
        metavar="FILE",
        help="lowest score of each class: metrics.json of detseg eval, for that of the best F1, or a YAML of NAME: "
        "NUMBER (default: what `detseg set` stored in the model file, if anything)",
    )
    boxes.add_argument("--iou", type=float, help="overlap above which boxes are one object")
    boxes.add_argument("--max-det", type=int, dest="max_detections", help="most objects per image")
    boxes.add_argument(
        "--tiles",
        type=size,
        metavar="N or HxW",
        help="look at images in tiles of this size in their own pixels; --max-det then counts in each tile",
    )
    boxes.add_argument(
        "--nms-backend",
        choices=("auto", "detseg", "torchvision"),
        help="what suppresses boxes: detseg's own (on a GPU it needs Triton), torchvision, which is slower, or auto: "
        "the first where it runs",
    )
    if device:
        parser.add_argument(
            "--ensemble",
            nargs="+",
            type=path,
            default=(),
            metavar="MODEL",
            help="further models, whose class probabilities are averaged with those of the first (volumes)",
        )
    views = parser.add_argument_group("views and windows (default: as in the model file)")
    views.add_argument(
        "--scales",
        type=numbers,
        metavar="S,S,...",
        help="average (masks) or fuse (boxes) what is found with the input at these scales",
    )
    views.add_argument(
        "--flip",
        action="store_true",
        default=None,
        help="average (masks and volumes) or fuse (boxes) what is found in the input and its mirror images",
    )
    views.add_argument(
        "--window",
        type=window,
        metavar="[Dx]HxW",
        help="slide a window of this size over the input (masks and volumes)",
    )
    views.add_argument("--overlap", type=float, help="share by which windows, or tiles, overlap")


def path(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("expected the name of a file or folder, got nothing; the current folder is .")
    return Path(text)


def positive(text: str) -> int:
    if re.fullmatch(r"0*[1-9]\d{0,8}", text) is None:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def add_foreign(parser: argparse.ArgumentParser) -> None:
    foreign = parser.add_argument_group(
        ".onnx files that detseg did not write (default: as outputs and properties tell; see docs/foreign-onnx.md)"
    )
    foreign.add_argument(
        "--layout",
        metavar="NAME or FILE.yaml",
        help="of the outputs: yolov8, yolox, picodet, e2e, detr, torchvision, semantic, labels, or a YAML",
    )
    foreign.add_argument("--names", metavar="NAME,NAME,... or FILE", help="the classes in order")
    foreign.add_argument(
        "--scale", type=share, metavar="S", help="the input is (pixel * S - MEAN) / STD; such as 1/255 or 1"
    )
    foreign.add_argument("--mean", type=numbers, metavar="M[,M,M]", help="one for all channels, or one for each")
    foreign.add_argument("--std", type=numbers, metavar="S[,S,S]", help="one for all channels, or one for each")
    foreign.add_argument(
        "--bgr", action=argparse.BooleanOptionalAction, default=None, help="whether it sees blue first, or red"
    )
    foreign.add_argument(
        "--anchor",
        choices=("center", "top_left", "stretch"),
        help="where an image lies in the input, or that it is stretched to it",
    )


def size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)(?:[x,]([1-9]\d*))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected height x width, such as 360x480, or one number, got {text!r}")
    return int(match[1]), int(match[2] or match[1])


def gigabytes(text: str) -> float:
    if re.fullmatch(r"\d{1,6}(\.\d+)?", text) is None or float(text) == 0:
        raise argparse.ArgumentTypeError(f"expected gigabytes, such as 8 or 11.5, got {text!r}")
    return float(text)


def count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def batch(text: str) -> int | str:
    return text if text == "auto" else count(text)


def window(text: str) -> tuple[int, ...]:
    if re.fullmatch(r"[1-9]\d*([x,][1-9]\d*){1,2}", text) is None:
        raise argparse.ArgumentTypeError(
            f"expected height x width, such as 360x480, or depth x height x width, such as 64x64x64; got {text!r}"
        )
    return tuple(map(int, re.split("[x,]", text)))


def seconds(text: str) -> float:
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected seconds, or a time such as 1:30, got {text!r}")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def share(text: str) -> float:
    match = re.fullmatch(r"(\d*\.?\d+(?:[eE]-?\d+)?)(?:/(\d*\.?\d+))?", text)
    if match is None or not float(match[1]) or not float(match[2] or 1):
        raise argparse.ArgumentTypeError(f"expected a positive number or a fraction, such as 1/255, got {text!r}")
    return float(match[1]) / float(match[2] or 1)


def numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 0.75,1.0,1.25, got {text!r}") from None


def postprocess_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What :func:`add_postprocess` has taken, as far as it was given."""
    names = ("confidence", "iou", "max_detections", "nms_backend", "tiles", "scales", "flip", "window", "overlap")
    chosen = {name: getattr(options, name) for name in names}
    if options.conf_per_class is not None:
        from detseg.runtime.postprocess.class_settings import read_confidences

        if options.confidence is not None:
            raise ValueError("--conf is one number for all classes, --conf-per-class one for each; give one of them")
        chosen["confidence"] = read_confidences(options.conf_per_class)
    return {name: value for name, value in chosen.items() if value is not None}


def foreign_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What is said of an ``.onnx`` file of another program."""
    return {name: getattr(options, name) for name in ("layout", "names", "scale", "mean", "std", "bgr", "anchor")}

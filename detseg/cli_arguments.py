"""The arguments of the command line, and how their texts are read."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from detseg import __version__
from detseg.cli_deployment import add_bench, add_merge, add_runtime, add_serve, add_shares

TRUTHS = ("boxes", "instances", "masks", "volumes")
"""Those of :mod:`detseg.structures`, which takes longer to load than a help text may."""


def make_parser() -> argparse.ArgumentParser:
    """All verbs with their arguments; ``verb`` names the one that was given."""
    parser = argparse.ArgumentParser(
        prog="detseg", description="Object detection and segmentation that can be trusted."
    )
    parser.add_argument("--version", action="version", version=f"detseg {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error came from")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    check = verbs.add_parser(
        "check", help="look for mistakes in a data set", description="Never writes into the data set."
    )
    check.add_argument("data", help="folder or YAML of a data set, or the word shapes or blobs")
    check.add_argument("--format", help="needed only where the layout is ambiguous")
    check.add_argument(
        "--truth",
        choices=TRUTHS,
        help="what is to be learned, where a data set has several; for instances, all outlines must be there",
    )
    check.add_argument("--fast", action="store_true", help="read the headers of the pictures only")
    check.add_argument("--json", type=Path, metavar="FILE", help="write all findings to this file")
    check.add_argument(
        "--preview", type=Path, metavar="DIR", help="draw augmented training batches with their boxes or masks"
    )
    check.add_argument("--config", type=Path, help="with --preview: take size and augmentation from this configuration")
    _add_overwrite(check)

    split = verbs.add_parser("split", help="divide a data set, seeded and stratified")
    split.add_argument("data", help="folder or YAML of a data set")
    split.add_argument("--ratios", help="train:val:test, or train:val (default 6:2:2)")
    split.add_argument(
        "--folds", type=int, metavar="K", help="instead of ratios: K divisions for cross-validation (volumes)"
    )
    split.add_argument("--seed", type=int, default=0)
    split.add_argument("--format", help="needed only where the layout is ambiguous")
    split.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a new folder for the lists")

    _add_plan(verbs.add_parser("plan", help="choose a configuration for a set of volumes, with its reasons"))

    config = verbs.add_parser("config", help="say what the keys of a training configuration mean")
    config.add_argument("key", nargs="?", metavar="KEY", help="one key or section, such as train.optimizer or task")
    verbs.add_parser("configs", help="list the configurations that come with detseg, and released weights")
    _add_train(verbs.add_parser("train", help="train a model, or fine-tune one"))

    evaluate = verbs.add_parser("eval", help="measure a model on a data set")
    evaluate.add_argument(
        "model",
        type=Path,
        help="a .safetensors or .onnx file, the name of released weights, or a configuration together with --weights",
    )
    evaluate.add_argument("--weights", type=Path, help="weights for a configuration: .safetensors, .pt or .pth")
    evaluate.add_argument("--data", help="folder or YAML of a data set, or the word shapes or blobs")
    evaluate.add_argument("--format", help="needed only where the layout is ambiguous")
    evaluate.add_argument("--split", default="val")
    evaluate.add_argument("--batch", "--batch-size", dest="batch_size", type=_count, default=16, metavar="N")
    evaluate.add_argument("--workers", type=int, default=2, help="processes that read pictures (default 2)")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the metrics to this file")
    evaluate.add_argument(
        "--report",
        type=Path,
        metavar="FILE.html",
        help="write one page with all numbers, curves and the hardest examples",
    )
    evaluate.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="write metrics, plots, pictures and report.html here; if an evaluation is there, to DIR-2, DIR-3, ...",
    )
    evaluate.add_argument(
        "--full", action="store_true", help="keep the pictures of the page large; without it the page stays below 5 MB"
    )
    evaluate.add_argument(
        "--precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="of the network (.safetensors only)"
    )
    counting = evaluate.add_mutually_exclusive_group()
    counting.add_argument(
        "--evaluator",
        metavar="NAME",
        help="what counts boxes: hotcoco, faster-coco-eval or pycocotools, which give the same numbers (default the "
        "first of these that is installed)",
    )
    counting.add_argument(
        "--official", dest="evaluator", action="store_const", const="pycocotools", help="--evaluator pycocotools"
    )
    _add_overwrite(evaluate)
    _add_postprocess(evaluate)
    _add_foreign(evaluate)

    compare = verbs.add_parser("compare", help="compare evaluations, with intervals of confidence")
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folders that eval -o or train wrote")
    compare.add_argument("-o", "--output", type=Path, metavar="FILE.html", help="write a page")
    compare.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file")
    compare.add_argument("--samples", type=_count, default=1000, metavar="N", help="of the bootstrap (default 1000)")
    compare.add_argument("--seed", type=int, default=0)
    _add_overwrite(compare)
    _add_predict(verbs.add_parser("predict", help="run a model on pictures, videos or volumes"))
    add_merge(verbs.add_parser("merge", help="put the results of all shares of a list together"))
    serve = add_serve(verbs.add_parser("serve", help="answer requests for predictions over HTTP"))
    _add_postprocess(serve)
    _add_foreign(serve)
    colors = verbs.add_parser("colors", help="say which color each class of a model has, or draw the legend")
    colors.add_argument("model", type=Path, help="a .safetensors or .onnx file, or the name of released weights")
    colors.add_argument(
        "--colors", type=Path, metavar="FILE.yaml", help="colors in place of the usual ones, as predict"
    )
    colors.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="a picture of the legend, or a .yaml that --colors takes"
    )
    _add_overwrite(colors)
    bench = add_bench(verbs.add_parser("bench", help="measure an .onnx file in all runtimes of this machine"))
    bench.add_argument(
        "--size", type=_size, metavar="N or HxW", help="input size; one number is square (default: as in the file)"
    )
    _add_export(verbs.add_parser("export", help="write a model as ONNX, and prove that it gives the same results"))
    _add_convert(verbs.add_parser("convert", help="make a model file of a YOLOv8 (also seg), a YOLOX or MONAI's VNet"))
    _add_download(verbs.add_parser("download", help="fetch released weights, or list them"))
    return parser


def _add_plan(plan: argparse.ArgumentParser) -> None:
    plan.description = "By the rules of nnU-Net, written out beside each setting. All volumes are read."
    plan.add_argument("data", help="folder or YAML of a set of volumes, or the word blobs")
    plan.add_argument("--format", help="needed only where the layout is ambiguous")
    plan.add_argument("--split", default="train", help="whose volumes are looked at (default train)")
    plan.add_argument(
        "--memory", type=_gigabytes, default=8.0, metavar="GB", help="of the device that trains (default 8)"
    )
    plan.add_argument("--json", type=Path, metavar="FILE", help="write what was seen of the data to this file")
    plan.add_argument("-o", "--output", type=Path, required=True, metavar="CONFIG.yaml", help="the configuration")
    _add_overwrite(plan)


def _add_train(train: argparse.ArgumentParser) -> None:
    train.usage = "detseg train [-h] MODEL --data DATA [options] [key.sub=value ...]  |  detseg train --resume RUN"
    train.description = "For many processes: torchrun -m detseg train ..."
    train.add_argument(
        "words",
        nargs="*",
        metavar="MODEL, key.sub=value",
        help="a configuration, by name (see `detseg configs`) or as a YAML file; or what to fine-tune: a .safetensors "
        "file, a run folder, released weights by name, or a .pt, .pth or .onnx file that convert reads; settings "
        "replace those of the configuration",
    )
    train.add_argument("--data", help="folder or YAML of a data set, or the word shapes or blobs")
    train.add_argument("--epochs", type=_count, metavar="N")
    train.add_argument(
        "--size", type=_size, metavar="N or HxW", help="input size; one number is square (not for volumes)"
    )
    train.add_argument(
        "--batch",
        "--batch-size",
        dest="batch_size",
        type=_batch,
        metavar="N",
        help="images at a time, or auto: what fits",
    )
    train.add_argument("--device", help="auto, cpu, cuda, cuda:1 or 1, mps, xpu (default auto)")
    train.add_argument("--seed", type=int, metavar="S")
    train.add_argument("--workers", type=int, metavar="N", help="processes that read and augment (default 2)")
    train.add_argument("-o", "--output", type=Path, metavar="DIR", help="run folder (default runs/NAME, numbered)")
    train.add_argument(
        "--resume", type=Path, metavar="RUN", help="go on with the run in this folder; with --epochs for longer"
    )
    train.add_argument(
        "--folds",
        metavar="all or 0,2",
        help="a model for each of these folds of a data set that is divided into folds, in RUN/fold0, RUN/fold1, ..., "
        "and one evaluation of all; what was broken off goes on with --resume RUN (volumes)",
    )
    train.add_argument(
        "--accept-changed-data",
        action="store_true",
        help="with --resume: go on, at the next epoch, although the data set has changed",
    )


def _add_predict(predict: argparse.ArgumentParser) -> None:
    predict.add_argument("model", type=Path, help="a .safetensors or .onnx file, or the name of released weights")
    predict.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="pictures, videos or volumes (.nii.gz, .mha, .nrrd, a folder with a DICOM series, ...), folders, globs, "
        "image sequences (frame_%%04d.png), the number of a camera, an address (see --allow-url), or - for a list of "
        "these on standard input",
    )
    predict.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("predictions"),
        metavar="DIR",
        help="folder for the results; if it holds those of another run, DIR-2, DIR-3, ... (default predictions)",
    )
    _add_overwrite(predict)
    predict.add_argument(
        "--save",
        help="what to write, separated by commas. Boxes: drawn (pictures of pictures, videos of videos), picture, "
        "video, coco, csv, jsonl, yolo, crops (default drawn,coco). Instances: the same, and index. Masks: drawn, "
        "picture, video, mask, color, ids, jsonl (default drawn,mask). Volumes: nifti, table, slices, montage (default "
        "these four), source (labels as .mha or .nrrd where the volume is), probabilities",
    )
    predict.add_argument(
        "--batch",
        "--batch-size",
        dest="batch_size",
        type=_count,
        metavar="N",
        help="images at a time, of cameras one (default 1 on a CPU, 16 on a GPU)",
    )
    add_runtime(predict)
    predict.add_argument("--threads", type=int, metavar="N", help="CPU cores for the network (default all)")
    predict.add_argument(
        "--full-input",
        action="store_true",
        default=None,
        help="pad pictures to the whole input size, as eval does; without it boxes on a CPU take no more padding than "
        "the network's stride asks for, which is faster",
    )
    predict.add_argument("--classes", metavar="NAME,NAME,...", help="look for these classes only")
    predict.add_argument(
        "--line-width", type=_positive, metavar="PIXELS", help="of drawn boxes (default by picture size)"
    )
    predict.add_argument(
        "--colors",
        type=Path,
        metavar="FILE.yaml",
        help="colors of classes (boxes and masks): a list in their order, or NAME: [R, G, B]; also the YAML of a data "
        "set that has `colors:` (default: those of Cityscapes, CamVid, VOC or COCO where they know all classes)",
    )
    predict.add_argument(
        "--legend",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="name all classes below drawn pictures and videos (default: for masks)",
    )
    predict.add_argument("--crops", action="store_true", help="save every object as a picture of its own, too (boxes)")
    predict.add_argument(
        "--show",
        action="store_true",
        help="show results in a window as they come; pictures wait for a key, q or Escape ends the run",
    )
    add_shares(predict)
    videos = predict.add_argument_group("videos")
    videos.add_argument("--every", type=int, default=1, metavar="N", help="take each N-th frame only")
    videos.add_argument("--start", type=_seconds, default=0.0, metavar="TIME", help="in seconds, or as 1:30 or 1:02:30")
    videos.add_argument("--end", type=_seconds, metavar="TIME")
    videos.add_argument(
        "--track",
        action="store_true",
        help="number objects through the frames (boxes); what cannot be followed stays, without a number",
    )
    videos.add_argument(
        "--count",
        action="append",
        metavar="PLACE",
        help="count tracked objects that cross line:X,Y,X,Y or are in zone:X,Y,X,Y,X,Y,..., in pixels or in percent "
        "(line:door=0%%,50%%,100%%,50%% has a name); on the pictures and in counts.csv; may be given several times",
    )
    videos.add_argument("--fps", type=float, default=25.0, help="rate of a video of still pictures (default 25)")
    videos.add_argument("--allow-url", action="store_true", help="open network addresses (http, https, rtsp, rtmp)")
    _add_postprocess(predict)
    _add_foreign(predict)


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("model", type=Path, help="a .safetensors file, or the name of released weights")
    export.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE.onnx",
        help="default: beside the model; of released weights, in the current folder",
    )
    _add_overwrite(export)
    export.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32")
    forms = export.add_mutually_exclusive_group()
    forms.add_argument("--nms", dest="form", action="store_const", const="nms", help="suppression in the graph (boxes)")
    forms.add_argument("--raw", dest="form", action="store_const", const="raw", help="the network alone (boxes)")
    export.add_argument("--opset", type=int, help="version of the ONNX operators (default the exporter's)")
    export.add_argument("--fixed", action="store_true", help="one image of the input size only, for tools that want it")
    export.add_argument("--calibrate", metavar="DATA", help="data set whose training pictures int8 is calibrated with")
    export.add_argument("--verify", metavar="DATA", help="data set on which both models are measured")
    _add_postprocess(export, device=False)


def _add_convert(convert: argparse.ArgumentParser) -> None:
    convert.description = "Nothing in the file is run. Every tensor must find its place."
    convert.add_argument("file", type=Path, help="a .pt or .pth file, or a YOLOX as .onnx")
    convert.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.safetensors", help="a new file")
    convert.add_argument("--names", metavar="NAME,NAME,...", help="the classes in order, where the file has none")
    convert.add_argument("--config", type=Path, help="take the task, such as the spacing of volumes, from this YAML")
    convert.add_argument("--json", type=Path, metavar="FILE", help="write the report with all tensors to this file")
    _add_overwrite(convert)


def _add_download(download: argparse.ArgumentParser) -> None:
    download.description = "No other verb downloads anything. Each file is checked against the table of releases."
    download.add_argument("names", nargs="*", metavar="NAME", help="of released weights; without names they are listed")
    download.add_argument(
        "--to",
        type=Path,
        metavar="DIR",
        help="folder for the files (default: $DETSEG_WEIGHTS, or detseg/weights among the user's data; there models "
        "are found by name)",
    )
    download.add_argument("--url", metavar="BASE", help="https address of the folder that the files are in")


def _add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there already")


def _add_postprocess(parser: argparse.ArgumentParser, device: bool = True) -> None:
    if device:
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or 1, mps, xpu (default auto)")
    parser.add_argument(
        "--size",
        type=_size,
        metavar="N or HxW",
        help="input size; one number is square (not for volumes; default: as in the model file)",
    )
    boxes = parser.add_argument_group("boxes (default: as in the model file; predict: confidence 0.25)")
    boxes.add_argument("--conf", type=float, dest="confidence", help="lowest score that counts")
    boxes.add_argument("--iou", type=float, help="overlap above which boxes are one object")
    boxes.add_argument("--max-det", type=int, dest="max_detections", help="most objects per picture")
    boxes.add_argument(
        "--nms-backend",
        choices=("detseg", "torchvision"),
        help="what suppresses boxes: detseg's own (on a GPU it needs Triton) or torchvision, which is slower",
    )
    if device:
        parser.add_argument(
            "--ensemble",
            nargs="+",
            type=Path,
            default=(),
            metavar="MODEL",
            help="further models, whose class probabilities are averaged with those of the first (volumes)",
        )
    masks = parser.add_argument_group("masks and volumes (default: as in the model file)")
    masks.add_argument(
        "--scales", type=_numbers, metavar="S,S,...", help="average over the input at these scales (masks)"
    )
    masks.add_argument("--flip", action="store_true", default=None, help="average over the input and its mirror images")
    masks.add_argument("--window", type=_window, metavar="[Dx]HxW", help="slide a window of this size over the input")
    masks.add_argument("--overlap", type=float, help="share by which windows overlap")


def _positive(text: str) -> int:
    if re.fullmatch(r"0*[1-9]\d{0,8}", text) is None:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def _add_foreign(parser: argparse.ArgumentParser) -> None:
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
        "--scale", type=_share, metavar="S", help="the input is (pixel * S - MEAN) / STD; such as 1/255 or 1"
    )
    foreign.add_argument("--mean", type=_numbers, metavar="M[,M,M]", help="one for all channels, or one for each")
    foreign.add_argument("--std", type=_numbers, metavar="S[,S,S]", help="one for all channels, or one for each")
    foreign.add_argument(
        "--bgr", action=argparse.BooleanOptionalAction, default=None, help="whether it sees blue first, or red"
    )
    foreign.add_argument(
        "--anchor",
        choices=("center", "top_left", "stretch"),
        help="where a picture lies in the input, or that it is stretched to it",
    )


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)(?:[x,]([1-9]\d*))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected height x width, such as 360x480, or one number, got {text!r}")
    return int(match[1]), int(match[2] or match[1])


def _gigabytes(text: str) -> float:
    if re.fullmatch(r"\d{1,6}(\.\d+)?", text) is None or float(text) == 0:
        raise argparse.ArgumentTypeError(f"expected gigabytes, such as 8 or 11.5, got {text!r}")
    return float(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _batch(text: str) -> int | str:
    return text if text == "auto" else _count(text)


def _window(text: str) -> tuple[int, ...]:
    if re.fullmatch(r"[1-9]\d*([x,][1-9]\d*){1,2}", text) is None:
        raise argparse.ArgumentTypeError(
            f"expected height x width, such as 360x480, or depth x height x width, such as 64x64x64; got {text!r}"
        )
    return tuple(map(int, re.split("[x,]", text)))


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected seconds, or a time such as 1:30, got {text!r}")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def _share(text: str) -> float:
    match = re.fullmatch(r"(\d*\.?\d+(?:[eE]-?\d+)?)(?:/(\d*\.?\d+))?", text)
    if match is None or not float(match[1]) or not float(match[2] or 1):
        raise argparse.ArgumentTypeError(f"expected a positive number or a fraction, such as 1/255, got {text!r}")
    return float(match[1]) / float(match[2] or 1)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 0.75,1.0,1.25, got {text!r}") from None

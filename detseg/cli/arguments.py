"""The arguments of the command line, and how their texts are read."""

from __future__ import annotations

import argparse

from detseg import __version__
from detseg.cli.common_arguments import (
    add_foreign,
    add_overwrite,
    add_postprocess,
    batch,
    count,
    gigabytes,
    path,
    size,
)
from detseg.cli.deployment import add_bench, add_merge, add_runtime, add_serve
from detseg.cli.predict_arguments import add_predict

TARGETS = ("boxes", "instances", "masks", "volumes")
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
        "--target",
        choices=TARGETS,
        help="what is to be learned, where a data set has several; for instances, all outlines must be there",
    )
    check.add_argument("--splits", metavar="NAME,...", help="look at these only (default all)")
    check.add_argument("--fast", action="store_true", help="read the headers of the images only")
    check.add_argument(
        "--doubts",
        type=path,
        metavar="FOLDER",
        help="list labels of which a model is sure that they are wrong: the folder of an evaluation, or its "
        "label_doubts.json",
    )
    check.add_argument("--json", type=path, metavar="FILE", help="write all findings to this file")
    check.add_argument(
        "--preview", type=path, metavar="DIR", help="draw augmented training batches with their boxes or masks"
    )
    check.add_argument("--config", type=path, help="with --preview: take size and augmentation from this configuration")
    add_overwrite(check)

    split = verbs.add_parser("split", help="divide a data set, seeded and stratified")
    split.add_argument("data", help="folder or YAML of a data set")
    split.add_argument("--ratios", help="train:val:test, or train:val (default 6:2:2)")
    split.add_argument(
        "--folds", type=int, metavar="K", help="instead of ratios: K splits for cross-validation (volumes)"
    )
    split.add_argument(
        "--splits", metavar="NAME,...", help="of a set that is divided already: put these together (default all)"
    )
    split.add_argument(
        "--group-by",
        metavar="REGEX",
        help="keep together what this regular expression finds the same in the file names, such as '^([^_]+)_' where "
        "frames of one video begin alike; with a slash in it, in the paths below the data set's folder",
    )
    split.add_argument("--seed", type=int, default=0)
    split.add_argument("--format", help="needed only where the layout is ambiguous")
    split.add_argument("-o", "--output", type=path, required=True, metavar="DIR", help="a new folder for the lists")

    _add_plan(verbs.add_parser("plan", help="choose a configuration for a set of volumes, with its reasons"))

    config = verbs.add_parser("config", help="say what the keys of a training configuration mean")
    config.add_argument("key", nargs="?", metavar="KEY", help="one key or section, such as train.optimizer or task")
    verbs.add_parser("configs", help="list the configurations that come with detseg, and released weights")
    _add_train(verbs.add_parser("train", help="train a model, or fine-tune one"))

    evaluate = verbs.add_parser("eval", help="measure a model on a data set")
    evaluate.add_argument(
        "model",
        type=path,
        help="a .safetensors or .onnx file, the name of released weights, or a configuration together with --weights",
    )
    evaluate.add_argument("--weights", type=path, help="weights for a configuration: .safetensors, .pt or .pth")
    evaluate.add_argument("--data", help="folder or YAML of a data set, or the word shapes or blobs")
    evaluate.add_argument("--format", help="needed only where the layout is ambiguous")
    evaluate.add_argument("--split", default="val")
    evaluate.add_argument("--batch", "--batch-size", dest="batch_size", type=count, default=16, metavar="N")
    evaluate.add_argument("--workers", type=int, default=2, help="processes that read images (default 2)")
    evaluate.add_argument("--json", type=path, metavar="FILE", help="write the metrics to this file")
    evaluate.add_argument(
        "--report",
        type=path,
        metavar="FILE.html",
        help="write one page with all numbers, curves and the hardest examples",
    )
    evaluate.add_argument(
        "-o",
        "--output",
        type=path,
        metavar="DIR",
        help="write metrics, plots, images and report.html here; if an evaluation is there, to DIR-2, DIR-3, ...",
    )
    evaluate.add_argument(
        "--full", action="store_true", help="keep the images of the page large; without it the page stays below 5 MB"
    )
    add_runtime(evaluate)
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
    evaluate.add_argument(
        "--skip-bad-images",
        type=int,
        default=0,
        metavar="N",
        help="leave out up to N images that cannot be read, and name them (default 0: the first ends it)",
    )
    add_overwrite(evaluate)
    add_postprocess(evaluate)
    add_foreign(evaluate)

    compare = verbs.add_parser("compare", help="compare evaluations, with intervals of confidence")
    compare.add_argument("runs", type=path, nargs="+", metavar="RUN", help="folders that eval -o or train wrote")
    compare.add_argument("-o", "--output", type=path, metavar="FILE.html", help="write a page")
    compare.add_argument("--json", type=path, metavar="FILE", help="write the numbers to this file")
    compare.add_argument("--samples", type=count, default=1000, metavar="N", help="of the bootstrap (default 1000)")
    compare.add_argument("--seed", type=int, default=0)
    add_overwrite(compare)
    add_predict(verbs.add_parser("predict", help="run a model on images, videos or volumes"))
    add_merge(verbs.add_parser("merge", help="put the results of all shares of a list together"))
    serve = add_serve(verbs.add_parser("serve", help="answer requests for predictions over HTTP"))
    add_postprocess(serve)
    add_foreign(serve)
    colors = verbs.add_parser("colors", help="say which color each class of a model has, or draw the legend")
    colors.add_argument("model", type=path, help="a .safetensors or .onnx file, or the name of released weights")
    colors.add_argument(
        "--colors", type=path, metavar="FILE.yaml", help="colors in place of the usual ones, as predict"
    )
    colors.add_argument(
        "-o", "--output", type=path, metavar="FILE", help="an image of the legend, or a .yaml that --colors takes"
    )
    add_overwrite(colors)
    _add_set(verbs.add_parser("set", help="store confidences and colors of the classes in a model file"))
    bench = add_bench(verbs.add_parser("bench", help="measure an .onnx file in all runtimes of this machine"))
    bench.add_argument(
        "--size", type=size, metavar="N or HxW", help="input size; one number is square (default: as in the file)"
    )
    _add_export(
        verbs.add_parser("export", help="write a model as ONNX or in another format, and prove that it gives the same")
    )
    _add_convert(verbs.add_parser("convert", help="make a model file of a YOLOv8 (also seg), a YOLOX or MONAI's VNet"))
    _add_download(verbs.add_parser("download", help="fetch released weights, or list them"))
    return parser


def _add_set(chosen: argparse.ArgumentParser) -> None:
    chosen.description = (
        "predict and serve use what is stored, eval judges by it, export passes it on. Without options it is listed."
    )
    chosen.add_argument("model", type=path, help="a .safetensors or .onnx file, or the name of released weights")
    chosen.add_argument(
        "--conf-per-class",
        metavar="FILE",
        help="lowest score of each class: metrics.json of detseg eval, for that of the best F1, or a YAML of NAME: "
        "NUMBER; none: store nothing",
    )
    chosen.add_argument("--colors", metavar="FILE.yaml", help="colors of the classes, as for predict; none: the usual")
    chosen.add_argument(
        "-o", "--output", type=path, metavar="FILE", help="a new file; without it the model itself, with --overwrite"
    )
    add_overwrite(chosen)


def _add_plan(plan: argparse.ArgumentParser) -> None:
    plan.description = "By the rules of nnU-Net, written out beside each setting. All volumes are read."
    plan.add_argument("data", help="folder or YAML of a set of volumes, or the word blobs")
    plan.add_argument("--format", help="needed only where the layout is ambiguous")
    plan.add_argument("--split", default="train", help="whose volumes are looked at (default train)")
    plan.add_argument(
        "--memory", type=gigabytes, default=8.0, metavar="GB", help="of the device that trains (default 8)"
    )
    plan.add_argument("--json", type=path, metavar="FILE", help="write what was seen of the data to this file")
    plan.add_argument("-o", "--output", type=path, required=True, metavar="CONFIG.yaml", help="the configuration")
    add_overwrite(plan)


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
    train.add_argument("--epochs", type=count, metavar="N")
    train.add_argument(
        "--size", type=size, metavar="N or HxW", help="input size; one number is square (not for volumes)"
    )
    train.add_argument(
        "--batch",
        "--batch-size",
        dest="batch_size",
        type=batch,
        metavar="N",
        help="images at a time, or auto: what fits",
    )
    train.add_argument("--device", help="auto, cpu, cuda, cuda:1 or 1, mps, xpu (default auto)")
    train.add_argument("--seed", type=int, metavar="S")
    train.add_argument("--workers", type=int, metavar="N", help="processes that read and augment (default 2)")
    train.add_argument("-o", "--output", type=path, metavar="DIR", help="run folder (default runs/NAME, numbered)")
    train.add_argument(
        "--resume", type=path, metavar="RUN", help="go on with the run in this folder; with --epochs for longer"
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


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("model", type=path, help="a .safetensors file, or the name of released weights")
    export.add_argument(
        "-o",
        "--output",
        type=path,
        metavar="FILE",
        help="ends in .onnx, .xml (OpenVINO), .param (ncnn) or .engine (TensorRT); default: beside the model; of "
        "released weights, in the current folder",
    )
    export.add_argument(
        "--format",
        choices=("onnx", "openvino", "ncnn", "tensorrt"),
        help="where -o does not say it (default onnx)",
    )
    add_overwrite(export)
    export.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32")
    forms = export.add_mutually_exclusive_group()
    forms.add_argument("--nms", dest="form", action="store_const", const="nms", help="NMS in the graph (boxes)")
    forms.add_argument("--raw", dest="form", action="store_const", const="raw", help="the network alone (boxes)")
    export.add_argument("--opset", type=int, help="version of the ONNX operators (default the exporter's)")
    export.add_argument("--fixed", action="store_true", help="one image of the input size only, for tools that want it")
    export.add_argument("--calibrate", metavar="DATA", help="data set whose training images int8 is calibrated with")
    export.add_argument("--verify", metavar="DATA", help="data set on which both models are measured")
    add_postprocess(export, device=False)


def _add_convert(convert: argparse.ArgumentParser) -> None:
    convert.description = "Nothing in the file is run. Every tensor must find its place."
    convert.add_argument("file", type=path, help="a .pt or .pth file, or a YOLOX as .onnx")
    convert.add_argument("-o", "--output", type=path, required=True, metavar="FILE.safetensors", help="a new file")
    convert.add_argument("--names", metavar="NAME,NAME,...", help="the classes in order, where the file has none")
    convert.add_argument("--config", type=path, help="take the task, such as the spacing of volumes, from this YAML")
    convert.add_argument("--json", type=path, metavar="FILE", help="write the report with all tensors to this file")
    add_overwrite(convert)


def _add_download(download: argparse.ArgumentParser) -> None:
    download.description = "No other verb downloads anything. Each file is checked against the table of releases."
    download.add_argument("names", nargs="*", metavar="NAME", help="of released weights; without names they are listed")
    download.add_argument(
        "--to",
        type=path,
        metavar="DIR",
        help="folder for the files (default: $DETSEG_WEIGHTS, or detseg/weights among the user's data; there models "
        "are found by name)",
    )
    download.add_argument("--url", metavar="BASE", help="https address of the folder that the files are in")

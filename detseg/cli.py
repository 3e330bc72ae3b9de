"""The command line: six verbs over one contract. Each verb imports what it needs when it is used."""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from detseg import __version__

EXIT_USER_ERROR = 2
_OVERRIDE = re.compile(r"[A-Za-z_][\w.]*=")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. A user's mistake is one line on standard error, never a traceback."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    # argparse ends a list of words at the first option; the words of `train` may stand on either side of it.
    if options.verb == "train" and not any(word.startswith("-") for word in rest):
        options.words += rest
    elif rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return run(options)
    except (ValueError, OSError) as error:
        if options.traceback:
            raise
        print(f"detseg {options.verb}: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"detseg: warning: {message}", file=file or sys.stderr)


def _parser() -> argparse.ArgumentParser:
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
    check.add_argument("--fast", action="store_true", help="read the headers of the pictures only")
    check.add_argument("--json", type=Path, metavar="FILE", help="write all findings to this file")
    check.add_argument(
        "--preview", type=Path, metavar="DIR", help="draw augmented training batches with their boxes or masks"
    )
    check.add_argument("--config", type=Path, help="with --preview: take size and augmentation from this configuration")
    check.set_defaults(run=_check)

    split = verbs.add_parser("split", help="divide a data set, seeded and stratified")
    split.add_argument("data", help="folder or YAML of a data set")
    split.add_argument("--ratios", help="train:val:test, or train:val (default 6:2:2)")
    split.add_argument(
        "--folds", type=int, metavar="K", help="instead of ratios: K divisions for cross-validation (volumes)"
    )
    split.add_argument("--seed", type=int, default=0)
    split.add_argument("--format", help="needed only where the layout is ambiguous")
    split.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="a new folder for the lists")
    split.set_defaults(run=_split)

    train = verbs.add_parser(
        "train",
        help="train a model",
        usage="detseg train [-h] [-o DIR] [--resume RUN] [CONFIG] [key.sub=value ...]",
        description="For many processes: torchrun -m detseg train ...",
    )
    train.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG, key.sub=value",
        help="a YAML file, such as those under configs/, and settings that replace those of the file, in any order",
    )
    train.add_argument("-o", "--output", type=Path, metavar="DIR", help="run folder (default runs/NAME, numbered)")
    train.add_argument("--resume", type=Path, metavar="RUN", help="go on with the run in this folder")
    train.set_defaults(run=_train)

    evaluate = verbs.add_parser("eval", help="measure a model on a data set")
    evaluate.add_argument("model", type=Path, help="a .safetensors file, or a configuration together with --weights")
    evaluate.add_argument("--weights", type=Path, help="weights for a configuration: .safetensors or YOLOX .pth")
    evaluate.add_argument("--data", help="folder or YAML of a data set, or the word shapes or blobs")
    evaluate.add_argument("--format", help="needed only where the layout is ambiguous")
    evaluate.add_argument("--split", default="val")
    evaluate.add_argument("--batch-size", type=int, default=16)
    evaluate.add_argument("--workers", type=int, default=2, help="processes that read pictures (default 2)")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write the metrics to this file")
    evaluate.add_argument("-o", "--output", type=Path, metavar="DIR", help="write metrics, plots and pictures here")
    _add_postprocess(evaluate)
    evaluate.set_defaults(run=_evaluate)

    predict = verbs.add_parser("predict", help="run a model on pictures or volumes")
    predict.add_argument("model", type=Path, help="a .safetensors file")
    predict.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="pictures or volumes (.nii, .nii.gz), folders or globs"
    )
    predict.add_argument("-o", "--output", type=Path, default=Path("predictions"), metavar="DIR")
    predict.add_argument(
        "--save",
        help="what to write: picture, video, and coco (boxes; default picture,coco) or mask, ids (masks; default "
        "picture,mask); nifti, table, slices, montage (volumes; default all four)",
    )
    predict.add_argument("--fps", type=float, default=25.0, help="pictures per second of the video (default 25)")
    predict.add_argument("--batch-size", type=int, default=16)
    _add_postprocess(predict)
    predict.set_defaults(run=_predict)
    return parser


def _add_postprocess(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default auto)")
    parser.add_argument(
        "--size", type=_size, metavar="HxW", help="input size (not for volumes; default: as in the model file)"
    )
    boxes = parser.add_argument_group("boxes (default: as in the model file; predict: confidence 0.25)")
    boxes.add_argument("--conf", type=float, dest="confidence", help="lowest score that counts")
    boxes.add_argument("--iou", type=float, help="overlap above which boxes are one object")
    boxes.add_argument("--max-det", type=int, dest="max_detections", help="most objects per picture")
    masks = parser.add_argument_group("masks and volumes (default: as in the model file)")
    masks.add_argument(
        "--scales", type=_numbers, metavar="S,S,...", help="average over the input at these scales (masks)"
    )
    masks.add_argument("--flip", action="store_true", default=None, help="average over the input and its mirror images")
    masks.add_argument("--window", type=_window, metavar="[Dx]HxW", help="slide a window of this size over the input")
    masks.add_argument("--overlap", type=float, help="share by which windows overlap")


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d*)[x,]([1-9]\d*)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected height x width, such as 360x480, got {text!r}")
    return int(match[1]), int(match[2])


def _window(text: str) -> tuple[int, ...]:
    if re.fullmatch(r"[1-9]\d*([x,][1-9]\d*){1,2}", text) is None:
        raise argparse.ArgumentTypeError(
            f"expected height x width, such as 360x480, or depth x height x width, such as 64x64x64; got {text!r}"
        )
    return tuple(map(int, re.split("[x,]", text)))


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected numbers such as 0.75,1.0,1.25, got {text!r}") from None


def _postprocess_settings(options: argparse.Namespace) -> dict[str, object]:
    names = ("confidence", "iou", "max_detections", "scales", "flip", "window", "overlap")
    chosen = {name: getattr(options, name) for name in names}
    return {name: value for name, value in chosen.items() if value is not None}


def _check(options: argparse.Namespace) -> int:
    from detseg.data.check import check_dataset

    report = check_dataset(options.data, options.format, decode=not options.fast)
    print(report.render())
    if options.json:
        report.write_json(options.json)
    if options.preview:
        from detseg.engine.command import preview_command

        for path in preview_command(options.data, options.preview, options.format, options.config):
            print(f"preview: {path}")
    return report.exit_code


def _split(options: argparse.Namespace) -> int:
    from detseg.data.split import split_dataset

    ratios = options.ratios or (None if options.folds else "6:2:2")
    made = split_dataset(options.data, ratios, options.seed, options.output, options.format, folds=options.folds)
    print(made.render())
    return 0


def _train(options: argparse.Namespace) -> int:
    from detseg.engine.command import train_command

    overrides = [word for word in options.words if _OVERRIDE.match(word)]
    configs = [word for word in options.words if not _OVERRIDE.match(word)]
    if len(configs) > 1:
        raise ValueError(
            f"got {len(configs)} configurations: {', '.join(configs)}; name one, and settings as key=value"
        )
    return train_command(Path(configs[0]) if configs else None, overrides, options.output, options.resume)


def _evaluate(options: argparse.Namespace) -> int:
    from detseg.engine.command import eval_command

    return eval_command(
        options.model,
        weights=options.weights,
        data=options.data,
        format=options.format,
        split=options.split,
        batch_size=options.batch_size,
        num_workers=options.workers,
        device=options.device,
        json_path=options.json,
        output=options.output,
        postprocess=_postprocess_settings(options),
        size=options.size,
    )


def _predict(options: argparse.Namespace) -> int:
    from detseg.inference.command import predict_command

    return predict_command(
        options.model,
        options.sources,
        output=options.output,
        save=None if options.save is None else options.save.split(","),
        batch_size=options.batch_size,
        device=options.device,
        postprocess=_postprocess_settings(options),
        size=options.size,
        fps=options.fps,
    )


if __name__ == "__main__":
    sys.exit(main())

"""What detseg does, as functions: the same as the verbs of the command line, which call them.

They are found in ``detseg`` itself: ``detseg.train``, ``detseg.load``, ...; each imports what it needs when called.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import nn

    from detseg.conversion.report import ConversionReport
    from detseg.data.checks.report import CheckReport
    from detseg.engine.callbacks import Callback
    from detseg.engine.evaluated import Evaluation
    from detseg.engine.run import RunResult
    from detseg.exporters.export import Exported
    from detseg.runtime.foreign.lists import Postprocess
    from detseg.runtime.model import Model
    from detseg.runtime.tracking.tracker import TrackerConfig

Size = int | tuple[int, int]
"""Of an input: height and width, or one number for both."""


def load(
    model: Path | str,
    *,
    device: str | int = "auto",
    precision: Literal["fp32", "fp16", "bf16"] = "fp32",
    num_threads: int | None = None,
    size: Size | None = None,
    full_input: bool | None = None,
    confidence: float | None = None,
    iou: float | None = None,
    max_detections: int | None = None,
    nms_backend: Literal["detseg", "torchvision"] | None = None,
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    window: Sequence[int] | None = None,
    overlap: float | None = None,
    track: TrackerConfig | None = None,
    layout: str | Path | None = None,
    names: str | Path | Sequence[str] | None = None,
    scale: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    bgr: bool | None = None,
    anchor: Literal["center", "top_left", "stretch"] | None = None,
    postprocess: Postprocess | None = None,
) -> Model:
    """A trained or exported model, ready to predict: ``for found in detseg.load(path).predict("film.mp4"): ...``.

    Args:
        model: a ``.safetensors`` file or the folder of a run, which torch runs, an ``.onnx`` file, which ONNX
            Runtime runs without torch, or the name of released weights, see ``detseg download``.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1`` or 1, ``mps``, ``xpu``.
        precision: of the network; an ``.onnx`` file has its own.
        num_threads: CPU cores for the network; None leaves it to the library.
        size: of the input, in place of the model's own.
        full_input: pad every picture to that size, as evaluation does. False pads no further than the network's stride
            asks for, which is faster (16:9 at 640x640 becomes 384x640) and changes boxes a little. None: False for
            boxes on the CPU, where the model takes any size.
        confidence: lowest score of a box that counts.
        iou: overlap above which boxes of one class are one object.
        max_detections: most boxes per picture.
        nms_backend: what suppresses boxes.
        scales: average over the input at these scales (masks).
        flip: average over the input and its mirror images (masks and volumes).
        window: slide a window of this size over the input: height and width, or depth, height and width.
        overlap: share by which windows overlap.
        track: with what ``predict`` will follow objects, where that is not the default: boxes count from its
            ``low_score`` on.
        layout: of the outputs of an ``.onnx`` file that detseg did not write, where they do not tell: ``yolov8``,
            ``yolox``, ``picodet``, ``e2e``, ``detr``, ``torchvision``, ``semantic``, ``labels``, or a YAML; see
            ``docs/foreign-onnx.md`` for this and what follows.
        names: its classes in order, or a file with them.
        scale: its input is ``(pixel * scale - mean) / std``.
        mean: see ``scale``; one number, or three in the order of its channels.
        std: see ``scale``.
        bgr: whether it sees blue first.
        anchor: where pictures lie in its input, ``center`` or ``top_left``, or ``stretch``.
        postprocess: a function that makes boxes of its outputs, in place of a layout.

    The settings from ``confidence`` to ``overlap`` replace the model's own where given.

    Raises:
        FileNotFoundError: there is no such file, or the released weights of this name are not on this machine; nothing
            is downloaded.
        ValueError: it is no model that detseg can run, or a setting is impossible.
        ModuleNotFoundError: what runs the model is not installed.
    """
    from detseg.runtime.foreign.options import foreign_options, require_onnx
    from detseg.runtime.weights.released import find_model

    foreign = foreign_options(
        layout=layout, names=names, scale=scale, mean=mean, std=std, bgr=bgr, anchor=anchor, postprocess=postprocess
    )
    settings = _given(
        confidence=confidence,
        iou=iou,
        max_detections=max_detections,
        nms_backend=nms_backend,
        scales=scales,
        flip=flip,
        window=window,
        overlap=overlap,
    )
    path = find_model(model)
    require_onnx(foreign, path)
    if path.suffix.lower() == ".onnx":
        from detseg.runtime.model import load_onnx

        return load_onnx(path, str(device), precision, num_threads, _pair(size), full_input, settings, track, foreign)
    try:
        from detseg.inference.load import load_torch_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path}: needs torch, which is not installed: pip install 'detseg[train]', or run the model as an .onnx "
            "file, which `detseg export` makes"
        ) from error
    return load_torch_model(path, str(device), precision, num_threads, _pair(size), full_input, settings, track)


def train(
    model: Path | str | None = None,
    data: Path | str | None = None,
    *,
    epochs: int | None = None,
    size: Size | None = None,
    batch: int | Literal["auto"] | None = None,
    device: str | int | None = None,
    seed: int | None = None,
    workers: int | None = None,
    output: Path | str | None = None,
    resume: Path | str | None = None,
    settings: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    accept_changed_data: bool = False,
    progress: bool = True,
) -> RunResult:
    """Train a model, or fine-tune one: ``detseg.train("c2f_n", "my_data.yaml", epochs=100)``.

    Args:
        model: a configuration, by the name of one that comes with detseg or as a YAML; or what to fine-tune: a
            ``.safetensors`` file, the folder of a run, released weights by name, or a ``.pt``, ``.pth`` or ``.onnx``
            file that :func:`convert` reads.
        data: a folder in a known layout, a YAML, or ``shapes`` or ``blobs`` for drawn data.
        epochs: how often each image is seen.
        size: of the input (not for volumes).
        batch: images at a time, of all processes together; ``auto`` for as many as fit.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or 1, ``mps``, ``xpu``.
        seed: what the run is a function of.
        workers: processes that read and augment.
        output: folder of the run; by default ``runs/NAME``, numbered.
        resume: the folder of a run to go on with, in place of ``model``; with ``epochs`` for longer.
        settings: any key of the configuration, such as ``{"train.optimizer.learning_rate": 1e-3}``.
        callbacks: told of the run as it goes on.
        accept_changed_data: go on with a run although its data set has changed.
        progress: say on the screen what happens.

    What is given here wins over the configuration and over what fine-tuning chooses.

    Returns:
        The folder of the run, its best model and what that reaches.

    Raises:
        ValueError: configuration, data or weights cannot be used, or do not fit together.
        FileExistsError: the folder holds something already.
        detseg.engine.interrupt.InterruptedRunError: told to stop; the state is saved.
    """
    from detseg.recipes.command import resume_run, start_run
    from detseg.recipes.plan import Options

    options = Options(
        data=None if data is None else str(data),
        epochs=epochs,
        size=_pair(size),
        batch_size=batch,
        device=None if device is None else str(device),
        seed=seed,
        num_workers=workers,
    )
    overrides = _overrides(settings or {})
    if resume is not None:
        if model is not None or output is not None:
            raise ValueError("resume goes on with the run in its own folder: leave model and output out")
        return resume_run(
            Path(resume), options, overrides, accept_changed_data=accept_changed_data, bar=progress, callbacks=callbacks
        )
    if model is None:
        raise ValueError("name a configuration or weights to train, such as 'c2f_n', or a run with resume=")
    folder = None if output is None else Path(output)
    return start_run(model, options, overrides, folder, bar=progress, callbacks=callbacks)


def evaluate(
    model: Path | str,
    data: Path | str | None = None,
    *,
    split: str = "val",
    format: str | None = None,
    weights: Path | str | None = None,
    device: str | int = "auto",
    size: Size | None = None,
    batch: int = 16,
    workers: int = 2,
    output: Path | str | None = None,
    report: Path | str | None = None,
    confidence: float | None = None,
    iou: float | None = None,
    max_detections: int | None = None,
    nms_backend: Literal["detseg", "torchvision"] | None = None,
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    window: Sequence[int] | None = None,
    overlap: float | None = None,
    overwrite: bool = False,
    evaluator: Literal["hotcoco", "faster-coco-eval", "pycocotools"] | None = None,
    foreign: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Measure a model on a data set: ``detseg.evaluate("runs/mine", "my_data.yaml").metrics["AP"]``.

    Args:
        model: as for :func:`load`, or a configuration together with ``weights``.
        data: a folder in a known layout, a YAML, or ``shapes`` or ``blobs``; None for that of a configuration.
        split: of the data.
        format: of the data, where its layout is ambiguous.
        weights: those of a configuration.
        device: as for :func:`load`.
        size: of the input, in place of the model's own.
        batch: images at a time.
        workers: processes that read images.
        output: a folder for metrics, plots, pictures and a page with all of it.
        report: a file for that page alone.
        confidence, iou, max_detections, nms_backend, scales, flip, window, overlap: as for :func:`load`.
        overwrite: replace what lies in ``output``; without it another evaluation there is left alone, and the results
            go to ``output-2``.
        evaluator: the program that counts boxes; all give the same numbers. None for the fastest that is installed.
        foreign: what :func:`load` takes for ``.onnx`` files of other programs, by name: ``{"layout": "yolox"}``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: model and data do not fit together, a setting is impossible, or the evaluator is not installed.
    """
    from detseg.engine.command import run_evaluation
    from detseg.runtime.foreign.options import foreign_options

    return run_evaluation(
        Path(model),
        weights=None if weights is None else Path(weights),
        data=None if data is None else str(data),
        format=format,
        split=split,
        batch_size=batch,
        num_workers=workers,
        device=str(device),
        output=None if output is None else Path(output),
        report_path=None if report is None else Path(report),
        postprocess=_given(
            confidence=confidence,
            iou=iou,
            max_detections=max_detections,
            nms_backend=nms_backend,
            scales=scales,
            flip=flip,
            window=window,
            overlap=overlap,
        ),
        size=_pair(size),
        overwrite=overwrite,
        evaluator=evaluator,
        foreign=foreign_options(**(foreign or {})),
    )


def export(
    model: Path | str,
    output: Path | str | None = None,
    *,
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    form: str | None = None,
    opset: int | None = None,
    size: Size | None = None,
    dynamic: bool = True,
    calibrate: Path | str | None = None,
    verify: Path | str | None = None,
    confidence: float | None = None,
    iou: float | None = None,
    max_detections: int | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a model as ONNX, and prove that it gives the same results: ``detseg.export("runs/mine", "mine.onnx")``.

    Args:
        model: a ``.safetensors`` file, the folder of a run or the name of released weights.
        output: a file that ends in ``.onnx``; by default beside the model, of released weights in the current folder.
        precision: of the file; ``int8`` needs ``calibrate``.
        form: of the outputs: for boxes ``decoded``, ``raw`` or ``nms`` (suppression in the graph), else ``logits``.
        opset: version of the ONNX operators.
        size: of the input, in place of the model's own.
        dynamic: whether batch and size are free.
        calibrate: the data set whose training images 8-bit ranges are taken from.
        verify: the data set on which model and file are also evaluated.
        confidence, iou, max_detections: as for :func:`load`; the file keeps them.
        overwrite: replace a file that no export wrote.

    Raises:
        ValueError: settings do not fit each other or the model.
        detseg.exporters.base.ParityError: the file does not give the results of the model; it was not kept.
        ModuleNotFoundError: the extra ``export`` is not installed.
    """
    from detseg.exporters.command import run_export

    return run_export(
        Path(model),
        None if output is None else Path(output),
        precision=precision,
        form=form,
        opset=opset,
        size=_pair(size),
        dynamic=dynamic,
        calibrate=None if calibrate is None else str(calibrate),
        verify=None if verify is None else str(verify),
        postprocess=_given(confidence=confidence, iou=iou, max_detections=max_detections),
        overwrite=overwrite,
    )


def convert(
    file: Path | str,
    output: Path | str,
    *,
    names: Sequence[str] | None = None,
    config: Path | str | None = None,
) -> ConversionReport:
    """Make a model file of a checkpoint of another program; nothing in it is run.

    Args:
        file: ``.pt`` or ``.pth`` with a YOLOv8 detector, a YOLOX or MONAI's VNet; ``.onnx`` with a YOLOX.
        output: a new file that ends in ``.safetensors``.
        names: the classes in order, where the file has none.
        config: a configuration, by name or as a YAML, whose task says what the input is; needed for volumes.

    Raises:
        ValueError: the file holds no network that is known, or cannot be read.
    """
    from detseg.conversion.convert import convert as run

    return run(Path(file), Path(output), names=names, config=None if config is None else Path(config))


def check(data: Path | str, *, format: str | None = None, fast: bool = False) -> CheckReport:
    """Look for mistakes in a data set; nothing is ever written into it.

    Args:
        data: a folder in a known layout or a YAML.
        format: needed only where the layout is ambiguous.
        fast: read the headers of the images only.

    Raises:
        detseg.data.source.DatasetError: there is no data set, or its layout is unknown or ambiguous.
    """
    from detseg.data.check import check_dataset

    return check_dataset(data, format, decode=not fast)


def build(config: Path | str, *, num_classes: int, settings: Mapping[str, Any] | None = None) -> nn.Module:
    """The bare network of a configuration, with fresh weights: ``detseg.build("c2f_n", num_classes=3)``.

    ``forward`` takes normalized images ``[B, 3, H, W]``, or volumes ``[B, 1, D, H, W]``, and gives raw maps.

    Args:
        config: the name of one that comes with detseg, or a YAML.
        num_classes: with the background, where the task has one.
        settings: keys of the configuration below ``model``, such as ``{"model.backbone.width": 0.5}``.

    Raises:
        detseg.config.ConfigError: there is no such configuration, or a key or value is not allowed.
    """
    from detseg.recipes.plan import load_model_config

    network: nn.Module = load_model_config(config, _overrides(settings or {})).build(num_classes=num_classes)
    return network


def _pair(size: Size | None) -> tuple[int, int] | None:
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"size must be height and width in pixels, such as (480, 640), or one number; got {size}")
    return sides[0], sides[1]


def _given(**settings: Any) -> dict[str, Any]:
    """``settings`` without those that are None, sequences as tuples."""
    return {
        name: tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
        for name, value in settings.items()
        if value is not None
    }


def _overrides(settings: Mapping[str, Any]) -> list[str]:
    """Keys and plain values as ``key=value``, the value as YAML."""
    import json

    return [f"{key}={json.dumps(value, default=str)}" for key, value in settings.items()]

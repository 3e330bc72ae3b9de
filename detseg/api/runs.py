"""Runs: training, evaluation, and a look at the data before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from detseg.api.arguments import Size, given, overrides_of, pair

if TYPE_CHECKING:
    from detseg.data.checks.report import CheckReport
    from detseg.engine.evaluated import Evaluation
    from detseg.engine.logging.callbacks import Callback
    from detseg.engine.run import RunResult
    from detseg.structures import Target


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
        detseg.engine.training.interrupt.InterruptedRunError: told to stop; the state is saved.
    """
    from detseg.recipes.command import resume_run, start_run
    from detseg.recipes.plan import Options

    options = Options(
        data=None if data is None else str(data),
        epochs=epochs,
        size=pair(size),
        batch_size=batch,
        device=None if device is None else str(device),
        seed=seed,
        num_workers=workers,
    )
    overrides = overrides_of(settings or {})
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
    model: Path | str | Sequence[Path | str],
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
    confidence: float | Mapping[str, float] | None = None,
    iou: float | None = None,
    max_detections: int | None = None,
    nms_backend: Literal["auto", "detseg", "torchvision"] | None = None,
    tiles: Size | None = None,
    scales: Sequence[float] | None = None,
    flip: bool | None = None,
    window: Sequence[int] | None = None,
    overlap: float | None = None,
    overwrite: bool = False,
    evaluator: Literal["hotcoco", "faster-coco-eval", "pycocotools"] | None = None,
    precision: Literal["fp32", "fp16", "bf16"] = "fp32",
    runtime: Literal["auto", "onnxruntime", "openvino"] | None = None,
    runtime_cache: Path | str | None = None,
    foreign: Mapping[str, Any] | None = None,
    skip_bad_images: int = 0,
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
        output: a folder for metrics, plots, images and a page with all of it.
        report: a file for that page alone.
        confidence, iou, max_detections, nms_backend, tiles, scales, flip, window, overlap: as for :func:`load`.
        overwrite: replace what lies in ``output``; without it another evaluation there is left alone, and the results
            go to ``output-2``.
        evaluator: the program that counts boxes; all give the same numbers. None for the fastest that is installed.
        precision: of the network; an ``.onnx`` file has its own, but that OpenVINO also computes in ``bf16``.
        runtime, runtime_cache: as for :func:`load`.
        foreign: what :func:`load` takes for ``.onnx`` files of other programs, by name: ``{"layout": "yolox"}``.
        skip_bad_images: how many images that cannot be read may be left out; ``skipped`` of the result names them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: model and data do not fit together, a setting is impossible, or the evaluator is not installed.
    """
    from detseg.engine.command import run_evaluation
    from detseg.runtime.foreign.options import foreign_options

    first, *others = [Path(one) for one in ([model] if isinstance(model, str | Path) else model)]
    return run_evaluation(
        first,
        ensemble=others,
        weights=None if weights is None else Path(weights),
        data=None if data is None else str(data),
        format=format,
        split=split,
        batch_size=batch,
        num_workers=workers,
        device=str(device),
        output=None if output is None else Path(output),
        report_path=None if report is None else Path(report),
        postprocess=given(
            confidence=confidence,
            iou=iou,
            max_detections=max_detections,
            nms_backend=nms_backend,
            tiles=pair(tiles, "tiles"),
            scales=scales,
            flip=flip,
            window=window,
            overlap=overlap,
        ),
        size=pair(size),
        overwrite=overwrite,
        evaluator=evaluator,
        precision=precision,
        runtime=runtime,
        runtime_cache=None if runtime_cache is None else Path(runtime_cache),
        foreign=foreign_options(**(foreign or {})),
        skip_bad_images=skip_bad_images,
    )


def check(
    data: Path | str,
    *,
    format: str | None = None,
    splits: Sequence[str] | None = None,
    fast: bool = False,
    target: Target | None = None,
) -> CheckReport:
    """Look for mistakes in a data set; nothing is ever written into it.

    Args:
        data: a folder in a known layout or a YAML.
        format: needed only where the layout is ambiguous.
        splits: which to look at; by default all.
        fast: read the headers of the images only.
        target: what is to be learned, where a data set has several.

    Raises:
        detseg.data.source.DatasetError: there is no data set, its layout is unknown or ambiguous, or it has no such
            target.
    """
    from detseg.data.check import check_dataset

    return check_dataset(data, format, splits, decode=not fast, target=target)

"""Models: ready to predict, written as other files, or as a bare network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from detseg.api.arguments import Size, given, overrides_of, pair

if TYPE_CHECKING:
    from torch import nn

    from detseg.conversion.report import ConversionReport
    from detseg.exporters.export import Exported
    from detseg.runtime.foreign.lists import Postprocess
    from detseg.runtime.model import Model
    from detseg.runtime.tracking.tracker import TrackerConfig


def load(
    model: Path | str | Sequence[Path | str],
    *,
    device: str | int = "auto",
    precision: Literal["fp32", "fp16", "bf16"] = "fp32",
    num_threads: int | None = None,
    size: Size | None = None,
    full_input: bool | None = None,
    confidence: float | Mapping[str, float] | None = None,
    iou: float | None = None,
    max_detections: int | None = None,
    nms_backend: Literal["auto", "detseg", "torchvision"] | None = None,
    tiles: Size | None = None,
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
    runtime: Literal["auto", "onnxruntime", "openvino"] | None = None,
    runtime_cache: Path | str | None = None,
    compile: bool = False,
) -> Model:
    """A trained or exported model, ready to predict: ``for found in detseg.load(path).predict("video.mp4"): ...``.

    Args:
        model: a ``.safetensors`` file or the folder of a run, which torch runs, an ``.onnx`` file, which ONNX
            Runtime runs without torch, or the name of released weights, see ``detseg download``. Of several in a list,
            for volumes, and of the models of a cross-validation, by its folder, class probabilities are averaged.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1`` or 1, ``mps``, ``xpu``.
        precision: of the network; an ``.onnx`` file has its own, but that OpenVINO also computes in ``bf16`` where the
            processor does.
        num_threads: CPU cores for the network; None leaves it to the library.
        size: of the input, in place of the model's own.
        full_input: pad every image to that size, as evaluation does. False pads no further than the network's stride
            asks for, which is faster (16:9 at 640x640 becomes 384x640) and changes boxes a little. None: False for
            boxes on the CPU, where the model takes any size.
        confidence: lowest score of a box that counts: one number, or by the names of classes; by default what ``detseg
            set`` stored in the file, or 0.25.
        iou: overlap above which boxes of one class are one object.
        max_detections: most boxes per image.
        nms_backend: what suppresses boxes; ``auto`` is detseg's own code, and torchvision's on a GPU without Triton.
        tiles: look at each image in tiles of this size in its own pixels, and merge what is found (boxes).
        scales: average over the input at these scales (masks), or fuse what is found with them (boxes).
        flip: average over the input and its mirror images (masks and volumes), or fuse what is found in them (boxes).
        window: slide a window of this size over the input: height and width, or depth, height and width.
        overlap: share by which windows, or tiles, overlap.
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
        anchor: where images lie in its input, ``center`` or ``top_left``, or ``stretch``.
        postprocess: a function that makes boxes of its outputs, in place of a layout.
        runtime: what runs an ``.onnx`` file: ``onnxruntime``, the usual one; ``openvino`` on the CPU only, where it may
            be faster, and without the limits of memory and time; or ``auto``: the faster one by a short measurement,
            never less exact than ``precision`` asks for. ``model.runs_in`` tells which.
        runtime_cache: a JSON file that keeps what ``auto`` found, for the next time.
        compile: the network through ``torch.compile``, for images on a GPU: faster once each size of batch has been
            compiled, which takes up to minutes; what was made is kept in the user's cache for the next process.

    The settings from ``confidence`` to ``overlap`` replace the model's own where given.

    Raises:
        FileNotFoundError: there is no such file, or the released weights of this name are not on this machine; nothing
            is downloaded.
        TypeError: ``model`` is no name.
        ValueError: it is no model that detseg can run, or a setting is impossible.
        ModuleNotFoundError: what runs the model is not installed.
    """
    from detseg.runtime.foreign.options import foreign_options, require_onnx
    from detseg.runtime.model import average
    from detseg.runtime.weights.released import find_models

    foreign = foreign_options(
        layout=layout, names=names, scale=scale, mean=mean, std=std, bgr=bgr, anchor=anchor, postprocess=postprocess
    )
    settings = given(
        confidence=confidence,
        iou=iou,
        max_detections=max_detections,
        nms_backend=nms_backend,
        tiles=pair(tiles, "tiles"),
        scales=scales,
        flip=flip,
        window=window,
        overlap=overlap,
    )
    named = [model] if isinstance(model, str | Path) else model
    if not isinstance(named, Sequence) or not all(isinstance(one, str | Path) for one in named):
        raise TypeError(
            "model must be the name of a file or of released weights (str or Path), or a list of these, got "
            f"{type(model).__module__}.{type(model).__qualname__}"
        )
    paths = [path for one in named for path in find_models(one)]
    if not paths:
        raise ValueError("an empty list of models was given; name one at least")
    common = {
        "device": str(device),
        "precision": precision,
        "num_threads": num_threads,
        "size": pair(size),
        "full_input": full_input,
        "settings": settings,
        "track": track,
    }
    for path in paths:
        require_onnx(foreign, path)
    cache = None if runtime_cache is None else Path(runtime_cache)
    return average([_load_file(path, common, foreign, runtime, cache, is_compiled=compile) for path in paths])


def _load_file(
    path: Path,
    common: Mapping[str, Any],
    foreign: Any,
    runtime: str | None,
    runtime_cache: Path | None,
    *,
    is_compiled: bool,
) -> Model:
    from detseg.runtime.onnx.forms import is_exported_name

    if is_exported_name(path):
        if is_compiled:
            raise ValueError(f"{path}: compile is for .safetensors files, which torch runs; leave it out")
        from detseg.runtime.exported import load_onnx

        return load_onnx(path, **common, foreign=foreign, runtime=runtime, runtime_cache=runtime_cache)
    if runtime is not None or runtime_cache is not None:
        raise ValueError(
            f"{path}: --runtime is for .onnx files, torch runs this one; leave {runtime or 'its cache'} out, or "
            "export it"
        )
    try:
        from detseg.inference.load import load_torch_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path}: needs torch, which is not installed: pip install 'detseg[train]', or run the model as an .onnx "
            "file, which `detseg export` makes"
        ) from error
    return load_torch_model(path, **common, is_compiled=is_compiled)


def export(
    model: Path | str,
    output: Path | str | None = None,
    *,
    format: Literal["onnx", "openvino", "ncnn", "tensorrt"] | None = None,
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
        output: a file that ends as the format wants it: ``.onnx``, ``.xml`` (OpenVINO), ``.param`` (ncnn) or
            ``.engine`` (TensorRT); by default beside the model, of released weights in the current folder.
        format: the same by name; ONNX where neither is given.
        precision: of the file; ``int8`` needs ``calibrate``.
        form: of the outputs: for boxes ``decoded``, ``raw`` or ``nms`` (NMS in the graph), else ``logits``.
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
        format=format,
        precision=precision,
        form=form,
        opset=opset,
        size=pair(size),
        dynamic=dynamic,
        calibrate=None if calibrate is None else str(calibrate),
        verify=None if verify is None else str(verify),
        postprocess=given(confidence=confidence, iou=iou, max_detections=max_detections),
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

    network: nn.Module = load_model_config(config, overrides_of(settings or {})).build(num_classes=num_classes)
    return network

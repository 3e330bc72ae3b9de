"""detseg: object detection and segmentation whose numbers can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detseg.runtime.model import Model

__version__ = "0.1.0"


def load(
    path: Path | str,
    *,
    device: str = "auto",
    precision: str = "fp32",
    num_threads: int | None = None,
    size: tuple[int, int] | None = None,
    full_input: bool | None = None,
    **settings: Any,
) -> Model:
    """A trained or exported model, ready to predict: ``for found in detseg.load(path).predict("film.mp4"): ...``.

    Args:
        path: a ``.safetensors`` file, which torch runs, an ``.onnx`` file that ``detseg export`` wrote, which ONNX
            Runtime runs without torch, or the name of released weights, see ``detseg download``.
        device: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, ``cuda:1``, ....
        precision: ``fp32``, ``fp16`` or ``bf16``; an ``.onnx`` file has its own.
        num_threads: CPU cores for the network; None leaves it to the library.
        size: height and width of the input, in place of the model's own.
        full_input: pad every picture to that size, as evaluation does. False pads no further than the network's stride
            asks for, which is faster (16:9 at 640x640 becomes 384x640) and changes boxes a little. None: False for
            boxes on the CPU, where the model takes any size.
        settings: of the postprocessing, in place of the model's own, such as ``confidence`` and ``iou``.

    Raises:
        FileNotFoundError: there is no such file, or the released weights of this name are not on this machine;
            nothing is downloaded.
        ValueError: it is no model of detseg's, or a setting is impossible.
        ModuleNotFoundError: what runs the model is not installed.
    """
    from detseg.runtime.weights.released import find_model

    path = find_model(path)
    if path.suffix.lower() == ".onnx":
        from detseg.runtime.model import load_onnx

        return load_onnx(path, device, precision, num_threads, size, full_input, settings)
    try:
        from detseg.inference.load import load_torch_model
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{path}: needs torch, which is not installed: pip install 'detseg[train]', or run the model as an .onnx "
            "file, which `detseg export` makes"
        ) from error
    return load_torch_model(path, device, precision, num_threads, size, full_input, settings)

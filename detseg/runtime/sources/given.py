"""What users of Python hand over to be predicted on, and what it becomes: names, images and volumes of any library."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detseg.arrays import ByteArray
from detseg.runtime.media.images import decode_image
from detseg.runtime.sources.finding import Source
from detseg.runtime.volumes.itk_files import affine_from_itk
from detseg.runtime.volumes.nifti_forms import forms_of
from detseg.volumes import StoredForms, Volume

Channels = Literal["rgb", "bgr"]

TAKEN = """\
  the name of a file, a folder, a glob, a camera or an address (str or Path)
  an image: a numpy array [H, W], [H, W, 3] or [H, W, 4] of uint8, RGB unless channels="bgr" (OpenCV's order);
    a torch tensor [3, H, W] or [1, H, W] of uint8, or of floats from 0 to 1; a PIL image; an encoded file as bytes, or
    opened for reading
  many images: an array [N, H, W, 3], a tensor [N, 3, H, W]
  a volume: a nibabel or SimpleITK image, a detseg.volumes.Volume, or a numpy array [X, Y, Z], of several channels
    [C, X, Y, Z], with spacing=(x, y, z) in mm
  a list, or anything that can be iterated over, of these"""
"""What may be handed over, for people."""

Item = str | Path | Source | ByteArray | Volume
"""A thing to read, or an image ``[H, W, 3]`` uint8 RGB or volume that is there already."""


class InputError(TypeError):
    """Something that cannot be predicted on; the message lists what can."""


def items_of(
    given: Any, *, channels: Channels = "rgb", spacing: Sequence[float] | None = None, volumes: bool = False
) -> Iterator[Item]:
    """All that ``given`` holds, see ``TAKEN``, as names, images ``[H, W, 3]`` uint8 RGB and volumes.

    Args:
        given: one thing, or an iterable of things, which is gone through as it is needed.
        channels: the order of channels in arrays and tensors.
        spacing: millimeters along the axes of arrays that are volumes.
        volumes: whether the model takes volumes, so that arrays with three dimensions are volumes.

    Raises:
        InputError: it is nothing of this; for a single thing now, for those of an iterable when their turn comes.
        ImageError: encoded bytes are no image that can be read.
        ValueError: an array has an impossible shape, type or range.
    """
    if channels not in ("rgb", "bgr"):
        raise ValueError(f"channels must be rgb or bgr, got {channels!r}")
    single = _one(given, channels, spacing, volumes)
    if single is not None:
        return iter(single)
    if isinstance(given, Iterable) and not isinstance(given, dict):
        return _each(given, channels, spacing, volumes)
    raise _refusal(given)


def _each(given: Iterable[Any], channels: Channels, spacing: Sequence[float] | None, volumes: bool) -> Iterator[Item]:
    for one in given:
        yield from items_of(one, channels=channels, spacing=spacing, volumes=volumes)


def _one(given: Any, channels: Channels, spacing: Sequence[float] | None, volumes: bool) -> list[Item] | None:
    """The items of a single thing; None where it is no single thing."""
    if isinstance(given, str | Path | Source | Volume):
        return [given]
    if isinstance(given, bytes | bytearray | memoryview):
        return [_decoded(bytes(given), "the bytes")]
    if isinstance(given, io.IOBase) or (hasattr(given, "read") and hasattr(given, "seek")):
        return [_opened(given)]
    library = type(given).__module__.partition(".")[0]
    if isinstance(given, np.ndarray):
        return _arrays(given, channels, spacing, volumes)
    if library == "torch" and hasattr(given, "detach"):
        return _tensors(given, channels)
    if library == "PIL":
        return [_from_pil(given)]
    if hasattr(given, "dataobj") and hasattr(given, "affine"):
        return [_from_nibabel(given)]
    if library == "SimpleITK" and hasattr(given, "GetDirection"):
        return [_from_itk(given)]
    return None


def _refusal(given: Any) -> InputError:
    return InputError(f"cannot predict on {type(given).__module__}.{type(given).__qualname__}; it may be\n{TAKEN}")


def _decoded(data: bytes, name: str) -> ByteArray:
    return decode_image(data, name)


def _opened(file: Any) -> ByteArray:
    data = file.read()
    name = str(getattr(file, "name", "the open file"))
    if not isinstance(data, bytes):
        raise InputError(f"{name} is opened as text; open it with mode 'rb'")
    return _decoded(data, name)


def _arrays(array: Any, channels: Channels, spacing: Sequence[float] | None, volumes: bool) -> list[Item]:
    if volumes:
        return [_volume(array, spacing)]
    if spacing is not None:
        raise ValueError("spacing is for volumes, and this model takes images")
    if array.ndim == 4:
        return [_image(image, channels) for image in array]
    return [_image(array, channels)]


def _image(array: Any, channels: Channels) -> ByteArray:
    """``[H, W]``, ``[H, W, 1]``, ``[H, W, 3]`` or ``[H, W, 4]`` uint8 -> ``[H, W, 3]`` RGB."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        first = array.ndim == 3 and array.shape[0] in (1, 3)
        hint = "; channels come last: image.transpose(1, 2, 0)" if first else ""
        shape = "x".join(map(str, array.shape))
        raise ValueError(f"an image must be [H, W], [H, W, 3] or [H, W, 4], got an array of {shape}{hint}")
    if array.dtype != np.uint8:
        hint = ""
        if array.dtype.kind == "f":
            # What reaches beyond 1 has been converted, but not divided.
            factor = "" if (array > 1).any() else "255 * "
            hint = f"; convert it: ({factor}image).clip(0, 255).astype('uint8')"
        raise ValueError(f"an image must be uint8, got {array.dtype}{hint}")
    if array.shape[2] == 3 and channels == "rgb":
        return array  # type: ignore[no-any-return]
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    array = array[:, :, :3]
    return np.ascontiguousarray(array[:, :, ::-1] if channels == "bgr" else array)


def _tensors(tensor: Any, channels: Channels) -> list[Item]:
    array = tensor.detach().cpu()
    if array.ndim not in (3, 4) or array.shape[-3] not in (1, 3):
        shape = "x".join(map(str, array.shape))
        last = array.ndim in (3, 4) and array.shape[-1] in (1, 3)
        hint = "; channels come first in tensors: tensor.movedim(-1, -3)" if last else ""
        raise ValueError(f"a tensor must be [3, H, W], [1, H, W] or [N, 3, H, W], got {shape}{hint}")
    if array.dtype.is_floating_point:
        array = array.float()
        low, high = (float(value) for value in (array.min(), array.max()))
        if not 0 <= low <= high <= 1:  # NaN is nowhere
            raise ValueError(
                f"a tensor of floats must lie between 0 and 1, got {low:g} to {high:g}; for values from 0 to 255 use "
                "tensor.to(torch.uint8); normalized ones cannot be used, for the model normalizes by itself"
            )
        values = np.rint(array.numpy() * 255).astype(np.uint8)
    else:
        values = array.numpy()
    images = values if values.ndim == 4 else values[None]
    return [_image(image.transpose(1, 2, 0), channels) for image in images]


def _from_pil(image: Any) -> ByteArray:
    """Upright RGB; transparent pixels have the colors that they are stored with."""
    from PIL import ImageOps

    if image.mode.startswith(("I", "F")):
        raise ValueError(f"a PIL image of mode {image.mode} has more than 8 bits; convert it with the range you want")
    upright = ImageOps.exif_transpose(image)
    return np.ascontiguousarray(np.asarray(upright.convert("RGBA" if upright.mode == "P" else "RGB"))[:, :, :3])


def _volume(array: Any, spacing: Sequence[float] | None) -> Volume:
    if array.ndim not in (3, 4) or 0 in array.shape:
        shape = "x".join(map(str, array.shape))
        raise ValueError(f"a volume must be [X, Y, Z], of several channels [C, X, Y, Z], got an array of {shape}")
    if spacing is None:
        raise ValueError(
            "an array has no spacing, which this model needs: give the millimeters along its axes, as in "
            "model.predict(array, spacing=(1.0, 1.0, 3.0)); they run to the right, the front and the top"
        )
    if len(spacing) != 3 or not all(np.isfinite(side) and side > 0 for side in spacing):
        raise ValueError(f"spacing must be three positive numbers, millimeters along X, Y and Z; got {tuple(spacing)}")
    return Volume(_voxels(_without_single_channel(array)), np.diag([*map(float, spacing), 1.0]))


def _voxels(array: Any) -> Any:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"voxels must be numbers, got {array.dtype}")
    voxels = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(voxels).all():
        raise ValueError("the volume has voxels that are NaN or infinite; replace them with numbers")
    return voxels


def _without_single_channel(array: Any) -> Any:
    return array[0] if array.ndim == 4 and len(array) == 1 else array


def _from_nibabel(image: Any) -> Volume:
    """Channels are the fourth dimension, or the fifth where the fourth has a length of 1, as NIfTI has it."""
    array = np.asanyarray(image.dataobj)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 5 and array.shape[3] == 1:
        array = array[:, :, :, 0]
    if array.ndim not in (3, 4):
        raise ValueError(f"a volume must be [X, Y, Z] or [X, Y, Z, C], got a nibabel image of {image.shape}")
    voxels = array if array.ndim == 3 else np.moveaxis(array, -1, 0)
    return Volume(_voxels(voxels), np.asarray(image.affine, dtype=np.float64), _forms_from_nibabel(image))


def _forms_from_nibabel(image: Any) -> StoredForms | None:
    """None where the image was given another affine than its header says, as nibabel allows until it is saved."""
    header = image.header
    if not hasattr(header, "get_sform"):
        return None
    same = np.allclose(header.get_best_affine(), image.affine)
    return forms_of(header) if same else None


def _from_itk(image: Any) -> Volume:
    """ITK counts to the left and the back, and gives arrays with Z first."""
    import SimpleITK

    if image.GetDimension() != 3:
        raise ValueError(f"a volume must have three dimensions, got a SimpleITK image of {image.GetSize()}")
    affine = affine_from_itk(image.GetDirection(), image.GetSpacing(), image.GetOrigin())
    # Of several channels the last axis, which is turned to be the first.
    return Volume(_voxels(SimpleITK.GetArrayViewFromImage(image).T), affine)

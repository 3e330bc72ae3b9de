"""The letterbox on a GPU: raw images are packed on the host, copied as they are, and placed and normalized there.

Three steps: :func:`pack_images` into page-locked memory, a copy of both tensors to the GPU, :func:`letterbox_into`.
Shapes are fixed by the number of images and the input size, whatever the images are, so that the last two can be
captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from detseg.arrays import ByteArray
from detseg.runtime.inputs.geometry import InputSpec, check_image, transform_of
from detseg.structures import LetterboxTransform

TABLE_COLUMNS = 7
"""Per image: where its bytes start, its height and width, its resized height and width, its top and left place."""

_ALIGNMENT = 16
_FLOAT_TYPES = (torch.float32, torch.float16, torch.bfloat16)


def bytes_needed(images: Sequence[ByteArray]) -> int:
    """How many bytes ``images`` (``[H, W, 3]`` uint8 each) take when packed; each starts at a multiple of 16."""
    return sum(_aligned(image.size) for image in images)


def pack_images(
    images: Sequence[ByteArray], spec: InputSpec, pixels: Tensor, table: Tensor
) -> list[LetterboxTransform]:
    """Write ``images`` one behind the other into ``pixels``, and where they are and belong into ``table``.

    ``images`` are ``[H, W, 3]`` uint8 RGB of any sizes, ``pixels`` ``[capacity]`` uint8, ``table`` ``[B, 7]`` int64,
    both on the CPU. There may be fewer images than rows; the remaining rows become 0, which means that there is none.
    Returns the way back for each image, as :func:`detseg.runtime.inputs.geometry.letterbox` does.

    Raises:
        ValueError: an image is not ``[H, W, 3]`` uint8 with at least one pixel, there are more than B, they take more
            than ``capacity`` bytes, or ``pixels`` or ``table`` is no such tensor.
    """
    _check_packed(pixels, table)
    if pixels.is_cuda or table.is_cuda:
        raise ValueError(f"images are packed on the CPU, got pixels on {pixels.device} and a table on {table.device}")
    for image in images:
        check_image(image)
    if len(images) > len(table):
        raise ValueError(f"the table has {len(table)} rows, too few for {len(images)} images")
    if bytes_needed(images) > len(pixels):
        raise ValueError(f"the images take {bytes_needed(images)} bytes, there is room for {len(pixels)}")
    target, rows = pixels.numpy(), table.numpy()
    rows[:] = 0
    transforms = []
    start = 0
    for row, image in zip(rows, images, strict=False):
        height, width = image.shape[:2]
        transform = transform_of(height, width, spec)
        resized = spec.resized(height, width)
        row[:] = (start, height, width, *resized, transform.offset_y, transform.offset_x)
        target[start : start + image.size].reshape(image.shape)[:] = image
        start += _aligned(image.size)
        transforms.append(transform)
    return transforms


def letterbox_into(pixels: Tensor, table: Tensor, spec: InputSpec, out: Tensor) -> None:
    """Place and normalize the packed images on their GPU: ``out[b]`` becomes the network input of row b of ``table``.

    ``pixels`` ``[capacity]`` uint8 and ``table`` ``[B, 7]`` int64 as :func:`pack_images` wrote them, ``out``
    ``[B, 3, H, W]`` float32, float16 or bfloat16, contiguous or channels last, all on one device.

    The result is that of :func:`detseg.runtime.inputs.geometry.letterbox` and ``normalize_images``: equal with the
    arithmetic of OpenCV's own code, within one gray level where a build of OpenCV brings another. It is computed in
    float32 and rounded once to the type of ``out``. A row of zeros gives ``spec.pad_value`` everywhere. The host does
    not wait, and what the table says is not checked.

    Raises:
        ValueError: for tensors of other shapes, types or layouts, or not on one GPU.
        RuntimeError: Triton is missing, or cannot compile or run the kernel.
    """
    _check_packed(pixels, table)
    wanted = (len(table), 3, spec.height, spec.width)
    if out.shape != wanted or out.dtype not in _FLOAT_TYPES:
        allowed = " or ".join(str(dtype).removeprefix("torch.") for dtype in _FLOAT_TYPES)
        raise ValueError(f"out must be {'x'.join(map(str, wanted))} {allowed}, got {tuple(out.shape)} {out.dtype}")
    if not (out.is_contiguous() or out.is_contiguous(memory_format=torch.channels_last)):
        raise ValueError(f"out must be contiguous or channels last, got strides {out.stride()}")
    if not pixels.device == table.device == out.device:
        raise ValueError(f"pixels, table and out must be on one device, got {pixels.device, table.device, out.device}")
    try:
        from detseg.ops.kernels.letterbox import launch_letterbox
    except ModuleNotFoundError as error:
        raise RuntimeError("the letterbox on a GPU needs Triton, which is not installed: pip install triton") from error
    launch_letterbox(pixels, table, out, spec.pad_value, spec.mean, spec.std, spec.channel_order == "bgr")


def _aligned(num_bytes: int) -> int:
    return -(-num_bytes // _ALIGNMENT) * _ALIGNMENT


def _check_packed(pixels: Tensor, table: Tensor) -> None:
    if pixels.ndim != 1 or pixels.dtype != torch.uint8 or not pixels.is_contiguous():
        raise ValueError(f"pixels must be one contiguous row of uint8, got {tuple(pixels.shape)} {pixels.dtype}")
    if table.ndim != 2 or table.shape[1] != TABLE_COLUMNS or table.dtype != torch.int64 or not table.is_contiguous():
        raise ValueError(f"table must be Bx{TABLE_COLUMNS} contiguous int64, got {tuple(table.shape)} {table.dtype}")

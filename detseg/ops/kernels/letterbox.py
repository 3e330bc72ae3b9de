"""Letterbox and normalization of a batch of images of any sizes in one Triton kernel.

The bilinear arithmetic is that of ``cv2.resize`` on bytes: weights in 1/2048, sums in integers, the result a whole gray
level. Networks react to a shift of a fraction of a gray level at every edge, so what is measured with the CPU's
letterbox should be what runs on a GPU.

All sizes are read from a table in the memory of the GPU: the host need not wait, and a CUDA graph can be replayed with
other images.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError

TILE = (8, 128)
"""Rows and elements of a row that one program writes."""
MAX_IMAGES = 65_535 // 3
"""Images of a launch: CUDA's grids end at 65,535 on their second and third axis, and an image may have three planes."""
NUM_WARPS = 8
"""With this tile a thread has four values, which its registers hold."""


@triton.jit
def taps(positions, new_size, size):
    """The two pixels of an axis that each of ``positions`` in the resized image lies between, and the weight of the
    second in 1/2048.

    ``cv2.resize`` finds the place in float64 and rounds it to float32. Where it lies outside the image both pixels are
    the one at the border.
    """
    # The ratio to 46 bits: a division in float32 and one step of Newton, as dividing in float64 is slow on most GPUs.
    step = tl.div_rn(1.0, new_size.to(tl.float32))
    scale = (size.to(tl.float32) * step).to(tl.float64)
    scale += (size.to(tl.float64) - scale * new_size.to(tl.float64)) * step.to(tl.float64)
    place = ((positions.to(tl.float64) + 0.5) * scale - 0.5).to(tl.float32)
    whole = tl.floor(place)
    first = whole.to(tl.int32)
    # Rounded to a whole number, a half to the even one: a float32 this large has no bits left for fractions.
    weight = ((place - whole) * 2048.0 + 8388608.0) - 8388608.0
    last = size - 1
    before = tl.minimum(tl.maximum(first, 0), last)
    behind = tl.minimum(tl.maximum(first + 1, 0), last)
    return before, behind, weight.to(tl.int32)


@triton.jit(do_not_specialize=["pad_value"])
def letterbox(
    pixels, table, out, height, width, pad_value, mean_0, mean_1, mean_2, std_0, std_1, std_2,
    INTERLEAVED: tl.constexpr, REVERSED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """One tile of one image of ``out`` ``[B, 3, height, width]``.

    A row of memory is ``width`` values of one channel, or with ``INTERLEAVED`` (channels last) three times as many of
    all channels; either way neighbors in a tile are neighbors in memory.
    """
    num_planes = 1 if INTERLEAVED else 3
    image = (tl.program_id(2) // num_planes).to(tl.int64)
    plane = tl.program_id(2) % num_planes
    entry = table + image * 7
    pixels += tl.load(entry)
    size_y = tl.load(entry + 1).to(tl.int32)
    size_x = tl.load(entry + 2).to(tl.int32)
    new_y = tl.load(entry + 3).to(tl.int32)
    new_x = tl.load(entry + 4).to(tl.int32)
    top = tl.load(entry + 5).to(tl.int32)
    left = tl.load(entry + 6).to(tl.int32)

    y = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    element = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    if INTERLEAVED:
        row_length = width * 3
        x = element // 3
        channel = element % 3
    else:
        row_length = width
        x = element
        channel = tl.zeros_like(element) + plane
    inside_y = (y >= top) & (y < top + new_y)
    inside_x = (x >= left) & (x < left + new_x)
    inside = inside_y[:, None] & inside_x[None, :]
    # An absent image has sizes of 0 and nothing inside; 1 spares it a division by 0.
    y_0, y_1, weight_y = taps(y - top, tl.maximum(new_y, 1), tl.maximum(size_y, 1))
    x_0, x_1, weight_x = taps(x - left, tl.maximum(new_x, 1), tl.maximum(size_x, 1))
    source_channel = 2 - channel if REVERSED else channel
    upper = pixels + (y_0.to(tl.int64) * size_x * 3)[:, None]
    lower = pixels + (y_1.to(tl.int64) * size_x * 3)[:, None]
    here = (x_0 * 3 + source_channel)[None, :]
    beside = (x_1 * 3 + source_channel)[None, :]
    upper_sum = tl.load(upper + here, mask=inside, other=0).to(tl.int32) * (2048 - weight_x)[None, :]
    upper_sum += tl.load(upper + beside, mask=inside, other=0).to(tl.int32) * weight_x[None, :]
    lower_sum = tl.load(lower + here, mask=inside, other=0).to(tl.int32) * (2048 - weight_x)[None, :]
    lower_sum += tl.load(lower + beside, mask=inside, other=0).to(tl.int32) * weight_x[None, :]
    # cv2 drops bits of each row's share before it adds them, so that 16-bit lanes hold them.
    share = ((upper_sum >> 4) * (2048 - weight_y)[:, None] >> 16) + ((lower_sum >> 4) * weight_y[:, None] >> 16)
    gray = tl.where(inside, (share + 2) >> 2, pad_value).to(tl.float32)

    mean = tl.where(channel == 0, mean_0, tl.where(channel == 1, mean_1, mean_2))
    std = tl.where(channel == 0, std_0, tl.where(channel == 1, std_1, std_2))
    values = tl.div_rn(gray - mean[None, :], std[None, :])
    row = (image * num_planes + plane) * height + y
    target = out + (row * row_length)[:, None] + element[None, :]
    written = (y < height)[:, None] & (element < row_length)[None, :]
    tl.store(target, values.to(out.dtype.element_ty), mask=written)


def launch_letterbox(
    pixels: Tensor,
    table: Tensor,
    out: Tensor,
    pad_value: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    reverse_channels: bool,
    tile: tuple[int, int] = TILE,
) -> None:
    """Run the kernel on the current stream of the tensors' device; arguments as for
    :func:`detseg.ops.letterbox.letterbox_into`, which checks them.

    Raises:
        ValueError: the tensors are not on a GPU, and Triton does not interpret.
        RuntimeError: Triton cannot compile or run the kernel on this GPU.
    """
    if not out.is_cuda and isinstance(letterbox, triton.JITFunction):
        raise ValueError(
            f"the letterbox kernel takes tensors on a GPU, got {out.device}; on the CPU use "
            "detseg.runtime.inputs.geometry.letterbox"
        )
    num_images, _, height, width = out.shape
    if num_images == 0:
        return
    if num_images > MAX_IMAGES:  # a grid has no more places on its last axes
        for first in range(0, num_images, MAX_IMAGES):
            part = slice(first, first + MAX_IMAGES)
            launch_letterbox(pixels, table[part], out[part], pad_value, mean, std, reverse_channels, tile)
        return
    interleaved = not out.is_contiguous()
    rows, columns = tile
    row_length, num_planes = (width * 3, 1) if interleaved else (width, 3)
    grid = (triton.cdiv(row_length, columns), triton.cdiv(height, rows), num_images * num_planes)
    try:
        with torch.cuda.device_of(out):
            letterbox[grid](
                pixels, table, out, height, width, pad_value, *map(float, mean), *map(float, std),
                interleaved, reverse_channels, rows, columns, num_warps=NUM_WARPS, enable_fp_fusion=False,
            )  # fmt: skip
    except TritonError as error:
        raise RuntimeError(f"Triton could not compile or run the letterbox kernel on {out.device}: {error}") from error

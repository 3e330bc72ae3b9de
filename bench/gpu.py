"""What the benchmarks on a GPU share: captured graphs, times and the bandwidth of the memory."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")

_TURN_SECONDS = 5e-3
_MIN_TURNS, _MAX_TURNS = 3, 50


def capture(program: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
    """``program`` as a CUDA graph, with the tensors it writes; it runs once beforehand, on a stream of its own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        program()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        written = program()
    return graph, written


def median_seconds(calls: Sequence[Callable[[], object]], device: torch.device, seconds: float) -> float:
    """The median duration of one of ``calls``, which take turns, measured for about so many ``seconds``.

    A turn is as many calls, one right after the other, as fit into 5 ms, at least one, between two events of the GPU;
    what a call waits for the host is part of it. On the CPU it is the wall clock.
    """
    for call in calls:
        call()
    first = _turn_seconds(calls[:1], device)
    num_calls = max(1, round(_TURN_SECONDS / first))
    num_turns = min(_MAX_TURNS, max(_MIN_TURNS, round(seconds / (num_calls * first))))
    durations = []
    for turn in range(num_turns):
        chosen = [calls[(turn * num_calls + index) % len(calls)] for index in range(num_calls)]
        durations.append(_turn_seconds(chosen, device) / num_calls)
    return statistics.median(durations)


def copy_bandwidth(device: torch.device, num_bytes: int) -> float:
    """Bytes read and written per second where a large tensor is copied on the device."""
    source = torch.randint(256, (num_bytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / median_seconds([lambda: target.copy_(source)], device, 0.2)


def describe(device: torch.device) -> str:
    """The machine and the versions, for the head of a table."""
    if device.type == "cuda":
        import triton

        return (
            f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
            f"Triton {triton.__version__}"
        )
    return f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [_padded(row, widths) for row in (header, rule, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]


def _turn_seconds(calls: Sequence[Callable[[], object]], device: torch.device) -> float:
    if device.type != "cuda":
        begin = time.perf_counter()
        for call in calls:
            call()
        return time.perf_counter() - begin
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for call in calls:
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3

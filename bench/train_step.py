"""Images per second of training steps on the CPU: LETNet, the n detector and V-Net, against stock layers.

    python bench/train_step.py [letnet detector vnet] [--compile] [--peer-python PEER_ENV/bin/python]

A step is the network's forward pass, a mean of squares of all it gives, the gradient, and SGD. What is compared:

- "stock layers": the same network with PyTorch's own layers, in PyTorch's own layout. For LETNet this is the published
  network layer by layer, repaired (see ``detseg.models.letnet``).
- "stock, channels last": the same, laid out as detseg trains it.
- "detseg": with the faster layers of ``detseg/layers/cpu``; "detseg, compiled": ``torch.compile`` of the network, which
  takes PyTorch's layers. The seconds of its first step, compilation included, are told apart; TorchInductor keeps what
  it made, so that a second run begins sooner.
- V-Net: MONAI's network with the same layers. Detector: Ultralytics' YOLOv8n, in an environment of its own
  (``pip install ultralytics``) named by ``--peer-python``.

The programs take turns, so that a busy machine slows all of them alike; the ratios of the medians are what to look at.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import monai
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from detseg.config import load_config
from detseg.engine.settings import RunConfig
from detseg.layers.cpu.switch import use_cpu_layers
from detseg.models.letnet import LETNetConfig
from detseg.models.vnet import MONAI_VNET

REPOSITORY = Path(__file__).resolve().parent.parent
NUM_CLASSES = 11
NETWORKS = ("letnet", "detector", "vnet")
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
PEER = """
import sys, time
import torch
from ultralytics.nn.tasks import DetectionModel
batch, height, width, threads, bf16 = map(int, sys.argv[1:])
torch.set_num_threads(threads)
model = DetectionModel("yolov8n.yaml", nc=11, verbose=False).train()
optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
images = torch.rand(batch, 3, height, width)
def tensors(found):
    if isinstance(found, torch.Tensor):
        return [found]
    return [tensor for one in (found.values() if isinstance(found, dict) else found) for tensor in tensors(one)]
for line in sys.stdin:
    start = time.perf_counter()
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bool(bf16)):
        found = model(images)
    sum(tensor.float().square().mean() for tensor in tensors(found)).backward()
    optimizer.step()
    print("seconds", time.perf_counter() - start, flush=True)
"""

Program = Callable[[], float]
"""Makes one step and gives the seconds that it took."""


def training_step(model: nn.Module, images: Tensor, dtype: torch.dtype | None, fast: bool) -> Program:
    """Steps of ``model`` on ``images``, with the faster layers or without."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> float:
        use_cpu_layers(fast)
        start = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            found = model(images)
        parts = [part for part in pytree.tree_leaves(found) if isinstance(part, Tensor)]
        assert parts
        torch.stack([part.float().square().mean() for part in parts]).sum().backward()
        optimizer.step()
        return time.perf_counter() - start

    return step


def peer_step(python: Path, images: Tensor, bf16: bool, stack: ExitStack) -> Program:
    """Steps of Ultralytics' network in a process of its own, which waits while others have their turn."""
    batch, _, height, width = images.shape
    numbers = [str(number) for number in (batch, height, width, torch.get_num_threads(), int(bf16))]
    process = stack.enter_context(
        subprocess.Popen([python, "-c", PEER, *numbers], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    )
    assert process.stdin is not None
    assert process.stdout is not None
    requests, answers = process.stdin, process.stdout

    def step() -> float:
        print(file=requests, flush=True)
        for line in answers:
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise SystemExit(f"{python} ended: is ultralytics installed there?")

    return step


def make_network(name: str) -> nn.Module:
    """One of ours, with the same first weights whenever it is made."""
    torch.manual_seed(0)
    if name == "letnet":
        return LETNetConfig().build(NUM_CLASSES)
    if name == "vnet":
        return MONAI_VNET.build(NUM_CLASSES)
    config = load_config(RunConfig, REPOSITORY / "configs/detection/c2f_n.yaml", ["data.path=shapes"])
    return config.model.build(NUM_CLASSES)


def make_programs(name: str, images: Tensor, precision: str, options: argparse.Namespace) -> dict[str, Program]:
    """What is measured of a network, by name; the others are compared with the first."""
    dtype = PRECISIONS[precision]
    layout = torch.channels_last_3d if images.ndim == 5 else torch.channels_last
    laid_out = images.contiguous(memory_format=layout)

    def own(fast: bool) -> nn.Module:
        # Layers that are prepared when they are made follow the switch too.
        use_cpu_layers(fast)
        return make_network(name).to(memory_format=layout)

    programs: dict[str, Program] = {}
    if name == "detector" and options.peer_python is not None:
        programs["Ultralytics' n"] = peer_step(options.peer_python, images, dtype is not None, options.stack)
    if name == "vnet":
        peer = monai.networks.nets.VNet(out_channels=NUM_CLASSES, act="prelu")
        programs["MONAI"] = training_step(peer, images, dtype, fast=False)
    programs["stock layers"] = training_step(make_network(name), images, dtype, fast=False)
    programs["stock, channels last"] = training_step(own(fast=False), laid_out, dtype, fast=False)
    programs["detseg"] = training_step(own(fast=True), laid_out, dtype, fast=True)
    if options.compile:
        compiled = cast(nn.Module, torch.compile(own(fast=False)))
        programs["detseg, compiled"] = training_step(compiled, laid_out, dtype, fast=False)
    return programs


def report(title: str, programs: dict[str, Program], num_images: int, rounds: int) -> None:
    """Let the programs take turns, and print their speeds."""
    first = {name: program() for name, program in programs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            seconds[name].append(program())
    print(f"\n{title}\n{'':26}{'images/s':>10}{'best':>10}{'ratio':>8}{'ratio of best':>15}{'first step, s':>15}")
    reference = next(iter(seconds.values()))
    for name, own in seconds.items():
        median, best = statistics.median(own), min(own)
        ratios = f"{statistics.median(reference) / median:>8.2f}{min(reference) / best:>15.2f}"
        print(
            f"{name:26}{num_images / median:>10.2f}{num_images / best:>10.2f}{ratios}{first[name]:>15.1f}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each program")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes minutes at first")
    parser.add_argument("--peer-python", type=Path, help="python of the environment with ultralytics")
    parser.add_argument("--tiny", action="store_true", help="a trial of the script: small, and one round")
    options = parser.parse_args()
    if unknown := set(options.networks) - set(NETWORKS):
        parser.error(f"unknown networks {', '.join(sorted(unknown))}; there are {', '.join(NETWORKS)}")
    shapes = {"letnet": (4, 3, 240, 320), "detector": (16, 3, 320, 320), "vnet": (2, 1, 48, 64, 48)}
    if options.tiny:
        shapes = {"letnet": (1, 3, 32, 32), "detector": (1, 3, 64, 64), "vnet": (1, 1, 16, 16, 32)}
        options.rounds, options.precision, options.threads = 1, ["fp32"], [1]
    for threads in options.threads:
        torch.set_num_threads(threads)
        for name in options.networks:
            images = torch.rand(shapes[name], generator=torch.Generator().manual_seed(0))
            size = "x".join(map(str, shapes[name]))
            for precision in options.precision:
                with ExitStack() as options.stack:
                    programs = make_programs(name, images, precision, options)
                    report(f"{name}, {size}, {precision}, threads: {threads}", programs, len(images), options.rounds)
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}, ", end="")
    print(f"torch {torch.__version__}, MONAI {monai.__version__}, {options.rounds} rounds")


if __name__ == "__main__":
    main()

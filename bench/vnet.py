"""Milliseconds of V-Net's training step and sliding window, against MONAI's VNet of the same layers in the same run.

    python bench/vnet.py

Both networks have the same weights and draw the same dropout, and their outputs must agree to 1e-4. A training step is
the cross-entropy of one batch, its gradient, and a step of SGD. Windows overlap by half with Gaussian weights; MONAI's
go through its own SlidingWindowInferer, ours through detseg's sliding_window and the fused network. The programs take
turns, so that a busy machine slows all of them alike; the ratios of the medians are what to look at.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import monai
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.models.load_weights import load_weights
from detseg.models.vnet import MONAI_VNET, VNet
from detseg.ops.inferers import sliding_window

NUM_CLASSES = 3
OVERLAP = 0.5
WINDOW_BATCH = 2
TOLERANCE = 1e-4

Program = Callable[[], Tensor]


def make_models(activation: str) -> tuple[nn.Module, VNet]:
    """MONAI's network, with statistics and slopes of all kinds, and ours with the same weights."""
    torch.manual_seed(0)
    reference = monai.networks.nets.VNet(out_channels=NUM_CLASSES, act=activation)
    for module in reference.modules():
        if isinstance(module, nn.BatchNorm3d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, 0.0, 0.5)
    own = dataclasses.replace(MONAI_VNET, activation=activation).build(NUM_CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        save_file(reference.state_dict(), Path(folder) / "monai.safetensors")
        load_weights(own, Path(folder) / "monai.safetensors")
    return reference, own


def training_step(model: nn.Module, images: Tensor, labels: Tensor) -> Program:
    """What makes one step and gives the logits that it was made from."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step() -> Tensor:
        torch.manual_seed(0)
        optimizer.zero_grad()
        logits: Tensor = model(images)
        F.cross_entropy(logits, labels).backward()
        optimizer.step()
        return logits.detach()

    return step


def compare(title: str, programs: dict[str, Program], rounds: int) -> None:
    """Check that the programs give what the first does, let them take turns, and print their times."""
    first, *others = programs
    expected = programs[first]()
    print(f"\n{title}")
    for name in others:
        error = float((programs[name]() - expected).abs().max())
        print(f"{name}: largest difference from {first} {error:.1e}, values up to {float(expected.abs().max()):.2f}")
        if error > TOLERANCE:
            raise SystemExit(f"{name} does not compute what {first} does")
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            start = time.perf_counter()
            program()
            seconds[name].append(time.perf_counter() - start)
    print(f"{'':26}{'median ms':>10}{'best ms':>10}{'ratio':>8}{'ratio of best':>15}")
    median, best = statistics.median(seconds[first]), min(seconds[first])
    for name, own in seconds.items():
        ratios = f"{median / statistics.median(own):>8.2f}{best / min(own):>15.2f}"
        print(f"{name:26}{statistics.median(own) * 1e3:>10.0f}{min(own) * 1e3:>10.0f}{ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--patch", type=int, nargs=3, default=(48, 64, 48), help="depth, height, width; multiples of 16"
    )
    parser.add_argument("--volume", type=int, nargs=3, default=(72, 96, 72), help="of the sliding window")
    parser.add_argument("--batch", type=int, default=2, help="patches in a training step")
    parser.add_argument("--activation", choices=("prelu", "elu"), default="prelu", help="elu is MONAI's default")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="a trial of the script: small, and one round")
    options = parser.parse_args()
    if options.tiny:
        options.patch, options.volume, options.batch, options.rounds = (16, 16, 32), (16, 32, 40), 1, 1
    torch.set_num_threads(options.threads)
    # MONAI's inferer indexes with lists, which this version of torch warns of.
    warnings.filterwarnings("ignore", category=UserWarning, module="monai")

    reference, own = make_models(options.activation)
    patch = tuple(options.patch)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(options.batch, 1, *patch, generator=generator)
    labels = torch.randint(NUM_CLASSES, (options.batch, *patch), generator=generator)
    volume = torch.randn(1, 1, *options.volume, generator=generator)
    inferer = monai.inferers.SlidingWindowInferer(patch, WINDOW_BATCH, OVERLAP, mode="gaussian")

    with torch.no_grad():
        reference.eval()
        fused = make_models(options.activation)[1].eval().fuse()
        windows = {
            "MONAI": lambda: inferer(volume, reference),
            "detseg, fused": lambda: sliding_window(
                fused, volume, patch, OVERLAP, weighting="gaussian", batch_size=WINDOW_BATCH
            ),
        }
        size = "x".join(map(str, options.volume))
        compare(f"sliding window over {size}", windows, options.rounds)
    steps = {"MONAI": training_step(reference, images, labels), "detseg": training_step(own, images, labels)}
    size = "x".join(map(str, patch))
    compare(f"training step, batch of {options.batch} of {size}", steps, options.rounds)
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads, {options.rounds} rounds, ", end=""
    )
    print(f"torch {torch.__version__}, MONAI {monai.__version__}, {options.activation}")


if __name__ == "__main__":
    main()

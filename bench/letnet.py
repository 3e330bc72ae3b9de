"""Milliseconds per image of LETNet, against the published implementation in the same run.

    python bench/letnet.py --reference CHECKOUT

CHECKOUT is a clone of the published repository, which the paper names (arXiv 2302.10484).

The reference is imported as it is, except that its deepest long connection gets the 32 channels without which it cannot
run. Both have the same weights, with which the outputs must agree to 1e-4. The programs take turns, so that a busy
machine slows all of them alike; the ratios of the medians are what to look at. ONNX Runtime gets what
``torch.onnx.export`` makes of the reference and of the fused LETNet, for this one image size.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from detseg.models.letnet import LETNetConfig
from detseg.models.load_weights import load_weights

NUM_CLASSES = 19
TOLERANCE = 1e-4

Program = Callable[[], NDArray[np.float32]]


def import_reference(checkout: Path) -> type[nn.Module]:
    """The published class, whose imports name two packages that it never uses and a file of its own by a wrong path."""
    source = next((file.parent for file in sorted(checkout.rglob("LETNet.py")) if file.parent.name == "model"), None)
    if source is None:
        raise SystemExit(f"{checkout} holds no model/LETNet.py: give a checkout of the published repository")
    for package, name in (("torchsummary", "summary"), ("IPython", "embed")):
        stub = types.ModuleType(package)
        setattr(stub, name, None)
        sys.modules[package] = stub
    sys.path.insert(0, str(source))
    from module import patch

    sys.modules["model"] = types.ModuleType("model")
    sys.modules["model.patch"] = patch
    from LETNet import LETNet

    published: type[nn.Module] = LETNet
    return published


def make_reference(published: type[nn.Module]) -> nn.Module:
    """The repaired reference, with weights and statistics of all kinds that keep its values in bounds."""
    torch.manual_seed(0)
    model = published(classes=NUM_CLASSES)
    model.LC3.dconv1x3 = nn.Conv2d(16, 32, (1, 3), padding=(0, 1))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.5, 0.5)
    return model.eval()


def onnx_program(model: nn.Module, images: Tensor, path: Path, num_threads: int) -> Program:
    """Export ``model`` and give what runs it on ``images`` in ONNX Runtime."""
    torch.onnx.export(model, (images,), path, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images.numpy()}
    return lambda: session.run(None, feed)[0]


def make_programs(checkout: Path, images: Tensor, folder: Path, num_threads: int) -> dict[str, Program]:
    """What is measured, by name; the reference comes first."""
    reference = make_reference(import_reference(checkout))
    save_file(reference.state_dict(), folder / "reference.safetensors")
    plain, fused = (LETNetConfig().build(NUM_CLASSES).eval() for _ in range(2))
    for model in (plain, fused):
        load_weights(model, folder / "reference.safetensors")
    fused.fuse()
    return {
        "reference, torch": lambda: reference(images).numpy(),
        "detseg, torch": lambda: plain(images).numpy(),
        "detseg, torch, fused": lambda: fused(images).numpy(),
        "reference, ONNX Runtime": onnx_program(reference, images, folder / "reference.onnx", num_threads),
        "detseg, ONNX Runtime": onnx_program(fused, images, folder / "detseg.onnx", num_threads),
    }


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True, help="checkout of the published repository")
    parser.add_argument("--height", type=int, default=512)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=20, help="turns of each program")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    images = torch.rand(1, 3, options.height, options.width, generator=torch.Generator().manual_seed(0))
    with tempfile.TemporaryDirectory() as folder:
        programs = make_programs(options.reference, images, Path(folder), options.threads)
        first = programs["reference, torch"]()
        for name, program in programs.items():
            error = float(np.abs(program() - first).max())
            print(f"{name}: largest difference from the reference {error:.1e}, values up to {np.abs(first).max():.2f}")
            if error > TOLERANCE:
                raise SystemExit(f"{name} does not compute what the reference does")
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(options.rounds):
            for name, program in programs.items():
                start = time.perf_counter()
                program()
                seconds[name].append(time.perf_counter() - start)
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads, torch {torch.__version__}, ",
        end="",
    )
    print(f"onnxruntime {onnxruntime.__version__}, {options.height}x{options.width}, {options.rounds} rounds\n")
    print(f"{'':26}{'median ms':>10}{'best ms':>10}{'ratio':>8}{'ratio of best':>15}")
    median, best = statistics.median(seconds["reference, torch"]), min(seconds["reference, torch"])
    for name, own in seconds.items():
        ratios = f"{median / statistics.median(own):>8.2f}{best / min(own):>15.2f}"
        print(f"{name:26}{statistics.median(own) * 1e3:>10.0f}{min(own) * 1e3:>10.0f}{ratios}")


if __name__ == "__main__":
    main()

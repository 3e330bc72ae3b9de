"""Every classification network of torchvision, or of timm, as a backbone: its pyramid, parameters and speed.

    python bench/backbones.py [--library torchvision] [--only resnet]

A line for each: channels at strides 8, 16 and 32, parameters in millions, and milliseconds of processor time for an
image of 224x320 on one core, the least of three; or why it cannot be one. It also tries the networks of detseg.
"""

from __future__ import annotations

import argparse
import time

import torch
import torchvision
from torch import Tensor

from detseg.config import from_dict
from detseg.models.base import Backbone
from detseg.models.detector import DetectorConfig

OWN = ("csp_darknet", "nin", "vit_b_16", "vit_l_16")


def names_of(library: str) -> list[str]:
    """All networks of ``library``, as it lists them."""
    if library == "timm":
        import timm

        return list(timm.list_models())
    return list(OWN) if library == "own" else list(torchvision.models.list_models(module=torchvision.models))


def build(library: str, name: str) -> Backbone:
    """The backbone, with fresh weights."""
    backbone = {"name": name} if library == "own" else {"name": library, "arch": name}
    made: Backbone = from_dict(DetectorConfig, {"backbone": backbone}, name).backbone.build()
    return made


@torch.inference_mode()
def seconds(backbone: Backbone, images: Tensor) -> float:
    """Processor time of one pass, the least of three."""
    times = []
    for _ in range(3):
        begin = time.process_time()
        backbone(images)
        times.append(time.process_time() - begin)
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=("torchvision", "timm", "own"), default="torchvision")
    parser.add_argument("--only", default="", metavar="WORD", help="networks with this in their names")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.rand(1, 3, 224, 320)
    num_refused = 0
    for name in (one for one in names_of(arguments.library) if arguments.only in one):
        try:
            backbone = build(arguments.library, name).eval()
            speed = f"{1000 * seconds(backbone, images):.0f} ms"
        except Exception as error:  # noqa: BLE001 - whatever a network of others does is a line of the list
            num_refused += 1
            print(f"| {name} | refused: {type(error).__name__}: {str(error).splitlines()[0][:100]} |", flush=True)
            continue
        num_parameters = sum(parameter.numel() for parameter in backbone.parameters())
        print(f"| {name} | {backbone.channels} | {num_parameters / 1e6:.1f} M | {speed} |", flush=True)
    print(f"refused: {num_refused}")


if __name__ == "__main__":
    main()

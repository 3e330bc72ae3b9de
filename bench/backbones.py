"""Every classification network of torchvision, or of timm, as a backbone: its pyramid, parameters and speed.

    python bench/backbones.py [--library timm] [--only resnet] [--out timm.jsonl] [--limit 120] [--minutes 60]

A line for each: channels at strides 8, 16 and 32, parameters in millions, and milliseconds of processor time for an
image of 64x96 on one core, the second of two; or why it cannot be one. Each is built and run once in a process of its
own, which ends after ``--limit`` seconds or with ``--memory`` gigabytes, so that no network ends the list. With
``--out`` each line is kept as JSON, and a later call goes on where the last one ended; ``--minutes`` ends it in time.
``--library own`` are the networks of detseg.

A network with more parameters than ``--most`` (in millions) is not built with values: its maps are looked for on
torch's meta device, where tensors have shapes only, and there is no time of it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torchvision

from detseg.config import from_dict
from detseg.models.base import Backbone
from detseg.models.detector import DetectorConfig

OWN = ("csp_darknet", "nin", "vit_b_16", "vit_l_16")
SIZE = (64, 96)


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
def look_at(library: str, name: str, most: float) -> dict[str, Any]:
    """What a line says of the network."""
    torch.set_num_threads(1)
    with torch.device("meta"):
        num_parameters = _count(library, name)
    on = "meta" if num_parameters > most * 1e6 else "cpu"
    with torch.device(on):
        backbone = build(library, name).eval()
        images = torch.zeros(1, 3, *SIZE)
        begin = time.process_time()
        maps = backbone(images)
        seconds = time.process_time() - begin
        if on == "cpu":
            begin = time.process_time()
            backbone(images)
            seconds = time.process_time() - begin
    expected = [
        (1, channels, SIZE[0] // stride, SIZE[1] // stride)
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]
    if [tuple(one.shape) for one in maps] != expected:
        raise ValueError(f"gives maps {[tuple(one.shape) for one in maps]}, promised are {expected}")
    own = sum(parameter.numel() for parameter in backbone.parameters())
    return {"channels": backbone.channels, "parameters": own, "ms": None if on == "meta" else 1000 * seconds}


def _count(library: str, name: str) -> int:
    """Parameters of the whole network, 0 where that cannot be known without values."""
    try:
        if library == "timm":
            import timm

            model = timm.create_model(name)
        elif library == "torchvision":
            model = torchvision.models.get_model(name, weights=None)
        else:
            return 0
    except Exception:  # noqa: BLE001 - some networks ask for values when they are made
        return 0
    return sum(parameter.numel() for parameter in model.parameters())


def _child(sender: Connection, library: str, name: str, memory: float, most: float) -> None:
    limit = int(memory * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        sender.send(look_at(library, name, most))
    except BaseException as error:  # noqa: BLE001 - whatever a network of others does is a line of the list
        lines = str(error).splitlines() or [""]
        sender.send({"refused": f"{type(error).__name__}: {lines[0][:200]}"})


def in_a_child(library: str, name: str, limit: float, memory: float, most: float) -> dict[str, Any]:
    """The same in a process of its own."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(sender, library, name, memory, most))
    child.start()
    sender.close()
    try:
        found: dict[str, Any] = receiver.recv() if receiver.poll(limit) else {"refused": f"took over {limit:g} s"}
    except EOFError:
        found = {"refused": "its process ended"}
    child.kill()
    child.join()
    return found


def line_of(name: str, found: dict[str, Any]) -> str:
    if "refused" in found:
        return f"| {name} | refused: {found['refused'][:120]} |"
    speed = "" if found["ms"] is None else f"{found['ms']:.0f} ms"
    return f"| {name} | {tuple(found['channels'])} | {found['parameters'] / 1e6:.1f} M | {speed} |"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", choices=("torchvision", "timm", "own"), default="torchvision")
    parser.add_argument("--only", default="", metavar="WORD", help="networks with this in their names")
    parser.add_argument("--out", type=Path, metavar="FILE.jsonl", help="keep what is found, and go on from there")
    parser.add_argument("--limit", type=float, default=120.0, metavar="SECONDS", help="for each network")
    parser.add_argument("--memory", type=float, default=6.0, metavar="GB", help="for each network")
    parser.add_argument("--most", type=float, default=120.0, metavar="MILLIONS", help="of parameters with values")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after so many")
    parser.add_argument("--retry", action="store_true", help="try those again that were refused")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    known: dict[str, dict[str, Any]] = {}
    if options.out is not None and options.out.exists():
        records = [json.loads(line) for line in options.out.read_text().splitlines()]
        known = {one.pop("name"): one for one in records}
    begin = time.monotonic()
    names = [name for name in names_of(options.library) if options.only in name]
    for name in names:
        if name in known and not (options.retry and "refused" in known[name]):
            continue
        if time.monotonic() - begin > 60 * options.minutes:
            break
        known[name] = in_a_child(options.library, name, options.limit, options.memory, options.most)
        print(line_of(name, known[name]), flush=True)
        if options.out is not None:
            with options.out.open("a") as stream:
                stream.write(json.dumps({"name": name, **known[name]}) + "\n")
    tried = [known[name] for name in names if name in known]
    refused = Counter(one["refused"].split(":")[0] for one in tried if "refused" in one)
    print(f"{len(tried) - sum(refused.values())} of {len(tried)} tried work, of {len(names)}; refused: {dict(refused)}")


if __name__ == "__main__":
    main(sys.argv[1:])

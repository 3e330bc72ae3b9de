"""Whole files of what earlier runs left and later ones read, of outlines, and of volumes that ITK reads."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import fuzz_mutate as mutate
from bench.fuzz_seeds import Kind, in_a_child

WORDS = (mutate.reworded, mutate.reworded, mutate.damaged)
_SAVE = ("--save", "coco,csv,jsonl,drawn", "--device", "cpu", "--conf", "0")


def make_run_kinds(folder: Path, coco: Path) -> dict[str, Kind]:
    """The kinds; ``folder`` has the models ``boxes.onnx`` and ``volumes.onnx``, ``coco`` is a data set of boxes."""
    in_a_child(lambda: _quietly(lambda: _make_runs(folder, coco)))
    model, volumes, images = folder / "boxes.onnx", folder / "volumes.onnx", folder / "listed"

    def merge(path: Path, out: Path) -> list[str]:
        return ["merge", str(path.parent), str(path.parents[1] / "share2"), "-o", str(out)]

    def go_on(path: Path, out: Path) -> list[str]:
        again = out.with_name("again")
        shutil.rmtree(again, ignore_errors=True)
        shutil.copytree(path.parent, again)
        return ["predict", str(model), str(images), "-o", str(again), "--resume", *_SAVE]

    def compare(path: Path, out: Path) -> list[str]:
        return ["compare", str(path.parents[1] / "second"), str(path.parent), "--samples", "100"]

    def look(path: Path, out: Path) -> list[str]:
        return ["check", str(path.parents[1]), "--target", "instances", "--json", str(out.with_suffix(".json"))]

    def split(path: Path, out: Path) -> list[str]:
        return ["split", str(path.parents[1]), "--ratios", "5:5", "-o", str(out)]

    def scan(path: Path, out: Path) -> list[str]:
        source = path.parent if path.suffix == ".dcm" else path
        return ["predict", str(volumes), str(source), "-o", str(out), "--save", "table", "--device", "cpu"]

    share = folder / "shares/share1"
    shares = {f"share1/{path.name}": path.read_bytes() for path in share.iterdir() if path.suffix != ".png"}
    begun = {path.name: path.read_bytes() for path in (folder / "begun").iterdir() if "unfinished" in path.name}
    table = {"first/images.json": (folder / "tables/first/images.json").read_bytes()}
    outlines = {"annotations/instances_train.json": _outlined(coco)}
    return {
        "shares": Kind(shares, [merge], WORDS, folder / "shares"),
        "journals": Kind(begun, [go_on], WORDS, folder / "begun"),
        "tables of images": Kind(table, [compare], WORDS, folder / "tables"),
        "outlines": Kind(outlines, [look, split], WORDS, coco),
        "volumes of ITK": Kind(_volumes(folder), [scan]),
    }


def _quietly(action: Callable[[], None]) -> None:
    """Do it without what the verbs say."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        action()


def _make_runs(folder: Path, coco: Path) -> None:
    from detseg.cli import main
    from detseg.runtime.commands.progress import Progress
    from detseg.runtime.media.images import write_image

    rng = np.random.default_rng(1)
    for number in range(6):
        write_image(folder / "listed" / f"{number}.png", rng.integers(0, 256, (48, 64, 3), np.uint8))
    (folder / "listed/bad.png").write_bytes(b"no image")
    (folder / "tables").mkdir()
    predict = ["predict", str(folder / "boxes.onnx"), str(folder / "listed"), *_SAVE]
    for number in (1, 2):
        main([*predict, "-o", str(folder / f"shares/share{number}"), "--shard", f"{number}/2"])
    for name in ("first", "second"):
        words = ["--data", str(coco), "-o", str(folder / "tables" / name), "--workers", "0", "--device", "cpu"]
        main(["eval", str(folder / "boxes.onnx"), *words])
    for path in (folder / "tables").glob("*/*"):
        if path.name != "images.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    end, num_ends = Progress.end, 0

    def end_and_die(self: Progress, *arguments: Any) -> None:
        nonlocal num_ends
        end(self, *arguments)
        num_ends += 1
        if num_ends == 3:
            os._exit(0)

    Progress.end = end_and_die  # type: ignore[method-assign]
    main([*predict, "-o", str(folder / "begun"), "--resume"])
    raise RuntimeError("the run has not been ended before its time")


def _outlined(coco: Path) -> bytes:
    """The annotations of ``coco`` with an outline and runs: of pixels, and packed."""
    document = json.loads((coco / "annotations/instances_train.json").read_text())
    outlines: list[Any] = [
        [[5, 6, 25, 6, 25, 28, 5, 28]],
        {"size": [48, 64], "counts": [246, 22, 26, 22, 26, 22, 2708]},
        {"size": [48, 64], "counts": "f7f0j0f0j0f0dd2"},
    ]
    (box,) = document["annotations"][:1]
    document["annotations"] = [
        {**box, "id": number + 1, "image_id": number % 2 + 1, "segmentation": one}
        for number, one in enumerate(outlines)
    ]
    return json.dumps(document).encode()


def _volumes(folder: Path) -> dict[str, bytes]:
    in_a_child(lambda: _write_volumes(folder / "itk"))
    return {str(path.relative_to(folder / "itk")): path.read_bytes() for path in (folder / "itk").rglob("*.*")}


def _write_volumes(folder: Path) -> None:
    import SimpleITK

    (folder / "series").mkdir(parents=True)
    voxels = np.random.default_rng(2).normal(100, 10, (10, 12, 14))
    image = SimpleITK.GetImageFromArray(voxels.astype(np.int16))
    image.SetSpacing((1.0, 1.0, 2.0))
    for name in ("a.mha", "b.nrrd", "c.nhdr", "d.mhd"):
        SimpleITK.WriteImage(image, str(folder / name), useCompression=name == "b.nrrd")
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for number in range(4):
        plane = image[:, :, number]
        tags = {
            "0008|0060": "MR", "0020|000d": "1.2.3", "0020|000e": "1.2.3.4", "0008|0018": f"1.2.3.4.{number + 1}",
            "0020|0013": str(number + 1), "0020|0032": f"0\\0\\{2 * number}", "0020|0037": "1\\0\\0\\0\\1\\0",
            "0018|0050": "2",
        }  # fmt: skip
        for tag, value in tags.items():
            plane.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"series/{number}.dcm"))
        writer.Execute(plane)

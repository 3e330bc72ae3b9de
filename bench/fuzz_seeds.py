"""Whole files of every kind, small and made here, and what the command line does with them."""

from __future__ import annotations

import json
import os
import shutil
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench import fuzz_mutate as mutate

Use = Callable[[Path, Path], list[str]]
"""The words of a command, for a file and a folder for what it writes."""
Run = Callable[[Sequence[str]], int]
"""Does what the words say, and returns the exit code."""

DETECTOR = """
model: {name: detector, backbone: {name: csp_darknet, width: 0.125}, neck: {name: pan, depth: 0.33}, head: dfl}
task: {name: detection, input: {height: 64, width: 64}}
data: {path: nowhere, num_workers: 0}
augment: {mosaic: 0.5}
train: {epochs: 1, batch_size: 2, device: cpu, optimizer: {name: adamw, learning_rate: 1.0e-3}}
"""


@dataclass
class Kind:
    """Files of one kind: ``seeds`` by the names under which they are put; ``uses`` and ``mutations`` take turns. A seed
    may lie in a data set: ``around`` is copied there first, and the file put at the path of its name."""

    seeds: dict[str, bytes]
    uses: Sequence[Use]
    mutations: Sequence[mutate.Mutation] = (mutate.damaged,)
    around: Path | None = None
    files: dict[str, Path] = field(default_factory=dict)
    at_a_time: int = 1
    """As many files go through one command, which takes several and names those that it cannot read."""
    run: Run | None = None
    """What takes the words in place of the command line."""

    def prepare(self, folder: Path) -> None:
        """Make ``folder`` ready for files of this kind."""
        shutil.rmtree(folder, ignore_errors=True)
        if self.around is not None:
            shutil.copytree(self.around, folder)
        for name in self.seeds:
            self.files[name] = folder / name
            self.files[name].parent.mkdir(parents=True, exist_ok=True)


def make_kinds(folder: Path) -> dict[str, Kind]:
    """All kinds; models and data sets that they need are made in ``folder``."""
    from detseg.runtime.media.images import write_image
    from detseg.runtime.volumes.nifti import write_label_volume, write_volume
    from detseg.volumes import LabelVolume, Volume

    rng = np.random.default_rng(0)
    cv2.setNumThreads(0)  # whoever is forked later must have no threads
    in_a_child(lambda: _make_models(folder))
    detector, volume_model = folder / "boxes.onnx", folder / "volumes.onnx"
    stills = [cv2.resize(rng.integers(0, 256, (6, 8, 3), np.uint8), (64, 48)) for _ in range(4)]
    pixels = stills[0]
    write_image(folder / "a.png", pixels)
    still = folder / "a.png"

    def predict(model: Path, *options: str) -> Use:
        return lambda path, out: ["predict", str(model), str(path), "-o", str(out), "--device", "cpu", *options]

    def check(up: int) -> Use:
        return lambda path, out: ["check", str(path.parents[up]), "--json", str(out.with_suffix(".json"))]

    def split(up: int) -> Use:
        return lambda path, out: ["split", str(path.parents[up]), "--ratios", "5:5", "-o", str(out)]

    def with_still(path: Path, out: Path) -> list[str]:
        return ["predict", str(path), str(still), "-o", str(out), "--save", "csv,drawn", "--device", "cpu"]

    def convert(path: Path, out: Path) -> list[str]:
        return ["convert", str(path), "-o", str(out / "made.safetensors")]

    def train(path: Path, out: Path) -> list[str]:
        return ["train", str(path), "-o", str(out)]

    coco, yolo, masks, scans = (folder / name for name in ("coco", "yolo", "masks", "scans"))
    _box_sets(coco, yolo, stills)
    for part, drawn in (("train", stills[:2]), ("val", stills[2:])):
        for number, pixels in enumerate(drawn):
            write_image(masks / f"images/{part}/{number}.png", pixels)
            (masks / f"masks/{part}").mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(masks / f"masks/{part}/{number}.png"), pixels[..., 0] // 86)
    (masks / "data.yaml").write_text(
        "format: masks\nnames: {0: a, 1: b, 2: c}\ntrain: {images: images/train, masks: masks/train}\n"
        "val: {images: images/val, masks: masks/val}\n"
    )
    scan = Volume(rng.normal(100, 10, (14, 12, 10)).astype(np.float32), np.diag([1.0, 1.0, 2.0, 1.0]))
    for number in range(2):
        shifted = Volume(scan.voxels + number, scan.affine)
        write_volume(scans / f"imagesTr/s_{number}.nii.gz", shifted)
        labels = (scan.voxels > 100).astype(np.uint8)
        write_label_volume(scans / f"labelsTr/s_{number}.nii.gz", LabelVolume(labels, scan.affine))
    (scans / "dataset.json").write_text(
        json.dumps(
            {
                "labels": {"background": 0, "a": 1},
                "numTraining": 2,
                "file_ending": ".nii.gz",
                "channel_names": {"0": "MR"},
            }
        )
    )
    write_volume(folder / "plain.nii", scan)
    scaled = bytearray((folder / "plain.nii").read_bytes())
    scaled[112:120] = np.array([2.0, 1.0], np.float32).tobytes()

    nifti = {
        "a.nii.gz": (scans / "imagesTr/s_0.nii.gz").read_bytes(),
        "b.nii": (folder / "plain.nii").read_bytes(),
        "c.nii": bytes(scaled),
        "d.nii.gz": (scans / "labelsTr/s_0.nii.gz").read_bytes(),
    }
    mask, images = (masks / "masks/train/0.png").read_bytes(), [mutate.damaged, mutate.with_damaged_png_chunk]
    packed = [mutate.damaged, mutate.with_damaged_content]
    words = [mutate.reworded, mutate.reworded, mutate.damaged]
    boxes = "annotations/instances_train.json"
    model = {"a.safetensors": detector.with_suffix(".safetensors").read_bytes()}
    graphs = [mutate.damaged, mutate.with_other_metadata, mutate.with_other_graph]
    headers = [mutate.damaged, mutate.with_other_header, mutate.with_other_header]
    scans_in_set = {"labelsTr/s_0.nii.gz": nifti["d.nii.gz"], "imagesTr/s_1.nii.gz": nifti["a.nii.gz"]}
    return {
        "images": Kind(_stills(pixels), [predict(detector, "--save", "csv")], images, at_a_time=25),
        "images in tiles": Kind(
            _stills(cv2.resize(pixels, (150, 100))),
            [predict(detector, "--save", "csv", "--tiles", "64", "--scales", "0.5,1", "--flip")],
            images,
            at_a_time=25,
        ),
        "masks": Kind({"masks/train/0.png": mask, "images/val/0.png": still.read_bytes()}, [check(2)], images, masks),
        "JSON": Kind({boxes: (coco / boxes).read_bytes()}, [check(1), split(1)], words, coco),
        "labels": Kind(
            {"labels/train/0.txt": b"0 0.5 0.5 0.25 0.5\n1 0.2 0.2 0.1 0.1\n"}, [check(2), split(2)], words, yolo
        ),
        "YAML of data": Kind({"data.yaml": (yolo / "data.yaml").read_bytes()}, [check(0), split(0)], words, yolo),
        "YAML of runs": Kind({"run.yaml": DETECTOR.encode()}, [train], words),
        "NIfTI": Kind(nifti, [predict(volume_model, "--save", "table")], packed, at_a_time=10),
        "NIfTI in sets": Kind(scans_in_set, [check(1)], packed, scans),
        "ONNX": Kind({"a.onnx": detector.read_bytes()}, [with_still, with_still, convert], graphs),
        "safetensors": Kind(model, [with_still], headers),
        "video": Kind(_videos(folder, pixels), [predict(detector, "--save", "csv", "--end", "1")], at_a_time=10),
        "pickles": Kind(_pickles(folder), [convert], [mutate.damaged, mutate.with_damaged_member]),
    }


def in_a_child(action: Callable[[], None]) -> None:
    """Do it in a process of its own, so that this one gets no threads by it."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except BaseException:  # noqa: BLE001 - there is nobody else to say it
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the models could not be made")


def _make_models(folder: Path) -> None:
    """A small detector and a small network for volumes, as model files and ONNX files: ``boxes`` and ``volumes``."""
    import torch

    from detseg.exporters.export import export_model
    from detseg.models.backbones.csp_darknet import CSPDarknetConfig
    from detseg.models.detector import DetectorConfig
    from detseg.models.vnet import VNetConfig
    from detseg.runtime.inputs.geometry import InputSpec
    from detseg.runtime.inputs.volume_geometry import VolumeSpec
    from detseg.tasks.detection import DetectionTaskConfig
    from detseg.tasks.model_file import ModelFileConfig, save_model_file
    from detseg.tasks.volume import VolumeTaskConfig

    boxes = ModelFileConfig(
        DetectorConfig(backbone=CSPDarknetConfig(width=0.125)),
        DetectionTaskConfig(input=InputSpec(64, 64)),
        ("a", "b"),
        (1, 2),
    )
    volumes = ModelFileConfig(
        VNetConfig(width=4, num_convolutions=(1, 1), kernel_size=3),
        VolumeTaskConfig(input=VolumeSpec((2.0, 2.0, 2.0)), patch=(16, 16, 16)),
        ("background", "a"),
        (0, 1),
    )
    for name, config in (("boxes", boxes), ("volumes", volumes)):
        torch.manual_seed(0)
        save_model_file(folder / f"{name}.safetensors", config.build()[0].state_dict(), config)
        export_model(folder / f"{name}.safetensors", folder / f"{name}.onnx")


def _stills(still: np.ndarray[Any, Any]) -> dict[str, bytes]:
    progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    made = {f"a{suffix}": _encoded(suffix, still) for suffix in (".jpg", ".png", ".bmp", ".webp", ".tif")}
    lossless = _encoded(".webp", still, [cv2.IMWRITE_WEBP_QUALITY, 101])
    return made | {"progressive.jpg": _encoded(".jpg", still, progressive), "lossless.webp": lossless}


def _encoded(suffix: str, still: np.ndarray[Any, Any], options: Sequence[int] = ()) -> bytes:
    return bytes(cv2.imencode(suffix, still, list(options))[1])


def _box_sets(coco: Path, yolo: Path, stills: Sequence[np.ndarray[Any, Any]]) -> None:
    from detseg.runtime.media.images import write_image

    for part, drawn in (("train", stills[:2]), ("val", stills[2:])):
        images = [{"id": n + 1, "file_name": f"{n}.png", "height": 48, "width": 64} for n in range(2)]
        boxes = [
            {
                "id": n + 1,
                "image_id": n + 1,
                "category_id": 7 + 2 * n,
                "bbox": [5, 6, 20, 22],
                "area": 440,
                "iscrowd": 0,
            }
            for n in range(2)
        ]
        document = {
            "images": images,
            "annotations": boxes,
            "categories": [{"id": 7, "name": "a"}, {"id": 9, "name": "b"}],
        }
        (coco / "annotations").mkdir(parents=True, exist_ok=True)
        (coco / f"annotations/instances_{part}.json").write_text(json.dumps(document))
        for number, still in enumerate(drawn):
            write_image(coco / f"{part}/{number}.png", still)
            write_image(yolo / f"images/{part}/{number}.png", still)
            (yolo / f"labels/{part}").mkdir(parents=True, exist_ok=True)
            (yolo / f"labels/{part}/{number}.txt").write_text("0 0.5 0.5 0.25 0.5\n1 0.2 0.2 0.1 0.1\n")
    (yolo / "data.yaml").write_text("path: .\ntrain: images/train\nval: images/val\nnames:\n  0: a\n  1: b\n")


def _videos(folder: Path, still: np.ndarray[Any, Any]) -> dict[str, bytes]:
    made = {}
    for name, codec in (("a.avi", "MJPG"), ("b.mp4", "mp4v"), ("c.mkv", "mp4v")):
        video = cv2.VideoWriter(str(folder / name), cv2.VideoWriter.fourcc(*codec), 10.0, (64, 48))
        for shift in range(6):
            video.write(np.roll(still, 4 * shift, 1))
        video.release()
        if (folder / name).stat().st_size:
            made[name] = (folder / name).read_bytes()
    return made


def _pickles(folder: Path) -> dict[str, bytes]:
    import torch

    weights = {"backbone.conv.weight": torch.zeros(4, 3, 3, 3), "head.bias": torch.ones(5)}
    torch.save({"model": weights, "epoch": 3}, folder / "a.pt")
    torch.save(weights, folder / "b.pth", _use_new_zipfile_serialization=False)
    return {name: (folder / name).read_bytes() for name in ("a.pt", "b.pth")}

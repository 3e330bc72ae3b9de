"""Large volumes: memory and time beside MONAI's sliding windows; and hippocampus beside nnU-Net, for equal minutes.

    python bench/volumes.py windows --sides 512 --classes 22
    python bench/volumes.py windows --sides 256 --classes 22 --flip
    python bench/volumes.py train --data hippocampus --minutes 20 --nnunet ENVIRONMENT/bin/python

``windows``: a made scan of so many voxels, and a V-Net with weights at random, go through ``detseg predict`` with the
model file and with its ONNX file, and through MONAI's ``sliding_window_inference`` with the same network, windows,
overlap and Gaussian weights, each in a process of its own, from the file of the scan to that of its labels. Seconds and
the largest resident memory are those of the process; voxels with other labels than MONAI's are counted. MONAI holds
the logits of all classes at once, so it is left out with ``--no-monai`` where they do not fit; ``--no-onnx`` leaves out
the ONNX file, whose export takes minutes for large windows. What the columns say of each other counts, not the seconds.

``train``: fold 0 of five, the same cases for both programs. Each first makes a few steps to see how long they take,
then trains for as many as fit in the minutes, its schedule to the end. nnU-Net 2.8.1 (``pip install nnunetv2==2.8.1``
in an environment of its own, whose Python is named) plans and trains its own 3d_fullres; Dice is counted here, from the
labels that both write. ``--programs`` chooses one of them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detseg.arrays import FloatArray
from detseg.data.formats.nifti import find_pairs
from detseg.data.open import find_source
from detseg.runtime.volumes.volume_files import read_label_values

NAMES = ("background", "anterior", "posterior")


@dataclass(frozen=True)
class Used:
    """What a program took: seconds, GB of resident memory at most, and seconds of processors, which count where other
    programs work beside it."""

    seconds: float
    gigabytes: float
    processor_seconds: float


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Used:
    """Run a program to its end and say what it took.

    Raises:
        RuntimeError: it failed.
    """
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=told,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            told.seek(0)
            raise RuntimeError(f"{command} failed: {told.read().decode(errors='replace')[-4000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    used = usage.ru_utime + usage.ru_stime
    return Used(time.perf_counter() - begin, usage.ru_maxrss * unit / 1e9, used)


def make_scan(path: Path, side: int) -> None:
    """A scan of ``side`` voxels along each axis, noise on smooth hills, as whole numbers of 16 bits."""
    nibabel: Any = importlib.import_module("nibabel")
    rng = np.random.default_rng(0)
    hills = np.sin(np.arange(side) / side * 9)
    voxels = np.empty((side, side, side), np.int16)
    for depth in range(side):
        plane = 300 * (hills[depth] + hills[:, None] * hills[None]) + rng.normal(0, 40, (side, side))
        voxels[depth] = plane.astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([0.8, 0.8, 0.8, 1.0])), path)


def make_model(path: Path, options: argparse.Namespace) -> None:
    """A small V-Net with weights at random, as a model file and as an ONNX file beside it."""
    import torch

    import detseg
    from detseg.models.vnet import VNetConfig
    from detseg.runtime.inputs.volume_geometry import VolumeSpec
    from detseg.runtime.postprocess.config import WindowsConfig
    from detseg.tasks.model_file import ModelFileConfig, save_model_file
    from detseg.tasks.volume import VolumeTaskConfig

    torch.manual_seed(0)
    config = ModelFileConfig(
        VNetConfig(width=options.width, num_convolutions=(1, 1, 1), kernel_size=3, norm="batch"),
        VolumeTaskConfig(
            input=VolumeSpec(spacing=(0.8, 0.8, 0.8)),
            patch=(options.window,) * 3,
            postprocess=WindowsConfig(overlap=options.overlap, flip=options.flip),
        ),
        tuple(f"class {number}" for number in range(options.classes)),
        tuple(range(options.classes)),
    )
    model, _ = config.build()
    save_model_file(path, model.state_dict(), config)
    if options.onnx:
        detseg.export(path, path.with_suffix(".onnx"))


def predict_with_monai(model: Path, scan: Path, output: Path) -> None:
    """What a user of MONAI writes: read, windows, arg-max, labels."""
    import torch

    from detseg.models.base import fused
    from detseg.tasks.model_file import load_model_file

    nibabel: Any = importlib.import_module("nibabel")
    sliding_window_inference: Any = importlib.import_module("monai.inferers").sliding_window_inference
    loaded = load_model_file(model, for_prediction=True)
    settings = loaded.task.config.postprocess
    network = fused(loaded.model)
    image: Any = nibabel.load(scan)
    voxels: FloatArray = np.asarray(image.dataobj, np.float32)
    voxels -= voxels.mean(dtype=np.float64)
    voxels /= np.sqrt(np.square(voxels, dtype=np.float32).mean(dtype=np.float64))
    inputs = torch.from_numpy(np.ascontiguousarray(voxels))[None, None]
    with torch.inference_mode():
        window = loaded.task.config.patch
        total: Any = None
        axes = settings.flip_axes if settings.flip else ()
        for chosen in range(2 ** len(axes)):
            flips = [2 + axis for place, axis in enumerate(axes) if chosen >> place & 1]
            logits: Any = sliding_window_inference(
                inputs.flip(flips), window, 1, network, overlap=settings.overlap, mode="gaussian"
            )
            if axes:
                logits = logits.flip(flips).softmax(1)
            total = logits if total is None else total + logits
        labels = total[0].argmax(0).to(torch.uint8).numpy()
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), output)


def windows(options: argparse.Namespace) -> int:
    """Print a table of programs."""
    with tempfile.TemporaryDirectory() as folder:
        scan, model = Path(folder) / "scan.nii", Path(folder) / "model.safetensors"
        # A process counts as its own what its parent held when it began, so that nothing large may be done here.
        run([sys.executable, __file__, "make", folder, json.dumps(vars(options))])
        found: dict[str, tuple[Used, Path]] = {}
        files = {"detseg, torch": model, "detseg, ONNX": model.with_suffix(".onnx")}
        for name, file in list(files.items())[: 1 + options.onnx]:
            output = Path(folder) / file.suffix[1:]
            used = run([sys.executable, "-m", "detseg", "predict", file, scan, "--save", options.save, "-o", output])
            found[name] = used, output / "labels" / "scan.nii.gz"
        if options.monai:
            output = Path(folder) / "monai.nii.gz"
            used = run([sys.executable, __file__, "monai", model, scan, output])
            found["MONAI"] = used, output
        _, reference = list(found.values())[-1]
        print(
            f"{options.sides}^3 voxels, {options.classes} classes, windows of {options.window}^3, flips {options.flip}"
        )
        print("| program | seconds | of processors | GB at most | other labels |\n|---|---|---|---|---|")
        for name, (used, labels) in found.items():
            others = _num_different(labels, reference)
            times = f"{used.seconds:.0f} | {used.processor_seconds:.1f}"
            print(f"| {name} | {times} | {used.gigabytes:.2f} | {others:.2e} |")
    return 0


def _num_different(path: Path, other: Path) -> float:
    nibabel: Any = importlib.import_module("nibabel")
    images: list[Any] = [nibabel.load(one) for one in (path, other)]
    first, second = (np.asarray(image.dataobj, np.uint8) for image in images)
    return float((first != second).mean())


def train(options: argparse.Namespace) -> int:
    """Print Dice by program and class."""
    data = options.data.absolute()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        description = folder / "folds.yaml"
        description.write_text(
            f"format: nifti\npath: {data}\nnames: [{', '.join(NAMES)}]\nsplit: {{folds: 5, seed: 0}}\n"
        )
        source = find_source(str(description))
        pairs = {part: find_pairs(source, f"fold0-{part}") for part in ("train", "val")}
        labels = {pair.image.name: pair.label for pair in pairs["val"]}
        rows: dict[str, list[float]] = {}
        if "detseg" in options.programs:
            found = _train_ours(folder / "ours", description, options)
            rows["detseg"] = _dice(found, labels)
        if "nnunet" in options.programs:
            listed = {part: [[str(pair.image), str(pair.label)] for pair in some] for part, some in pairs.items()}
            (folder / "cases.json").write_text(json.dumps(listed))
            program = Path(__file__).with_name("volumes_nnunet.py")
            found = folder / "nnunet"
            words = [options.nnunet, program, folder / "cases.json", found, str(options.minutes)]
            used = run(words, {"nnUNet_compile": "f", "nnUNet_n_proc_DA": str(options.workers)})
            print(f"nnU-Net: {used.seconds / 60:.1f} minutes in all, {used.gigabytes:.1f} GB")
            rows["nnU-Net 2.8.1"] = _dice(found / "labels", labels)
        print(
            f"\n{options.minutes} minutes each, {len(labels)} held out cases\n| program | mean | "
            + " | ".join(NAMES[1:])
        )
        print("|---|---|---|---|")
        for name, values in rows.items():
            print(f"| {name} | {np.mean(values):.4f} | " + " | ".join(f"{value:.4f}" for value in values) + " |")
    return 0


def _train_ours(folder: Path, description: Path, options: argparse.Namespace) -> Path:
    """The folder of the labels that our network finds, trained for the minutes."""

    def command(epochs: int, output: Path) -> list[str | Path]:
        splits = ["data.train_split=fold0-train", "data.val_split=fold0-val"]
        settings = [f"train.epochs={epochs}", f"train.evaluate_epochs={epochs}", "train.compile=none"]
        where = [f"data.path={description}", "data.description=null"]
        words = [*where, *splits, *settings, *options.settings]
        return [sys.executable, "-m", "detseg", "train", options.config, *words, "-o", output]

    one = run(command(1, folder / "one")).seconds
    two = run(command(2, folder / "two")).seconds
    epochs = max(1, round((options.minutes * 60 - (one - (two - one))) / max(1e-3, two - one)))
    print(f"detseg: {two - one:.1f} s an epoch, {epochs} epochs", flush=True)
    used = run(command(epochs, folder / "run"))
    print(f"detseg: {used.seconds / 60:.1f} minutes, {used.gigabytes:.1f} GB", flush=True)
    scans = folder / "scans"
    scans.mkdir()
    for pair in find_pairs(find_source(str(description)), "fold0-val"):
        shutil.copy(pair.image, scans)
    best = folder / "run" / "best.safetensors"
    run([sys.executable, "-m", "detseg", "predict", best, scans, "--flip", "--save", "nifti", "-o", folder / "found"])
    return folder / "found" / "labels"


def _dice(folder: Path, truth_of: Mapping[str, Path | None]) -> list[float]:
    """The mean over cases of each class's Dice."""
    values = []
    for name, path in truth_of.items():
        assert path is not None
        truth, found = read_label_values(path)[0], read_label_values(folder / name)[0]
        both = [(truth == label, found == label) for label in range(1, len(NAMES))]
        values.append([2 * (one & other).sum() / max(1, one.sum() + other.sum()) for one, other in both])
    means: list[float] = np.mean(values, axis=0).tolist()
    return means


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("windows")
    verb.add_argument("--sides", type=int, default=512)
    verb.add_argument("--classes", type=int, default=22)
    verb.add_argument("--window", type=int, default=64)
    verb.add_argument("--width", type=int, default=4)
    verb.add_argument("--overlap", type=float, default=0.5)
    verb.add_argument("--flip", action="store_true")
    verb.add_argument("--save", default="nifti,table", help="what detseg writes")
    verb.add_argument("--no-onnx", dest="onnx", action="store_false")
    verb.add_argument("--no-monai", dest="monai", action="store_false")
    verb = verbs.add_parser("train")
    verb.add_argument("--data", type=Path, required=True)
    verb.add_argument("--minutes", type=float, default=20.0)
    verb.add_argument("--nnunet", help="the Python of the environment with nnunetv2")
    verb.add_argument("--programs", nargs="+", choices=("detseg", "nnunet"), default=["detseg", "nnunet"])
    verb.add_argument("--config", default="configs/volume/vnet_hippocampus.yaml")
    verb.add_argument("--settings", nargs="*", default=[], metavar="key=value", help="of detseg's training")
    verb.add_argument("--workers", type=int, default=1)
    verb = verbs.add_parser("monai")
    for name in ("model", "scan", "output"):
        verb.add_argument(name, type=Path)
    verb = verbs.add_parser("make")
    verb.add_argument("folder", type=Path)
    verb.add_argument("options")
    options = parser.parse_args(words)
    if options.verb == "make":
        asked = argparse.Namespace(**json.loads(options.options))
        make_scan(options.folder / "scan.nii", asked.sides)
        make_model(options.folder / "model.safetensors", asked)
        return 0
    if options.verb == "monai":
        predict_with_monai(options.model, options.scan, options.output)
        return 0
    return windows(options) if options.verb == "windows" else train(options)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    raise SystemExit(main())

"""Seconds and memory of data sets as large as COCO, made of a few images by links.

    python bench/data.py                      # everything; some minutes, and some 2 GB in a temporary folder
    python bench/data.py --scale 0.01         # a hundredth of it
    python bench/data.py --only coco evaluate

Sets: COCO (118,287 images, 1.04 million objects with polygons), YOLO (100,000 text files), VOC (20,000 XML files),
Cityscapes (3,475 maps of instances). Each work runs in a process of its own: opening the set, first and a second time;
for comparison pycocotools; ``detseg check --fast``; COCO's evaluation of 5,000 images with 50,000 objects and 500,000
detections by each program that is installed; training images at 640 px with mosaic, of COCO's size and of 11
megapixels; 50 steps of training on COCO with two workers. CPU seconds are those of the process with its threads; peak
memory is all that it had in use, held is what stays of it beside what is shared with files. The table comes last.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import io
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

NUM_IMAGES = 8
NUM_CLASSES = 80
SIZES = {
    "coco_images": 118_287,
    "coco_objects": 1_040_000,
    "yolo": 100_000,
    "voc": 20_000,
    "cityscapes": 3_475,
    "photographs": 64,
    "evaluated": 5_000,
    "train_images": 1_000,
}
SET_NAMES = ("coco", "yolo", "voc", "cityscapes")
GROUPS = (*SET_NAMES, "evaluate", "loader", "train")
NUM_STEPS = 50
FAST_EPOCH = 1_000
"""Images per second of a fast training run, of which evaluation is to take little."""
NEEDED = {"loader": ("coco", "photographs"), "train": ("coco",)}
HEIGHT, WIDTH = 480, 640


def make_images(folder: Path) -> list[Path]:
    """A few images with edges and noise, about as large on disk as those of COCO."""
    generator, paths = np.random.default_rng(0), []
    folder.mkdir(parents=True)
    for number in range(NUM_IMAGES):
        coarse = generator.integers(0, 256, (15, 20, 3), np.uint8)
        image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        noise = generator.integers(0, 12, image.shape, np.uint8)
        paths.append(folder / f"{number}.jpg")
        cv2.imwrite(str(paths[-1]), cv2.add(image, noise), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return paths


def make_links(folder: Path, originals: list[Path], names: Iterator[str]) -> list[str]:
    """A link to one of the ``originals`` for each of ``names``."""
    folder.mkdir(parents=True)
    made = []
    for number, name in enumerate(names):
        (folder / name).symlink_to(originals[number % len(originals)])
        made.append(name)
    return made


def make_coco(root: Path, originals: list[Path], sizes: dict[str, int]) -> None:
    """Splits with polygons of 8 to 52 corners, written as COCO writes them."""
    (root / "annotations").mkdir(parents=True)
    write_coco(root, "train", originals, sizes["coco_images"], sizes["coco_objects"])
    write_coco(root, "val", originals, sizes["evaluated"], 10 * sizes["evaluated"])


def make_object(generator: np.random.Generator, num_corners: int) -> tuple[list[float], str]:
    """A box ``x, y, width, height``, and as text the polygon of ``num_corners`` that it is around."""
    x, y, width, height = np.round(generator.uniform((0, 0, 2, 2), (300, 150, 300, 300)), 2).tolist()
    corners = np.round((x, y) + generator.uniform(0, 1, (num_corners, 2)) * (width, height), 2)
    corners[0], corners[1] = (x, y), np.round((x + width, y + height), 2)
    return [x, y, width, height], json.dumps([corners.ravel().tolist()])


def write_coco(root: Path, split: str, originals: list[Path], num_images: int, num_objects: int) -> None:
    """One of the splits."""
    generator = np.random.default_rng(1)
    names = make_links(root / split, originals, (f"{number:012d}.jpg" for number in range(num_images)))
    shapes = [make_object(generator, int(corners)) for corners in generator.integers(8, 36, 500)]
    about = (
        '"license": 3, "coco_url": "http://images.cocodataset.org/train/{0}", "date_captured": "2013-11-14 11:18:45"'
    )
    images = generator.integers(0, num_images, num_objects).tolist()
    shape_of = generator.integers(0, len(shapes), num_objects).tolist()
    with (root / "annotations" / f"instances_{split}.json").open("w") as file:
        file.write('{"info": {"year": 2017}, "licenses": [], "images": [')
        file.write(
            ", ".join(
                f'{{{about.format(name)}, "file_name": "{name}", "height": {HEIGHT}, "width": {WIDTH}, "id": {number}}}'
                for number, name in enumerate(names)
            )
        )
        file.write('], "annotations": [')
        for number, shape in enumerate(shape_of):
            box, outline = shapes[shape]
            file.write(
                f'{", " if number else ""}{{"segmentation": {outline}, "area": '
                f'{box[2] * box[3] / 2}, "iscrowd": 0, "image_id": {images[number]}, "bbox": {box}, '
                f'"category_id": {number % NUM_CLASSES + 1}, "id": {number + 1}}}'
            )
        classes = [{"supercategory": "thing", "id": one + 1, "name": f"class {one}"} for one in range(NUM_CLASSES)]
        file.write(f'], "categories": {json.dumps(classes)}}}')


def make_yolo(root: Path, originals: list[Path], sizes: dict[str, int]) -> None:
    """A text file of 1 to 12 boxes for each image."""
    generator = np.random.default_rng(2)
    names = make_links(root / "images" / "train", originals, (f"{number:06d}.jpg" for number in range(sizes["yolo"])))
    (root / "labels" / "train").mkdir(parents=True)
    texts = []
    for num_boxes in generator.integers(1, 13, 100):
        rows = np.column_stack(
            [generator.uniform(0.3, 0.7, (num_boxes, 2)), generator.uniform(0.05, 0.5, (num_boxes, 2))]
        )
        labels = generator.integers(0, NUM_CLASSES, num_boxes)
        texts.append(
            "".join(
                f"{label} {' '.join(f'{value:.6f}' for value in row)}\n"
                for label, row in zip(labels, rows, strict=True)
            )
        )
    for number, name in enumerate(names):
        (root / "labels" / "train" / name.replace(".jpg", ".txt")).write_text(texts[number % len(texts)])
    classes = "\n".join(f"  {number}: class {number}" for number in range(NUM_CLASSES))
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nval: images/train\nnames:\n{classes}\n")


def make_voc(root: Path, originals: list[Path], sizes: dict[str, int]) -> None:
    """An XML file of 1 to 5 boxes for each image."""
    names = make_links(root / "JPEGImages", originals, (f"{number:06d}.jpg" for number in range(sizes["voc"])))
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for number, name in enumerate(names):
        objects = "".join(
            f"<object><name>class{(number + one) % 20}</name><difficult>0</difficult><bndbox><xmin>{10 + one}</xmin>"
            f"<ymin>{20 + one}</ymin><xmax>{200 + one}</xmax><ymax>{300 + one}</ymax></bndbox></object>"
            for one in range(1 + number % 5)
        )
        (root / "Annotations" / name.replace(".jpg", ".xml")).write_text(
            f"<annotation><filename>{name}</filename><size><width>{WIDTH}</width><height>{HEIGHT}</height>"
            f"<depth>3</depth></size>{objects}</annotation>"
        )
    (root / "ImageSets" / "Main" / "train.txt").write_text("".join(f"{name[:-4]}\n" for name in names))


def make_cityscapes(root: Path, originals: list[Path], sizes: dict[str, int]) -> None:
    """Maps of instances of 1024x2048 pixels with some 20 objects."""
    generator, maps = np.random.default_rng(4), []
    for number in range(NUM_IMAGES):
        ids = np.full((1024, 2048), 7, np.uint16)
        for one in range(20):
            left, top = generator.integers(0, 1900), generator.integers(0, 900)
            ids[top : top + 120, left : left + 140] = 1000 * generator.choice([24, 25, 26, 33]) + one
        image, instances = originals[0].parent / f"street{number}.png", originals[0].parent / f"instances{number}.png"
        cv2.imwrite(str(image), generator.integers(0, 64, (1024, 2048, 3), np.uint8), [cv2.IMWRITE_PNG_COMPRESSION, 0])
        cv2.imwrite(str(instances), ids)
        maps.append((image, instances))
    stems = [f"aachen_{number:06d}_000019" for number in range(sizes["cityscapes"])]
    for kind, folder, name in ((0, "leftImg8bit", "leftImg8bit"), (1, "gtFine", "gtFine_instanceIds")):
        make_links(
            root / folder / "train" / "aachen", [pair[kind] for pair in maps], (f"{stem}_{name}.png" for stem in stems)
        )


def make_photographs(root: Path, originals: list[Path], sizes: dict[str, int]) -> None:
    """Images of 2880x3840 pixels with a box each."""
    photographs = []
    for number, path in enumerate(originals[:4]):
        image = cv2.resize(cv2.imread(str(path)), (3840, 2880), interpolation=cv2.INTER_CUBIC)
        photographs.append(path.parent / f"photograph{number}.jpg")
        cv2.imwrite(str(photographs[-1]), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
    names = make_links(
        root / "images" / "train", photographs, (f"{one:06d}.jpg" for one in range(sizes["photographs"]))
    )
    (root / "labels" / "train").mkdir(parents=True)
    for name in names:
        (root / "labels" / "train" / name.replace(".jpg", ".txt")).write_text("0 0.5 0.5 0.2 0.2\n")
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nnames: [thing]\n")


MAKERS: dict[str, Callable[[Path, list[Path], dict[str, int]], None]] = {
    "coco": make_coco,
    "yolo": make_yolo,
    "voc": make_voc,
    "cityscapes": make_cityscapes,
    "photographs": make_photographs,
}


def open_set(folder: Path, name: str) -> str:
    """Open the training split; says how many images and objects it has."""
    from detseg.data.open import open_dataset

    START.restart()
    dataset = open_dataset(folder / name, "train", target="boxes")
    KEPT.append(dataset)
    return f"{len(dataset):,} images, {dataset.num_objects:,} objects"


def open_with_pycocotools(folder: Path, name: str) -> str:
    """The same by the official tool."""
    from pycocotools.coco import COCO

    START.restart()
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(folder / name / "annotations" / "instances_train.json")
    KEPT.append(coco)
    return f"{len(coco.imgs):,} images, {len(coco.anns):,} objects"


def check_set(folder: Path, name: str) -> str:
    """What ``detseg check --fast`` does."""
    from detseg.data.check import check_dataset

    START.restart()
    report = check_dataset(folder / name, decode=False)
    return f"{len(report.findings):,} findings"


def evaluate_with(folder: Path, backend: str) -> str:
    """COCO's numbers of random boxes, a fifth of which are near the truth."""
    from detseg.evaluation.objects.coco_map import CocoEvaluator
    from detseg.structures import Detections, GroundTruth

    generator, num_images = np.random.default_rng(5), json.loads((folder / "sizes.json").read_text())["evaluated"]
    evaluator = CocoEvaluator([f"class {number}" for number in range(NUM_CLASSES)], backend=backend)
    for image_id in range(num_images):
        boxes_xywh = np.column_stack([generator.uniform(0, 400, (10, 2)), generator.uniform(5, 200, (10, 2))])
        labels = generator.integers(0, NUM_CLASSES, 10)
        found = np.column_stack([generator.uniform(0, 400, (100, 2)), generator.uniform(5, 200, (100, 2))])
        found[:20] = np.repeat(boxes_xywh, 2, axis=0) + generator.normal(0, 4, (20, 4))
        found[:, 2:] = found[:, :2] + np.maximum(found[:, 2:], 1)
        found_labels = generator.integers(0, NUM_CLASSES, 100)
        found_labels[:20] = np.repeat(labels, 2)
        detections = Detections(found.astype(np.float32), generator.random(100).astype(np.float32), found_labels)
        truth = GroundTruth(
            image_id,
            HEIGHT,
            WIDTH,
            boxes_xywh,
            labels,
            generator.random(10) < 0.01,
            boxes_xywh[:, 2] * boxes_xywh[:, 3],
        )
        evaluator.update(image_id, detections, truth)
    START.restart()
    average_precision, seconds = evaluator.compute()["AP"], time.process_time() - START.cpu
    share = seconds / (SIZES["coco_images"] / FAST_EPOCH)
    return f"AP {average_precision:.9f}; {share:.1%} of an epoch of COCO at {FAST_EPOCH:,} images per second"


def load_images(folder: Path, name: str) -> str:
    """Training images at 640 px with mosaic in batches of 16, on one thread, as training is set to."""
    return _load(folder, name)


def load_from_all(folder: Path, name: str) -> str:
    """The same with partners from the whole set."""
    return _load(folder, name, neighborhood=None)


def load_whole(folder: Path, name: str) -> str:
    """The same with every image decoded whole."""
    return _load(folder, name, reduced_decoding=False)


def load_undrawn(folder: Path, name: str) -> str:
    """The same with ``augment.device: model``: packed, not drawn."""
    return _load(folder, name, draws=False)


PEER = """
import sys, time
import cv2
from pathlib import Path
from ultralytics.data.build import build_yolo_dataset
from ultralytics.cfg import get_cfg
from ultralytics.data.utils import check_det_dataset
import torch
cv2.setNumThreads(1)
torch.set_num_threads(1)
folder, wanted = Path(sys.argv[1]), int(sys.argv[2])
data = check_det_dataset(folder / "data.yaml")
config = get_cfg(overrides={"imgsz": 640, "task": "detect", "cache": False})
dataset = build_yolo_dataset(config, data["train"], 16, data, mode="train", rect=False, stride=32)
start = time.process_time()
for number in range(wanted):
    dataset[number % len(dataset)]
print(f"{wanted / (time.process_time() - start):.0f} images per second and core")
"""
"""Ultralytics' training images of the same files, in an environment of its own; it keeps labels beside the images."""


def load_with_peer(folder: Path, name: str) -> str:
    """The training images of COCO's size by Ultralytics, whose mosaic has partners from a buffer."""
    sizes = json.loads((folder / "sizes.json").read_text())
    peer = folder / "peer"
    if not peer.exists():
        make_yolo(peer, sorted((folder / "images").glob("?.jpg")), {"yolo": min(sizes["coco_images"], 2_000)})
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "YOLO_CONFIG_DIR": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    command = [os.environ["PEER_PYTHON"], "-c", PEER, str(peer), str(sizes["train_images"])]
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=peer)
    if process.returncode:
        raise SystemExit(process.stderr)
    return process.stdout.splitlines()[-1]


def _load(folder: Path, name: str, draws: bool = True, **changed: Any) -> str:
    from detseg.augment.config import AugmentConfig
    from detseg.augment.packing import pack
    from detseg.augment.pipeline import PlanPipeline
    from detseg.data.loading.loader import TrainLoader
    from detseg.data.open import open_dataset
    from detseg.engine.settings import DataConfig

    settings = {"neighborhood": 16, "reduced_decoding": DataConfig().reduced_decoding}
    cv2.setNumThreads(1)
    wanted = json.loads((folder / "sizes.json").read_text())["train_images"]
    dataset = open_dataset(folder / name, "train", target="boxes")

    def packed(planned: list[Any]) -> list[Any]:
        pack([one.picture for one in planned])
        return planned

    loader: TrainLoader[list[Any]] = TrainLoader(
        dataset,
        AugmentConfig().build() if draws else PlanPipeline(AugmentConfig().build()),
        list if draws else packed,
        min(16, len(dataset)),
        0,
        (640, 640),
        0,
        **{**settings, **changed},
    )
    START.restart()
    num_images, epoch = 0, 0
    while num_images < wanted:
        for batch in loader.epoch(epoch):
            num_images += len(batch)
            if num_images >= wanted:
                break
        epoch += 1
    return f"{num_images / (time.process_time() - START.cpu):.0f} images per second and core"


def train(folder: Path, name: str) -> str:
    """``detseg train`` with two workers for some steps, after which it is told to stop; memory is that of all its
    processes, what they share counted once."""
    START.restart()
    run_dir = folder / "run"
    settings = ("model.backbone.width=0.125", "augment.neighborhood=16", f"train.save_steps={NUM_STEPS}")
    command = [sys.executable, "-m", "detseg", "train", "c2f_n", "--data", str(folder / name), "--workers", "2"]
    command += ["--size", "256", "--batch", "8", "--device", "cpu", "-o", str(run_dir), *settings]
    with (folder / "train.txt").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        peak, num_processes = 0, 0
        while process.poll() is None:
            members = family(process.pid)
            peak, num_processes = max(peak, sum(map(shared_out_bytes, members))), max(num_processes, len(members))
            if (run_dir / "state.pt").exists():
                process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
    if not (run_dir / "state.pt").exists():
        raise SystemExit((folder / "train.txt").read_text())
    return f"{NUM_STEPS} steps; {num_processes} processes had {peak / 2**30:.2f} GiB together"


def family(parent: int) -> list[int]:
    """The process ``parent`` with all that it has started."""
    found = [parent]
    for pid in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += [int(one) for one in (task / "children").read_text().split()]
    return found


def shared_out_bytes(pid: int) -> int:
    """The memory of a process, each page divided by the number of those that share it; 0 once it has ended."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
    return 0


class Start:
    """When the work that counts began, and what memory was held then."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """What was done so far does not count."""
        gc.collect()
        self.wall, self.cpu, self.held = time.perf_counter(), time.process_time(), held_bytes()


def held_bytes() -> int:
    """The memory of this process that is not shared with files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


KEPT: list[Any] = []
"""What a work has opened, while its memory is measured."""
START = Start()
WORKS: dict[str, Callable[[Path, str], str]] = {
    "open": open_set,
    "open again": open_set,
    "pycocotools": open_with_pycocotools,
    "check --fast": check_set,
    "evaluate": evaluate_with,
    "training images": load_images,
    "training images, partners of all": load_from_all,
    "training images, decoded whole": load_whole,
    "training images, not drawn": load_undrawn,
    "training images, Ultralytics": load_with_peer,
    "train": train,
}


def measure(work: str, folder: Path, subject: str) -> None:
    """Do one work and print what it took as JSON."""
    START.restart()
    result = WORKS[work](folder, subject)
    wall, cpu = time.perf_counter() - START.wall, time.process_time() - START.cpu
    gc.collect()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak, "held": held_bytes() - START.held, "result": result}))


def run(work: str, folder: Path, subject: str) -> str:
    """One row of the table, measured in a process of its own."""
    command = [sys.executable, __file__, "--measure", work, "--folder", str(folder), "--subject", subject]
    environment = os.environ | {"DETSEG_CACHE": str(folder / "cache")}
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if process.returncode:
        raise SystemExit(f"{work} of {subject} failed:\n{process.stderr}")
    row = json.loads(process.stdout.splitlines()[-1])
    memory = f"{row['peak'] / 2**30:.2f} GiB | {max(row['held'], 0) / 2**30:.2f} GiB"
    return f"| {subject} | {work} | {row['wall']:.2f} | {row['cpu']:.2f} | {memory} | {row['result']} |"


def works_of(group: str) -> Iterator[tuple[str, str]]:
    """The works of a group, with what each is done to."""
    if group == "evaluate":
        from detseg.evaluation.objects.coco_backend import BACKENDS

        for name, program in BACKENDS.items():
            if importlib.util.find_spec(program.coco_module.partition(".")[0]):
                yield "evaluate", name
    elif group == "loader":
        yield "training images", "coco"
        yield "training images, not drawn", "coco"
        yield "training images, partners of all", "coco"
        if "PEER_PYTHON" in os.environ:
            yield "training images, Ultralytics", "coco"
        yield "training images", "photographs"
        yield "training images, decoded whole", "photographs"
    elif group == "train":
        yield "train", "coco"
    else:
        yield "open", group
        if group in ("coco", "yolo", "voc"):
            yield "open again", group
        if group == "coco":
            yield "pycocotools", group
            yield "check --fast", group


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers of images and objects")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS)
    parser.add_argument("--folder", type=Path, help="a new folder for the sets, which stays (default a temporary one)")
    parser.add_argument(
        "--peer-python", type=Path, help="of an environment with ultralytics, whose loader is measured too"
    )
    parser.add_argument("--measure", choices=WORKS, help=argparse.SUPPRESS)
    parser.add_argument("--subject", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.folder, options.subject)
        return
    if options.peer_python:
        os.environ["PEER_PYTHON"] = str(options.peer_python.absolute())
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary) / "sets").absolute()
        folder.mkdir(parents=True)
        sizes = {name: max(1, round(number * options.scale)) for name, number in SIZES.items()}
        (folder / "sizes.json").write_text(json.dumps(sizes))
        originals = make_images(folder / "images")
        rows = []
        for group in options.only:
            for needed in NEEDED.get(group, (group,)):
                if needed in MAKERS and not (folder / needed).exists():
                    MAKERS[needed](folder / needed, originals, sizes)
            for work, subject in works_of(group):
                rows.append(run(work, folder, subject))
                print(rows[-1], file=sys.stderr, flush=True)
    print(f"Python {platform.python_version()}, {platform.processor() or platform.machine()}, {os.cpu_count()} cores\n")
    print("| set or program | work | seconds | CPU seconds | peak memory | held | result |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()

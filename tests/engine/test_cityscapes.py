"""The Cityscapes recipe on a tree in the official layout, measured by the official scripts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import args as official_settings
from cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling import evaluateImgLists
from PIL import Image

from detseg.cli import main
from detseg.data.formats.cityscapes_labels import CLASSES
from detseg.runtime.media.images import write_image

CONFIGS = Path(__file__).parents[2] / "configs"
HEIGHT, WIDTH = 64, 128
TOWNS = {"train": ("aachen", "bochum"), "val": ("lindau", "munster")}
SMALL = (
    "task.input.height=64",
    "task.input.width=128",
    "task.crop=[48,64]",
    "augment.fit=[64,128]",
    "data.num_workers=0",
    "train.epochs=1",
    "train.batch_size=2",
    "train.eval_batch_size=2",
    "train.num_threads=1",
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two cities in each of two splits; streets of blocks, with cars as instances."""
    root, rng = tmp_path / "cityscapes", np.random.default_rng(0)
    for split, towns in TOWNS.items():
        for town in towns:
            for number in range(2):
                ids = np.full((HEIGHT, WIDTH), 7, np.int32)
                ids[: HEIGHT // 3] = 23
                for label in (11, 21, 4, 33, 8):
                    top, left = rng.integers(0, HEIGHT - 16), rng.integers(0, WIDTH - 30)
                    ids[top : top + 16, left : left + 30] = label
                for instance in range(2):
                    top, left = rng.integers(30, HEIGHT - 12), rng.integers(0, WIDTH - 20)
                    ids[top : top + 12, left : left + 20] = 26000 + instance
                labels = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
                image = (np.stack([labels, labels * 3, 255 - labels * 5], 2) + rng.integers(0, 9, (1, 1, 3))) % 256
                name = f"{town}_{number:06d}_000019"
                write_image(root / "leftImg8bit" / split / town / f"{name}_leftImg8bit.png", image.astype(np.uint8))
                truth = root / "gtFine" / split / town
                truth.mkdir(parents=True, exist_ok=True)
                Image.fromarray(labels).save(truth / f"{name}_gtFine_labelIds.png")
                Image.fromarray(ids.astype(np.uint16)).save(truth / f"{name}_gtFine_instanceIds.png")
    return root


def test_the_recipe_and_what_the_official_scripts_say_of_its_predictions(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = str(CONFIGS / "semantic" / "letnet_cityscapes.yaml"), tmp_path / "run"
    assert main(["train", config, f"data.path={tree}", *SMALL, "-o", str(run_dir)]) == 0
    model, report = str(run_dir / "best.safetensors"), tmp_path / "metrics.json"
    assert main(["eval", model, "--data", str(tree), "--workers", "0", "--json", str(report)]) == 0
    images = sorted(str(path) for path in (tree / "leftImg8bit" / "val").rglob("*.png"))
    assert main(["predict", model, *images, "--save", "ids", "-o", str(tmp_path / "found")]) == 0

    predictions = [str(tmp_path / "found" / "ids" / Path(image).name) for image in images]
    truths = [p.replace("leftImg8bit/", "gtFine/").replace("_leftImg8bit", "_gtFine_labelIds") for p in images]
    for name, value in {"evalInstLevelScore": False, "JSONOutput": False, "quiet": True, "evalLabels": []}.items():
        monkeypatch.setattr(official_settings, name, value)
    official = evaluateImgLists(predictions, truths, official_settings)
    measured = json.loads(report.read_text())
    # Prediction runs the folded network, so that a pixel on the fence may fall to the other side.
    assert measured["mIoU"] == pytest.approx(official["averageScoreClasses"], abs=2e-3)
    for name in (label.name for label in CLASSES):
        score = official["classScores"][name]
        assert measured.get(f"IoU/{name}", np.nan) == pytest.approx(score, abs=5e-3, nan_ok=True), name


def test_its_things_are_boxes_for_a_detector(tree: Path, tmp_path: Path) -> None:
    settings = ["model.backbone.width=0.125", "task.input.height=64", "task.input.width=128", *SMALL[4:]]
    config = str(CONFIGS / "detection" / "c2f_n.yaml")
    assert main(["train", config, f"data.path={tree}", *settings, "-o", str(tmp_path / "run")]) == 0
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "AP/car" in metrics
    assert "bicycle" in metrics["classes_without_truth"]

"""What ``pip install detseg-*.whl`` gives: a package that is whole, and works from any folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest

from detseg.runtime.media.images import write_image
from detseg.shipped import FOLDER, shipped_configs

REPOSITORY = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what is committed or not, but in a copy: building leaves files."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("detseg", "configs"):
        shutil.copytree(REPOSITORY / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "-w", folder, source], check=True, capture_output=True)
    (made,) = folder.glob("detseg-*.whl")
    return made


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel, and the packages of this one behind it."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    made = folder / "bin" / "python"
    install = [made, "-m", "pip", "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True)
    (site,) = (folder / "lib").glob("python*/site-packages")
    # A path alone, so that links to the checkout in there are not followed.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return made


def run(python: Path, folder: Path, *words: object) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "DETSEG_DATA")}
    command = [python, "-m", "detseg", *map(str, words)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def test_the_wheel_holds_the_configurations_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"detseg/configs/{path.relative_to(FOLDER)}" for path in FOLDER.rglob("*.yaml")} <= names
    assert "detseg/runtime/weights/released.yaml" in names
    assert "detseg/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"detseg", wheel.name.replace("-py3-none-any.whl", ".dist-info")}


def test_the_road_of_a_user(python: Path, tmp_path: Path) -> None:
    where = subprocess.run(
        [python, "-c", "import detseg; print(detseg.__file__)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(REPOSITORY) not in where.stdout
    assert all(name in run(python, tmp_path, "configs") for name in shipped_configs())
    write_image(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    small = ["--size", 64, "--device", "cpu", "data.num_workers=0", "train.num_threads=2"]
    (tmp_path / "data.yaml").write_text(
        "{format: shapes, image_size: 64, num_train: 8, num_val: 4, min_side: 16, max_side: 32}"
    )
    for name in ("c2f_n", "letnet"):
        run(python, tmp_path, "train", name, "--data", "data.yaml", "--epochs", 1, "--batch", 4, *small)
        model = f"runs/{name}"
        evaluate = ["eval", model, "--data", "data.yaml", "--device", "cpu", "--workers", 0, "--json", f"{name}.json"]
        run(python, tmp_path, *evaluate)
        assert json.loads((tmp_path / f"{name}.json").read_text())
        run(python, tmp_path, "predict", model, "a.png", "-o", f"found-{name}", "--device", "cpu")
        assert (tmp_path / f"found-{name}" / "a.png").is_file()
    run(python, tmp_path, "export", "runs/c2f_n", "-o", "c2f_n.onnx")
    run(python, tmp_path, "predict", "c2f_n.onnx", "a.png", "-o", "found-onnx")
    assert (tmp_path / "found-onnx" / "detections.json").is_file()
    run(python, tmp_path, "train", "runs/c2f_n", "--data", "data.yaml", "--epochs", 1, *small[2:])
    assert (tmp_path / "runs" / "c2f_n-2" / "best.safetensors").is_file()

"""Whatever a user can cause is one line and exit code 2, without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detseg.cli.errors import EXTRAS, explain, in_options
from detseg.cli.verbs import EXIT_USER_ERROR, main
from detseg.data.loading.worker_pool import WorkerDiedError
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.detector import DetectorConfig
from detseg.models.letnet import LETNetConfig
from detseg.models.vnet import VNetConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.media.images import write_image
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.model_file import ModelFileConfig, save_model_file
from detseg.tasks.semantic import SemanticTaskConfig
from detseg.tasks.volume import VolumeTaskConfig

REPOSITORY = Path(__file__).parents[2]
TINY = """
model: {name: detector, backbone: {name: csp_darknet, width: 0.125}}
task: {name: detection, input: {height: 64, width: 64}}
data: {path: shapes, num_workers: 0}
train: {epochs: 1, batch_size: 4, num_threads: 1, device: cpu}
"""
MODELS: dict[str, tuple[Any, Any]] = {
    "boxes": (DetectorConfig(backbone=CSPDarknetConfig(width=0.125)), DetectionTaskConfig(input=InputSpec(64, 64))),
    "masks": (LETNetConfig(), SemanticTaskConfig(input=InputSpec(64, 64))),
    "volumes": (VNetConfig(), VolumeTaskConfig()),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of all kinds that have learned nothing, an image, a configuration, and files that are none of these."""
    folder = tmp_path_factory.mktemp("wrong")
    for name, (model, task) in MODELS.items():
        config = ModelFileConfig(model, task, ("left", "right"), (1, 2))
        save_model_file(folder / f"{name}.safetensors", config.build()[0].state_dict(), config)
    write_image(folder / "a.png", np.zeros((32, 32, 3), np.uint8))
    (folder / "empty").mkdir()
    files = {
        "tiny.yaml": TINY.encode(),
        "open.yaml": b"a: [1",
        "list.yaml": b"- 1",
        "null.yaml": b"",
        "binary.yaml": b"\xff\xfe\0",
        "fake.safetensors": b"123",
        "fake.onnx": b"123",
        "fake.pt": b"PK",
        "text.txt": b"x",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


PREDICT = "predict boxes.safetensors a.png --device cpu -o out"
EVAL = "eval boxes.safetensors --data shapes --device cpu --workers 0"
WRONG = {
    "check": [
        "empty", "a.png", "open.yaml", "list.yaml", "null.yaml", "binary.yaml", "nowhere", "''", "LONG", "NUL",
        "shapes --format nope", "shapes --format coco", "shapes --fast --json empty",
        "shapes --fast --preview out --config nowhere.yaml", "shapes --fast --preview out --config open.yaml",
    ],
    "split": [
        "empty -o out", "nowhere -o out", "shapes -o out", "shapes --ratios a:b -o out", "shapes --ratios '' -o out",
        "shapes --ratios 0:0 -o out", "shapes --ratios nan:1 -o out", "shapes --folds 0 -o out", "shapes -o a.png",
        "shapes --folds 3 --ratios 1:1 -o out", "shapes --seed x -o out",
    ],
    "train": [
        "", "open.yaml", "list.yaml", "null.yaml", "binary.yaml", "a.png", "empty", "nowhere.yaml", "--resume empty",
        "--resume a.png", "tiny.yaml data.path=empty", "tiny.yaml data.path=", "tiny.yaml train.epochs=[1",
        "tiny.yaml train.batch_size=0", "tiny.yaml train.weights=a.png", "tiny.yaml train.weights=empty",
        "tiny.yaml train.optimizer=x", "tiny.yaml train.optimizer.learning_rate=nan", "tiny.yaml model.name=nope",
        "tiny.yaml model.backbone.width=0", "tiny.yaml model.backbone.width=1e9", "tiny.yaml task.input.height=7",
        "tiny.yaml data.num_workers=-1", "tiny.yaml augment=5", "tiny.yaml =5", "tiny.yaml train.seed=-1",
        "tiny.yaml train.num_threads=-2", "tiny.yaml data.format=nope",
    ],
    "eval": [
        "boxes.safetensors", "nowhere --data shapes", "a.png --data shapes", "fake.safetensors --data shapes",
        "fake.onnx --data shapes", "boxes.safetensors --data empty", "tiny.yaml --weights a.png --data shapes",
        "tiny.yaml --weights masks.safetensors --data shapes", "masks.safetensors --data shapes",
        "masks.safetensors --data shapes --conf 0.5", "masks.safetensors --data shapes --scales 0",
        "masks.safetensors --data shapes --window 0x0", "masks.safetensors --data shapes --overlap 1",
        "volumes.safetensors --data blobs --size 32x32",
        *(f"{EVAL[5:]} {more}" for more in (
            "--split nope", "--batch-size 0", "--workers -1", "--conf 2", "--iou -1", "--max-det 0", "--size 7x7",
            "--flip", "--weights boxes.safetensors",
        )),
    ],
    "predict": [
        "boxes.safetensors nowhere.png", "boxes.safetensors empty", "boxes.safetensors text.txt",
        "boxes.safetensors ''",
        "boxes.safetensors NUL", "boxes.safetensors LONG", "boxes.safetensors http://x/a", "boxes.safetensors '*.nope'",
        "boxes.safetensors ftp://x/a --allow-url", "boxes.safetensors %04d.png", "a.png a.png", "fake.onnx a.png",
        "fake.safetensors a.png", "empty a.png", "fake.pt a.png", "'' a.png", "NUL a.png",
        "masks.safetensors a.png --track", "masks.safetensors a.png --conf 0.5", "volumes.safetensors a.png",
        "volumes.safetensors empty", "volumes.safetensors 0", "volumes.safetensors a.png --track",
        "boxes.safetensors a.png -o a.png", "boxes.safetensors a.png -o ''",
        *(f"{PREDICT[8:]} {more}" for more in (
            "--save nope", "--save ''", "--batch-size 0", "--precision x", "--threads 0", "--classes nope",
            "--classes ''", "--line-width 0", "--line-width -5", "--every 0", "--start 5 --end 2", "--start x",
            "--fps 0 --save video", "--fps nan --save video", "--size 7x7", "--size 100000x100000", "--conf nan",
            "--window 32x32", "--scales 0", "--scales x", "--overlap 0.3", "--tiles 8", "--tiles 64 --overlap 0.95",
        )),
    ],
    "export": [
        "a.png", "nowhere", "fake.safetensors", "fake.onnx", "boxes.safetensors -o out.txt",
        "boxes.safetensors -o out.onnx --precision int8", "boxes.safetensors -o out.onnx --calibrate shapes",
        "boxes.safetensors -o out.onnx --verify empty", "boxes.safetensors -o out.onnx --size 7x7",
        "masks.safetensors -o out.onnx --nms", "masks.safetensors -o out.onnx --raw",
        "volumes.safetensors -o out.onnx --size 8x8", "boxes.safetensors -o out.onnx --conf 7",
    ],
    "convert": [
        "nowhere.pt -o out.safetensors", "fake.pt -o out.safetensors", "text.txt -o out.safetensors",
        "fake.onnx -o out.safetensors", "empty -o out.safetensors", "fake.pt -o out.txt",
        "fake.pt -o out.safetensors --config open.yaml",
    ],
    "download": ["nope", "''", "detseg_n_shapes --url nope --to out", "--url https://localhost:1"],
}  # fmt: skip


def words_of(text: str) -> list[str]:
    special = {"''": "", "NUL": "a\0b", "LONG": "x" * 5000}
    return [special.get(word, word.strip("'")) for word in text.split()]


@pytest.mark.parametrize("verb", WRONG)
def test_no_traceback_for_wrong_arguments(
    verb: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(path.name for path in folder.iterdir())
    for case in WRONG[verb]:
        try:
            code: Any = main([verb, *words_of(case)])
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        assert code == EXIT_USER_ERROR, case
        assert f"detseg {verb}: " in said.err, case
        assert "Traceback" not in said.err, case
    left = [name for name in sorted(path.name for path in folder.iterdir()) if name not in before]
    assert [name for name in left if name not in ("out", "runs")] == []


class OutOfMemoryError(RuntimeError):
    """As torch's."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("epochs must be 1"), "epochs must be 1"),
        (FileNotFoundError(2, "No such file or directory", "x"), "x: No such file or directory"),
        (FileExistsError(17, "File exists", b"x"), "x: File exists"),
        (BrokenPipeError(32, "Broken pipe"), "was closed before all was written"),
        (RuntimeError("Could not determine home directory."), "there is no home folder, which ~ stands for: set HOME"),
        (ModuleNotFoundError("No module named 'PIL'", name="PIL"), "pip install 'detseg[train]'"),
        (ModuleNotFoundError("No module named 'av.codec'", name="av.codec"), "needs av, .* 'detseg[video]'"),
        (ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript"), "'detseg[export]'"),
        (ModuleNotFoundError("No module named 'what'", name="what"), "No module named 'what'"),
        (ModuleNotFoundError("running .onnx files needs ONNX Runtime", name="x"), "needs ONNX Runtime"),
        (ImportError("libcuda.so.1: cannot open shared object file"), "libcuda.so.1"),
        (MemoryError("Unable to allocate 8.00 GiB"), "not enough memory: Unable to allocate"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "there is not enough memory"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee"), "20.00 GiB. Take fewer or smaller"),
        (RuntimeError("CUDA error: invalid device ordinal\nCUDA kernel errors"), "CUDA error: invalid device ordinal"),
        (RuntimeError("Found no NVIDIA driver on your system. Please"), "Found no NVIDIA driver"),
        (AssertionError("Torch not compiled with CUDA enabled"), "not compiled with CUDA"),
        (RuntimeError("Invalid device string: 'nope'"), "device string: 'nope'"),
        (WorkerDiedError("a data loading worker was ended by SIGKILL"), "was ended by SIGKILL"),
    ],
)  # fmt: skip
def test_what_is_explained(error: Exception, words: str) -> None:
    line = explain(error)
    assert line is not None
    assert all(part in line for part in words.split(" .* "))
    assert "\n" not in line


@pytest.mark.parametrize(
    "error",
    [
        KeyError("x"),
        TypeError("x"),
        AssertionError(),
        RuntimeError("dictionary changed size during iteration"),
        ModuleNotFoundError("No module named 'detseg.nowhere'", name="detseg.nowhere"),
    ],
)
def test_our_own_faults_keep_their_traceback(error: Exception) -> None:
    assert explain(error) is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("max_detections must be at least 1, got 0", "--max-det must be at least 1, got 0"),
        ("a.onnx: confidence must lie between 0 and 1", "a.onnx: --conf must lie between 0 and 1"),
        ("in the graph, so confidence, iou cannot be changed", "in the graph, so --conf, iou cannot be changed"),
        ("has no setting confidence; its settings are", "has no setting --conf; its settings are"),
        ("num_threads must be 1", "--threads must be 1"),
        ("what scores below confidence 0.3", "what scores below confidence 0.3"),
        (
            "train.batch_size: or batch_size=2 or in/batch_size.png",
            "train.batch_size: or batch_size=2 or in/batch_size.png",
        ),
    ],
)
def test_messages_name_options(line: str, said: str) -> None:
    assert in_options(line) == said


def test_a_link_that_leads_to_itself_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = folder / "loop"
    loop.symlink_to("loop")
    words = {
        "predict": [str(folder / "boxes.safetensors"), str(folder / "a.png"), "-o", str(loop), "--device", "cpu"],
        "check": ["shapes", "--fast", "--json", str(loop)],
        "train": ["c2f_n", "--data", str(loop), "-o", str(folder / "out")],
    }
    for verb, rest in words.items():
        assert main([verb, *rest]) == EXIT_USER_ERROR
        assert f"detseg {verb}: " in capsys.readouterr().err
    loop.unlink()


def test_an_option_is_called_as_it_was_given(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--max-det", "--threads"):
        words = [str(folder / "boxes.safetensors"), str(folder / "a.png"), "-o", str(folder / "out"), option, "0"]
        assert main(["predict", *words, "--device", "cpu"]) == EXIT_USER_ERROR
        assert f"{option} must be at least 1, got 0" in capsys.readouterr().err


def test_errors_of_torch_and_onnx_runtime_are_explained(folder: Path) -> None:
    import onnxruntime

    calls: list[Callable[[], Any]] = [
        lambda: torch.device("nope"),
        lambda: onnxruntime.InferenceSession(str(folder / "fake.onnx"), providers=["CPUExecutionProvider"]),
        lambda: torch.empty(1 << 60),
    ]
    for call in calls:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - of whatever class they are
            call()
        assert explain(caught.value), caught.value


def test_every_package_of_an_extra_is_known() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    imports = {"pillow": "PIL", "faster-coco-eval": "faster_coco_eval", "python-multipart": "python_multipart"}
    for extra, packages in EXTRAS.items():
        names = [line.split(">")[0].split("=")[0] for line in project["optional-dependencies"][extra]]
        assert set(packages) - {imports.get(name, name) for name in names} == set(), extra
        assert {imports.get(name, name) for name in names} - set(packages) == set(), extra


WITHOUT = """
import sys
from importlib.machinery import PathFinder

class WithoutExtras(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        missing = name.partition(".")[0] in sys.argv[1].split(",")
        return None if missing else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutExtras
from detseg.cli import main
for line in sys.stdin.read().splitlines():
    print(main(line.split()))
"""


def test_the_base_install_says_what_is_missing(folder: Path) -> None:
    """Without any of the extras: one line each, which names the extra."""
    missing = ",".join(name for packages in EXTRAS.values() for name in packages)
    lines = ["check shapes", "train tiny.yaml", "eval fake.onnx --data shapes", "predict boxes.safetensors a.png",
             "export boxes.safetensors", "convert fake.pt -o out.safetensors", "download"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, missing],
        input="\n".join(lines), capture_output=True, text=True, cwd=folder, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    codes = [line for line in done.stdout.splitlines() if line.isdigit()]
    assert codes == ["2"] * 6 + ["0"], done.stderr
    said = done.stderr.splitlines()
    assert len(said) == 6
    assert all("pip install 'detseg[" in line for line in said)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
@pytest.mark.parametrize("arguments", [["download"], ["check", "shapes", "--fast"]])
def test_a_closed_pipe_is_one_line(arguments: Sequence[str], folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "detseg", *arguments],
        stdout=writer, stderr=subprocess.PIPE, text=True, cwd=folder, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, timeout=240,
    )  # fmt: skip
    os.close(writer)
    assert done.returncode == EXIT_USER_ERROR
    assert done.stderr == f"detseg {arguments[0]}: what it wrote to was closed before all was written\n"

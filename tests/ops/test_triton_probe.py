"""What happens on a GPU where Triton cannot run, as in containers without a C compiler, tried without a GPU."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from detseg.ops import triton_probe
from detseg.ops.kernels import probe
from detseg.ops.nms import batched_nms
from detseg.ops.triton_probe import choose_nms_backend, why_no_triton

CUDA = torch.device("cuda", 0)
NO_COMPILER = "Failed to find C compiler. Please specify via CC environment variable or set\ntriton.knobs.build.impl."


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    triton_probe.why_no_triton.cache_clear()
    triton_probe.warn_without_triton.cache_clear()
    yield
    triton_probe.why_no_triton.cache_clear()
    triton_probe.warn_without_triton.cache_clear()


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(device: torch.device) -> bool:
        raise RuntimeError(NO_COMPILER)

    monkeypatch.setattr(probe, "launch_probe", launch)


def test_the_probe_runs_in_the_interpreter(pytestconfig: pytest.Config) -> None:
    """On tensors of the CPU, which only the interpreter takes."""
    program = (
        "import torch; from detseg.ops.kernels.probe import launch_probe; assert launch_probe(torch.device('cpu'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"TRITON_INTERPRET": "1", "PATH": "/nonexistent"},
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_missing_compiler_is_told_in_one_line(no_compiler: None) -> None:
    reason = why_no_triton(CUDA)
    assert reason is not None
    assert reason.startswith("RuntimeError: Failed to find C compiler")
    assert "\n" not in reason


@pytest.mark.parametrize("error", [OSError("no gcc"), subprocess.CalledProcessError(1, "gcc")])
def test_what_compilers_raise_is_a_reason(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def launch(device: torch.device) -> bool:
        raise error

    monkeypatch.setattr(probe, "launch_probe", launch)
    assert type(error).__name__ in (why_no_triton(CUDA) or "")


def test_a_missing_triton_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton.errors", None)
    assert "cannot be imported" in (why_no_triton(CUDA) or "")


def test_auto_takes_torchvision_and_says_so_once(no_compiler: None) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert [choose_nms_backend("auto", CUDA) for _ in range(3)] == ["torchvision"] * 3
    (one,) = said
    text = str(one.message)
    assert "\n" not in text
    assert "without Triton's kernels on cuda:0 (RuntimeError: Failed to find C compiler" in text
    assert "by torchvision" in text
    assert "install triton and a C compiler" in text


def test_asked_for_by_name_it_is_an_error_that_names_the_way_out(no_compiler: None) -> None:
    with pytest.raises(ValueError, match=r"nms_backend detseg .*C compiler.*take nms_backend auto or torchvision"):
        choose_nms_backend("detseg", CUDA)


def test_where_triton_runs_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "launch_probe", lambda device: True)
    assert [choose_nms_backend(name, CUDA) for name in ("auto", "detseg", "torchvision")] == [
        "detseg", "detseg", "torchvision",
    ]  # fmt: skip


def test_on_the_cpu_nothing_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_probe, "why_no_triton", lambda device: pytest.fail("asked for Triton"))
    cpu = torch.device("cpu")
    assert choose_nms_backend("auto", cpu) == choose_nms_backend("detseg", cpu) == "detseg"
    boxes, scores = torch.tensor([[[0.0, 0, 8, 8]]]), torch.tensor([[[0.9]]])
    ways: tuple[Any, ...] = ("auto", "detseg", "torchvision")
    found = [batched_nms(boxes, scores, confidence=0.5, iou=0.5, backend=way).detections for way in ways]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])

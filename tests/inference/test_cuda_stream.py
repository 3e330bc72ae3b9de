"""What needs a GPU: run with TRITON_INTERPRET=0 on a machine that has one."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch

from detseg.inference.cuda_stream import CudaStream
from detseg.inference.load import make_runner
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.detector import DetectorConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.postprocess.config import PostprocessConfig
from detseg.runtime.runner import predict_frames
from detseg.runtime.sources.frames import Frame
from detseg.structures import Detections
from detseg.tasks.detection import DetectionTaskConfig

pytestmark = pytest.mark.skipif(
    os.environ["TRITON_INTERPRET"] == "1" or not torch.cuda.is_available(), reason="needs a GPU and TRITON_INTERPRET=0"
)


def test_a_captured_program_runs_again_on_new_data() -> None:
    stream = CudaStream(torch.device("cuda"))
    numbers = torch.arange(4.0, device="cuda")
    again, squares = stream.capture(lambda: numbers**2)
    stream.put(lambda: numbers.copy_(torch.tensor([5.0, 6.0, 7.0, 8.0]).pin_memory(), non_blocking=True))
    stream.put(again)
    assert stream.finish(lambda: squares.cpu().tolist()) == [25, 36, 49, 64]


def test_what_waits_for_the_host_is_no_graph_and_says_so() -> None:
    stream = CudaStream(torch.device("cuda"))
    numbers = torch.arange(4.0, device="cuda")
    with pytest.raises(RuntimeError, match=r"cannot be captured in a CUDA graph.*cuda_graph=False"):
        stream.capture(lambda: numbers[numbers > 1])
    assert numbers.sum().item() == 6, "the GPU goes on"


@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1.0), ("fp16", 2.0)])
def test_the_graph_gives_what_the_eager_runner_gives(precision: Any, atol: float) -> None:
    torch.manual_seed(0)
    model = DetectorConfig(backbone=CSPDarknetConfig(width=0.125)).build(num_classes=3).eval()
    settings = PostprocessConfig(confidence=0.001, max_detections=20)
    task = DetectionTaskConfig(input=InputSpec(64, 64), postprocess=settings).build(model, ("a", "b", "c"))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40 + 8 * number, 100, 3), np.uint8) for number in range(11)]
    runners = [make_runner(model, task, "cuda", precision, cuda_graph=in_graph) for in_graph in (True, False)]
    found = [[result for _, result in predict_frames(runner, map(Frame, images), 4)] for runner in runners]
    for one, other in zip(*found, strict=True):
        assert isinstance(one, Detections)
        assert isinstance(other, Detections)
        assert len(one) == len(other) == 20
        np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-3 * atol)
        np.testing.assert_allclose(one.boxes_xyxy[:1], other.boxes_xyxy[:1], rtol=0, atol=atol)

"""Files through the runner give what torch gives with the same network, end to end."""

from __future__ import annotations

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import detseg
from detseg.config import to_dict
from detseg.losses.segmentation import SegmentationLossConfig
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.detector import Detector, DetectorConfig
from detseg.ops.nms import batched_nms
from detseg.runtime.inputs.geometry import InputSpec, fitted
from detseg.runtime.inputs.volume_geometry import VolumeSpec
from detseg.runtime.onnx.file import OnnxFileError
from detseg.runtime.onnx.model import OnnxModel
from detseg.runtime.onnx.runner import MAX_STREAMS, OnnxRunner
from detseg.runtime.postprocess.config import InfererConfig, PostprocessConfig, WindowsConfig
from detseg.runtime.runner import predict_frames
from detseg.runtime.sources.frames import Frame
from detseg.runtime.tracking.tracker import TrackerConfig
from detseg.structures import Detections
from detseg.tasks.detection import DetectionTask, DetectionTaskConfig
from detseg.tasks.model_file import ModelFileConfig, save_model_file
from detseg.tasks.semantic import SemanticTaskConfig
from detseg.tasks.volume import VolumeTaskConfig
from detseg.volumes import Volume

CLASSES = ("cat", "dog", "hen")
STRIDES = (8, 16, 32)
SPEC = InputSpec(64, 96, mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0), channel_order="bgr")
CHANNELS = 64 + len(CLASSES)

RAW_GRAPH = """raw_maps (float[batch, 3, h, w] images) => (float[batch, channels, anchors] raw)
<int64[3] flat = {0, 0, -1}> {
    a = Conv <strides = [8, 8], kernel_shape = [8, 8]> (images, w8)
    b = Conv <strides = [16, 16], kernel_shape = [16, 16]> (images, w16)
    c = Conv <strides = [32, 32], kernel_shape = [32, 32]> (images, w32)
    d = Reshape (a, flat)
    e = Reshape (b, flat)
    f = Reshape (c, flat)
    raw = Concat <axis = 2> (d, e, f)
}"""
DECODED_GRAPH = """decoded (float[batch, 3, h, w] images) =>
    (float[batch, anchors, 4] boxes, float[batch, anchors, 3] scores)
<int64[3] flat = {0, 0, -1}> {
    a = Conv <strides = [8, 8], kernel_shape = [8, 8]> (images, w)
    d = Reshape (a, flat)
    e = Transpose <perm = [0, 2, 1]> (d)
    boxes, logits = Split <axis = 2> (e, sizes)
    scores = Sigmoid (logits)
}"""
NMS_GRAPH = """final (float[batch, 3, h, w] images) =>
    (float[2, 2, 4] boxes, float[2, 2] scores, int64[2, 2] labels, int64[2] counts) {
    boxes = Identity (b)
    scores = Identity (s)
    labels = Identity (l)
    counts = Identity (n)
}"""


def conv_weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    return {
        f"w{stride}": random.normal(0, 2.0 / stride, (CHANNELS, 3, stride, stride)).astype(np.float32)
        for stride in STRIDES
    }


def metadata_of(task: Any, **entries: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "version": "0.1",
        "task": task.name,
        "form": "logits",
        "class_names": list(task.class_names),
        "category_ids": list(task.category_ids),
        "input": to_dict(task.spec),
        "stride": task.stride,
        "precision": "fp32",
        "postprocess": to_dict(task.config.postprocess),
        **entries,
    }


def detection_task(**postprocess: Any) -> DetectionTask:
    with torch.device("meta"):
        detector: Detector = DetectorConfig().build(len(CLASSES))
    settings = PostprocessConfig(**{"confidence": 0.6, "iou": 0.5, **postprocess})
    return DetectionTaskConfig(input=SPEC, postprocess=settings).build(detector, CLASSES, (3, 5, 9))


def detection_metadata(task: DetectionTask, form: str) -> dict[str, Any]:
    head = {"kind": task.head.kind, "reg_max": task.head.reg_max, "strides": list(task.head.strides)}
    return metadata_of(task, form=form, head=head)


def some_image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), dtype=np.uint8)


IMAGES = [some_image(*size) for size in ((64, 96), (100, 80), (33, 200), (7, 9), (128, 192))]


def in_torch(task: Any, model: nn.Module, images: list[Any]) -> list[Any]:
    placed = [task.spec.place(image) for image in images]
    with torch.inference_mode():
        inputs = task.normalize(torch.from_numpy(np.stack([array for array, _ in placed])))
        results: list[Any] = task.results(task.infer(model, inputs), [transform for _, transform in placed])
    return results


class RawMaps(nn.Module):
    def forward(self, images: Tensor) -> list[Tensor]:
        return [F.conv2d(images, torch.from_numpy(conv_weights()[f"w{s}"]), stride=s) for s in STRIDES]


def assert_same_boxes(found: Detections, expected: Detections) -> None:
    assert np.array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=2e-3)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"multi_label": False}, {"class_agnostic": True, "max_detections": 5}])
def test_raw_maps(save_onnx: Any, changes: dict[str, Any]) -> None:
    task = detection_task(**changes)
    path = save_onnx(RAW_GRAPH, conv_weights(), detection_metadata(task, "raw"))
    runner = OnnxRunner(OnnxModel(path, num_threads=1))
    expected = in_torch(task, RawMaps(), IMAGES)
    assert min(len(one) for one in expected) > 3
    for batch in (IMAGES, IMAGES[::-1]):
        found = runner.submit(batch).results()
        for one, other in zip(found, expected if batch is IMAGES else expected[::-1], strict=True):
            assert_same_boxes(one, other)
    for image, other in zip(IMAGES, expected, strict=True):
        (one,) = runner.submit([image]).results()
        assert_same_boxes(one, other)


def test_decoded_boxes(save_onnx: Any) -> None:
    task = detection_task()
    weights = np.random.default_rng(4).normal(0, 0.1, (7, 3, 8, 8)).astype(np.float32)
    sizes = np.array([4, 3])
    path = save_onnx(DECODED_GRAPH, {"w": weights, "sizes": sizes}, detection_metadata(task, "decoded"))
    found = OnnxRunner(OnnxModel(path, num_threads=1)).submit(IMAGES).results()
    for image, one in zip(IMAGES, found, strict=True):
        array, transform = task.spec.place(image)
        maps = F.conv2d(task.normalize(torch.from_numpy(array[None].copy())), torch.from_numpy(weights), stride=8)
        flat = maps.flatten(2).transpose(1, 2)
        best = batched_nms(flat[..., :4], flat[..., 4:].sigmoid(), confidence=0.6, iou=0.5, multi_label=True)
        (expected,) = task.results((best.detections, best.counts), [transform])
        assert len(expected) > 3
        assert_same_boxes(one, expected)


def nms_file(save_onnx: Any, task: DetectionTask, **changes: np.ndarray) -> Path:
    boxes = np.array([[[0, 0, 96, 64], [0, 0, 0, 0]], [[9.6, 6.4, 48, 32], [48, 32, 96, 64]]], np.float32)
    scores = np.array([[0.9, 0], [0.8, 0.7]], np.float32)
    values = {"b": boxes, "s": scores, "l": np.array([[2, 0], [0, 1]]), "n": np.array([1, 2]), **changes}
    return save_onnx(NMS_GRAPH, values, detection_metadata(task, "nms"))


def test_suppression_in_the_graph(save_onnx: Any) -> None:
    runner = OnnxRunner(OnnxModel(nms_file(save_onnx, detection_task()), num_threads=1))
    images = [some_image(640, 960), some_image(64, 96)]
    first, second = runner.submit(images).results()
    assert first.boxes_xyxy.tolist() == [[0, 0, 960, 640]]
    assert (first.scores.tolist(), first.labels.tolist()) == ([pytest.approx(0.9)], [2])
    np.testing.assert_allclose(second.boxes_xyxy, [[9.6, 6.4, 48, 32], [48, 32, 96, 64]], rtol=1e-6)
    assert second.labels.tolist() == [0, 1]


def test_an_error_in_the_thread_comes_with_the_results(save_onnx: Any) -> None:
    path = nms_file(save_onnx, detection_task(), l=np.array([[3, 0], [0, 1]]))
    runner = OnnxRunner(OnnxModel(path, num_threads=1))
    pending = runner.submit([some_image(64, 96)] * 2)
    with pytest.raises(ValueError, match="labels from 3 to 3 for 3 classes"):
        pending.results()
    with pytest.raises(ValueError, match="labels from 3 to 3"):
        runner.submit([some_image(64, 96)] * 2).results()


def test_settings_can_be_replaced(save_onnx: Any) -> None:
    task, other = detection_task(), detection_task(confidence=0.8, max_detections=4)
    model = OnnxModel(save_onnx(RAW_GRAPH, conv_weights(), detection_metadata(task, "raw")), num_threads=1)
    (found,) = OnnxRunner(model, {"confidence": 0.8, "max_detections": 4}).submit(IMAGES[:1]).results()
    (expected,) = in_torch(other, RawMaps(), IMAGES[:1])
    assert len(expected) == 4
    assert_same_boxes(found, expected)
    with pytest.raises(ValueError, match="the task detection has no setting conf; its settings are confidence, iou"):
        OnnxRunner(model, {"conf": 0.5})
    with pytest.raises(ValueError, match="confidence must lie between 0 and 1, got 5"):
        OnnxRunner(model, {"confidence": 5})
    in_graph = OnnxModel(nms_file(save_onnx, task), num_threads=1)
    with pytest.raises(ValueError, match="NMS is part of the graph, so confidence, iou cannot be changed"):
        OnnxRunner(in_graph, {"confidence": 0.55, "iou": 0.45})
    # What the graph does anyway may be asked for.
    OnnxRunner(in_graph, {"confidence": task.config.postprocess.confidence})


def test_another_size_of_the_input(save_onnx: Any) -> None:
    task = detection_task()
    model = OnnxModel(save_onnx(RAW_GRAPH, conv_weights(), detection_metadata(task, "raw")), num_threads=1)
    runner = OnnxRunner(model, size=(32, 64))
    assert (runner.spec.height, runner.spec.width) == (32, 64)  # type: ignore[union-attr]
    task.spec = runner.spec  # type: ignore[assignment]
    (found,) = runner.submit(IMAGES[:1]).results()
    (expected,) = in_torch(task, RawMaps(), IMAGES[:1])
    assert_same_boxes(found, expected)
    with pytest.raises(ValueError, match="height and width must be multiples of"):
        OnnxRunner(model, size=(33, 64))


def test_an_input_that_fits_the_image(save_onnx: Any) -> None:
    task = detection_task()
    path = save_onnx(RAW_GRAPH, conv_weights(), detection_metadata(task, "raw"))
    runner = OnnxRunner(OnnxModel(path, num_threads=1), full_input=False)
    task.spec = fitted(SPEC, task.stride)
    assert runner.spec == task.spec
    images = [some_image(*size) for size in ((64, 40), (33, 200), (128, 192), (7, 30), (70, 10))]
    sizes = set()
    for image in images * 2:  # again, in memory that a larger or smaller input had
        (found,) = runner.submit([image]).results()
        (expected,) = in_torch(task, RawMaps(), [image])
        assert_same_boxes(found, expected)
        sizes.add(task.spec.input_size(*image.shape[:2]))
    assert len(sizes) > 2
    with pytest.raises(ValueError, match="a batch takes images whose inputs have one size"):
        runner.submit(images[:2])


@pytest.mark.parametrize("kept", [[True, False, False], [False, True, True], [True, True, True], [False] * 3])
def test_classes_are_chosen_before_the_limit(save_onnx: Any, kept: list[bool]) -> None:
    chosen, limit = np.array(kept), 4
    path = save_onnx(RAW_GRAPH, conv_weights(), detection_metadata(detection_task(max_detections=limit), "raw"))
    runner = OnnxRunner(OnnxModel(path, num_threads=1))
    everything = in_torch(detection_task(max_detections=1000), RawMaps(), IMAGES)
    assert all(kept) or not all(chosen[one.labels[:limit]].all() for one in everything), "the limit comes too late"
    for image, one in zip(IMAGES, everything, strict=True):
        (found,) = runner.submit([image], chosen).results()
        assert_same_boxes(found, one.select(np.flatnonzero(chosen[one.labels])[:limit]))
    (found,) = runner.submit(IMAGES[:1]).results()
    assert_same_boxes(found, everything[0].select(np.arange(limit)))


def test_with_suppression_in_the_graph_a_used_up_limit_is_named(save_onnx: Any) -> None:
    runner = OnnxRunner(OnnxModel(nms_file(save_onnx, detection_task()), num_threads=1))
    images = [some_image(640, 960), some_image(64, 96)]
    with pytest.warns(UserWarning, match="gave the 2 best objects of all classes, as many as it can, before dog were"):
        first, second = runner.submit(images, np.array([False, True, False])).results()
    assert (first.labels.tolist(), second.labels.tolist()) == ([], [1])
    few = OnnxRunner(OnnxModel(nms_file(save_onnx, detection_task(), n=np.array([1, 1])), num_threads=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = few.submit(images, np.array([True, False, False])).results()
        assert (first.labels.tolist(), second.labels.tolist()) == ([], [0])
        runner.submit(images).results()


def test_files_with_suppression_in_the_graph_can_track(save_onnx: Any) -> None:
    """Their confidence, 0.6, stays; one that is asked for is left to the tracker where it can be."""
    path = nms_file(save_onnx, detection_task())
    track = TrackerConfig(high_score=0.75, low_score=0.1, new_score=0.75)
    images = [some_image(640, 960), some_image(64, 96)] * 2  # the file takes two at a time
    for settings in ({}, {"confidence": 0.75}):
        model = detseg.load(path, track=track, **settings)
        found: Any = [prediction.result for prediction in model.predict(images, batch_size=2, track=track)]
        assert [np.round(one.scores.astype(float), 2).tolist() for one in found] == [[0.9], [0.8], [0.9], [0.8]]
    with pytest.raises(ValueError, match="NMS is part of the graph, so confidence cannot be changed"):
        detseg.load(path, track=track, confidence=0.5)
    with pytest.raises(ValueError, match="so confidence cannot be changed"):
        detseg.load(path, confidence=0.75)


def test_boxes_only_can_be_followed(save_onnx: Any) -> None:
    raw = save_onnx(RAW_GRAPH, conv_weights(), detection_metadata(detection_task(), "raw"))
    runner: Any = detseg.load(raw, track=TrackerConfig(), confidence=0.6).runner
    assert runner._metadata.postprocess.confidence == TrackerConfig().low_score
    masks = save_onnx(mask_graph(), {"w": Smoothing(2, 3, 3).weights}, metadata_of(mask_task()))
    with pytest.raises(ValueError, match="only boxes can be tracked, this model is for semantic; leave tracking out"):
        detseg.load(masks, track=TrackerConfig())


def test_where_the_input_cannot_fit_the_image(save_onnx: Any) -> None:
    fixed = RAW_GRAPH.replace("batch, 3, h, w", "batch, 3, 64, 96")
    assert fixed != RAW_GRAPH
    model = OnnxModel(save_onnx(fixed, conv_weights(), detection_metadata(detection_task(), "raw")), num_threads=1)
    with pytest.raises(ValueError, match="takes inputs of 64x96 only, and full_input is False; export the model again"):
        OnnxRunner(model, full_input=False)
    path = save_onnx(mask_graph(), {"w": Smoothing(2, 3, 3).weights}, metadata_of(mask_task()))
    masks = OnnxModel(path, num_threads=1)
    with pytest.raises(ValueError, match="full_input can be False for boxes only, this model is for semantic"):
        OnnxRunner(masks, full_input=False)


def test_what_a_runner_says_of_itself(save_onnx: Any) -> None:
    path = save_onnx(RAW_GRAPH, conv_weights(), detection_metadata(detection_task(), "raw"))
    runner = OnnxRunner(OnnxModel(path, num_threads=1))
    assert (runner.spec, runner.task_name) == (SPEC, "detection")
    assert (runner.class_names, runner.category_ids) == (CLASSES, (3, 5, 9))
    with pytest.raises(ValueError, match="at least one image, got none"):
        runner.submit([])
    with pytest.raises(ValueError, match="image must be HxWx3 uint8"):
        runner.submit([np.zeros((4, 4), np.uint8)])


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_batches_overlap_and_memory_is_used_again(save_onnx: Any, batch_size: int) -> None:
    task = detection_task()
    path = save_onnx(RAW_GRAPH, conv_weights(), detection_metadata(task, "raw"))
    runner = OnnxRunner(OnnxModel(path, num_threads=1))
    expected = in_torch(task, RawMaps(), IMAGES)
    frames = [Frame(image) for image in IMAGES * 4]
    found = list(predict_frames(runner, frames, batch_size))
    assert len(found) == 20
    for number, (frame, result) in enumerate(found):
        assert frame.image is IMAGES[number % 5]
        assert_same_boxes(result, expected[number % 5])


def test_handing_in_too_much_waits_instead_of_mixing_images(save_onnx: Any) -> None:
    task = detection_task()
    path = save_onnx(RAW_GRAPH, conv_weights(), detection_metadata(task, "raw"))
    runner = OnnxRunner(OnnxModel(path, num_threads=1))
    pending = [runner.submit([image]) for image in IMAGES]
    for one, other in zip(pending, in_torch(task, RawMaps(), IMAGES), strict=True):
        assert_same_boxes(one.results()[0], other)
        assert one.results() is one.results()


def test_what_nobody_asks_for_and_what_fails_holds_nothing_up(save_onnx: Any) -> None:
    path = save_onnx(RAW_GRAPH, conv_weights(), detection_metadata(detection_task(), "raw"))
    runner = OnnxRunner(OnnxModel(path, num_threads=1))
    for _ in range(2 * runner.max_in_flight):
        runner.submit(IMAGES[:1])
        with pytest.raises(ValueError, match="image must be HxWx3 uint8"):
            runner.submit([np.zeros((4, 4), np.uint8)])
    failing = OnnxRunner(OnnxModel(nms_file(save_onnx, detection_task(), l=np.array([[3, 0], [0, 1]])), num_threads=1))
    for _ in range(2 * failing.max_in_flight):
        with pytest.raises(ValueError, match="labels from 3 to 3"):
            failing.submit([some_image(64, 96)] * 2).results()
    assert_same_boxes(runner.submit(IMAGES[1:2]).results()[0], in_torch(detection_task(), RawMaps(), IMAGES[1:2])[0])


def test_a_forked_child_goes_on_and_leaves_what_was_handed_in_before(save_onnx: Any, in_forked_child: Any) -> None:
    path = save_onnx(RAW_GRAPH, conv_weights(), detection_metadata(detection_task(), "raw"))
    for num_threads in (1, 3):
        runner = OnnxRunner(OnnxModel(path, num_threads=num_threads))

        def boxes(runner: OnnxRunner = runner) -> list[Any]:
            (found,) = runner.submit(IMAGES[:1]).results()
            return found.boxes_xyxy.tolist()

        pending = runner.submit(IMAGES[:1])
        assert "only the parent has its results" in in_forked_child(pending.results)
        assert in_forked_child(boxes) == repr(boxes())
        assert pending.results()[0].boxes_xyxy.tolist() == boxes()


def test_a_file_that_was_replaced_is_not_mixed_with_what_was_loaded(save_onnx: Any, in_forked_child: Any) -> None:
    metadata = detection_metadata(detection_task(), "raw")
    path = save_onnx(RAW_GRAPH, conv_weights(), metadata)
    model = OnnxModel(path, num_threads=2)
    save_onnx(RAW_GRAPH, {name: 2 * weights for name, weights in conv_weights().items()}, metadata)
    inputs = np.zeros((1, 3, 64, 96), np.float32)
    with pytest.raises(OnnxFileError, match="is not the file any more that was loaded; load it again"):
        model.with_threads(1)
    assert "is not the file any more that was loaded" in in_forked_child(lambda: model.run(inputs))
    model.runs_on_cpu = False
    assert "load it after the fork" in in_forked_child(lambda: model.run(inputs))
    model.runs_on_cpu = True
    path.unlink()
    assert "No such file" in in_forked_child(lambda: model.run(inputs))
    assert "raw" in model.run(inputs), "the parent goes on"


def test_the_next_batch_is_prepared_while_one_is_in_the_network(save_onnx: Any) -> None:
    path = save_onnx(RAW_GRAPH, conv_weights(), detection_metadata(detection_task(), "raw"))
    runner = OnnxRunner(OnnxModel(path, num_threads=1))
    released = threading.Event()
    blocker = runner._threads.submit(released.wait)  # what comes next waits behind it
    timer = threading.Timer(5, released.set)
    timer.start()
    pending = [runner.submit([image]) for image in IMAGES[:2]]
    assert not blocker.done(), "both were taken at once"
    released.set()
    timer.cancel()
    assert all(len(one.results()) == 1 for one in pending)


def test_batches_that_come_together_share_the_cores(save_onnx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    task = detection_task()
    path = save_onnx(RAW_GRAPH, conv_weights(), detection_metadata(task, "raw"))
    runner = OnnxRunner(OnnxModel(path, num_threads=7))
    assert runner.max_in_flight == MAX_STREAMS + 1
    runs: list[tuple[int, threading.Barrier | None]] = []
    at_once: threading.Barrier | None = None
    real_run = OnnxModel.run

    def run(model: OnnxModel, inputs: Any) -> Any:
        runs.append((model.num_threads, at_once))
        if at_once is not None:
            at_once.wait(20)  # breaks unless so many are here at the same time
        return real_run(model, inputs)

    monkeypatch.setattr(OnnxModel, "run", run)
    expected = in_torch(task, RawMaps(), IMAGES)
    for image, other in zip(IMAGES, expected, strict=True):  # each alone
        assert_same_boxes(runner.submit([image]).results()[0], other)
    assert [threads for threads, _ in runs] == [7] * 5
    runs.clear()
    at_once = threading.Barrier(MAX_STREAMS)
    pending = [runner.submit([image]) for image in IMAGES[:MAX_STREAMS]]
    for one, other in zip(pending, expected, strict=False):
        assert_same_boxes(one.results()[0], other)
    assert sorted(threads for threads, _ in runs) == [2, 2, 2, 7]


def test_one_core_and_volumes_are_not_shared(save_onnx: Any) -> None:
    path = save_onnx(RAW_GRAPH, conv_weights(), detection_metadata(detection_task(), "raw"))
    assert OnnxRunner(OnnxModel(path, num_threads=1)).max_in_flight == 2
    assert OnnxRunner(OnnxModel(path, num_threads=2)).max_in_flight == 3
    task = VolumeTaskConfig(input=VolumeSpec((1.0, 1.0, 1.0)), patch=(8, 8, 8)).build(Smoothing(3, 1, 3), CLASSES)
    graph = "g (float[batch, 1, d, h, w] volumes) => (float[b, c, z, y, x] logits) { logits = Conv (volumes, w) }"
    volumes = save_onnx(graph, {"w": np.zeros((3, 1, 1, 1, 1), np.float32)}, metadata_of(task, patch=[8, 8, 8]))
    assert OnnxRunner(OnnxModel(volumes, num_threads=4)).max_in_flight == 2


class Smoothing(nn.Module):
    """One convolution with padding, so that results depend on where windows begin."""

    def __init__(self, num_axes: int, num_channels: int, num_classes: int) -> None:
        super().__init__()
        random = np.random.default_rng(8)
        shape = (num_classes, num_channels, *([5] * num_axes))
        self.weights = random.normal(0, 0.3, shape).astype(np.float32)
        self.convolve = F.conv2d if num_axes == 2 else F.conv3d

    def forward(self, images: Tensor) -> Tensor:
        return self.convolve(images, torch.from_numpy(self.weights), padding=2)


def mask_graph(sides: str = "batch, 3, h, w") -> str:
    return (
        f"g (float[{sides}] images) => (float[b, c, y, x] logits) "
        "{ logits = Conv <pads = [2, 2, 2, 2], kernel_shape = [5, 5]> (images, w) }"
    )


def mask_task(**views: Any) -> Any:
    config = SemanticTaskConfig(input=SPEC, loss=SegmentationLossConfig(), postprocess=InfererConfig(**views))
    return config.build(Smoothing(2, 3, 3), CLASSES)


def scenes() -> list[np.ndarray]:
    """Images with regions, as noise has borders between classes everywhere."""
    noise = [torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() for image in IMAGES]
    large = [F.interpolate(one, scale_factor=4, mode="bilinear") for one in noise[:4]]
    return [one[0].permute(1, 2, 0).to(torch.uint8).numpy().copy() for one in large]


@pytest.mark.parametrize(
    "views",
    [{}, {"window": (32, 48)}, {"flip": True}, {"scales": (0.75, 1.0), "flip": True, "window": (40, 40)}],
)
def test_masks(save_onnx: Any, views: dict[str, Any]) -> None:
    task, network = mask_task(**views), Smoothing(2, 3, 3)
    path = save_onnx(mask_graph(), {"w": network.weights}, metadata_of(task))
    images = scenes()
    found = OnnxRunner(OnnxModel(path, num_threads=1)).submit(images).results()
    for image, one, other in zip(images, found, in_torch(task, network, images), strict=True):
        assert one.labels.shape == image.shape[:2]
        assert len(np.unique(other.labels)) == 3
        assert np.mean(one.labels == other.labels) > 0.9999


def test_masks_of_a_fixed_batch(save_onnx: Any) -> None:
    task, network = mask_task(), Smoothing(2, 3, 3)
    model = OnnxModel(save_onnx(mask_graph("3, 3, 64, 96"), {"w": network.weights}, metadata_of(task)), num_threads=1)
    images = scenes()
    found = OnnxRunner(model).submit(images).results()
    for one, other in zip(found, in_torch(task, network, images), strict=True):
        assert np.mean(one.labels == other.labels) > 0.9999
    with pytest.raises(ValueError, match="takes inputs of shape 3x64x96, got 3x32x32"):
        OnnxRunner(model, {"window": (32, 32)})


def test_networks_that_give_other_classes(save_onnx: Any) -> None:
    path = save_onnx(mask_graph(), {"w": Smoothing(2, 3, 2).weights}, metadata_of(mask_task()))
    with pytest.raises(ValueError, match=r"names 3 classes and gives logits of shape \(1, 2, 64, 96\)"):
        OnnxRunner(OnnxModel(path, num_threads=1)).submit([some_image(64, 96)]).results()
    weights = conv_weights()
    weights = {name: value[:-1] for name, value in weights.items()}
    path = save_onnx(RAW_GRAPH, weights, detection_metadata(detection_task(), "raw"))
    with pytest.raises(ValueError, match="gives scores of 2 classes and names 3"):
        OnnxRunner(OnnxModel(path, num_threads=1)).submit([some_image(64, 96)]).results()


def scan(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Volume:
    coarse = np.random.default_rng(sum(shape)).normal(0, 1, (1, 1, *(side // 3 + 1 for side in shape)))
    voxels = F.interpolate(torch.from_numpy(coarse.astype(np.float32)), size=shape, mode="trilinear")[0, 0].numpy()
    return Volume(voxels.copy(), np.diag([-spacing[0], spacing[1], spacing[2], 1.0]))


@pytest.mark.parametrize(
    "views",
    [
        {},
        {"window": (9, 8, 7), "batch_size": 3},
        {"flip": True, "weighting": "uniform"},
        {"flip": True, "flip_axes": (2,)},
    ],
)
def test_volumes(save_onnx: Any, views: dict[str, Any]) -> None:
    spec = VolumeSpec(spacing=(1.0, 1.0, 1.0))
    config = VolumeTaskConfig(input=spec, patch=(8, 12, 10), postprocess=WindowsConfig(**views))
    network = Smoothing(3, 1, 3)
    task = config.build(network, CLASSES)
    graph = (
        "g (float[batch, 1, d, h, w] volumes) => (float[b, c, z, y, x] logits) "
        "{ logits = Conv <pads = [2, 2, 2, 2, 2, 2], kernel_shape = [5, 5, 5]> (volumes, w) }"
    )
    path = save_onnx(graph, {"w": network.weights}, metadata_of(task, patch=[8, 12, 10]))
    volumes = [
        scan((12, 17, 9), (1.0, 1.0, 1.0)),
        scan((20, 10, 14), (0.6, 1.5, 1.0)),
        scan((5, 5, 5), (1.0, 1.0, 1.0)),
    ]
    found = OnnxRunner(OnnxModel(path, num_threads=1)).submit(volumes).results()
    for volume, one in zip(volumes, found, strict=True):
        (other,) = in_torch(task, network, [volume])
        assert one.labels.shape == volume.voxels.shape
        assert np.array_equal(one.affine, volume.affine)
        assert len(np.unique(other.labels)) == 3
        assert np.mean(one.labels == other.labels) > 0.999


@pytest.mark.slow
def test_many_threads_load_at_once(save_onnx: Any) -> None:
    """A file for ONNX Runtime and one for torch, which 16 threads begin to load together."""
    exported = save_onnx(RAW_GRAPH, conv_weights(), detection_metadata(detection_task(), "raw"))
    small = DetectorConfig(backbone=CSPDarknetConfig(depth=0.33, width=0.125))
    config = ModelFileConfig(small, DetectionTaskConfig(input=SPEC), CLASSES, (3, 5, 9))
    network = config.build()[0]
    trained = exported.with_name("model.safetensors")
    save_model_file(trained, network.state_dict(), config)
    files = (exported, trained)
    begin = threading.Barrier(16)

    def loaded(number: int, threads: threading.Barrier | None = None) -> Any:
        if threads is not None:
            threads.wait()
        model = detseg.load(files[number % 2], confidence=(0.6, 0.001)[number % 2])
        (prediction,) = model.predict(IMAGES[0])
        return prediction.result

    alone = [loaded(0), loaded(1)]
    assert min(len(result) for result in alone) > 3
    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(loaded, range(16), [begin] * 16))
    for number, result in enumerate(results):
        for name in ("boxes_xyxy", "scores", "labels"):
            np.testing.assert_array_equal(getattr(result, name), getattr(alone[number % 2], name))

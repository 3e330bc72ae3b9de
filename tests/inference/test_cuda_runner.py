"""The runner for GPUs on the CPU: its kernel in Triton's interpreter, its streams as late as they may be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detseg.inference import cuda_runner
from detseg.inference.cuda_runner import CudaRunner
from detseg.inference.load import EagerRunner
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.detector import DetectorConfig
from detseg.models.heads.dfl_masks import DFLMasksHeadConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.postprocess.config import PostprocessConfig
from detseg.structures import Detections, LabelMap
from detseg.tasks.detection import DetectionTaskConfig
from detseg.tasks.instance import InstanceTaskConfig
from detseg.tasks.semantic import SemanticTaskConfig

CPU = torch.device("cpu")
Make = Callable[..., CudaRunner]


@pytest.fixture
def make(spot_model: Any, spot_task: Any, deferred_stream: Any) -> Make:
    """A runner of the detector without training at 32 x 32, unless another is given."""
    spot_task.spec = InputSpec(32, 32, pad_value=0)

    def make_runner(model: nn.Module | None = None, task: Any = None, dtype: torch.dtype = torch.float32) -> CudaRunner:
        return CudaRunner(model or spot_model.eval(), task or spot_task, CPU, dtype, deferred_stream)

    return make_runner


def some_image(seed: int, height: int = 32, width: int = 32) -> np.ndarray:
    """Squares, four along the longer side, that are dark, gray or bright; one at least is bright."""
    cells = np.random.default_rng(seed).choice(np.array([20, 120, 250], np.uint8), (4, 4, 3))
    cells[0, 0] = 250
    side = max(height, width) // 4
    return cells.repeat(side, axis=0).repeat(side, axis=1)[:height, :width].copy()


def eager(model: nn.Module, task: Any, images: Sequence[np.ndarray]) -> list[Any]:
    runner = EagerRunner(model.eval(), task, CPU, torch.float32)
    return [found for image in images for found in runner.submit([image]).results()]


def assert_same(found: Sequence[Any], expected: Sequence[Any], atol: float = 0.0) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.labels, other.labels)
        if isinstance(one, Detections):
            np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, rtol=0, atol=atol)
            np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=atol / 100)
    assert sum(len(one) for one in found if isinstance(one, Detections)) >= len(found), "too little to compare"


def batches_of(images: Sequence[np.ndarray], batch_size: int) -> list[Sequence[np.ndarray]]:
    return [images[start : start + batch_size] for start in range(0, len(images), batch_size)]


def run(runner: CudaRunner, batches: Sequence[Sequence[np.ndarray]]) -> list[Any]:
    """All results, each batch's read when the next one is on its way."""
    found: list[Any] = []
    pending: list[Any] = []
    for batch in batches:
        pending.append(runner.submit(batch))
        if len(pending) == runner.max_in_flight:
            found.extend(pending.pop(0).results())
    return [*found, *(result for batch in pending for result in batch.results())]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_images_that_fit_give_exactly_what_the_eager_runner_gives(
    make: Make, spot_model: Any, spot_task: Any, batch_size: int
) -> None:
    images = [some_image(seed) for seed in range(5)]
    found = run(make(), batches_of(images, batch_size))
    assert_same(found, eager(spot_model, spot_task, images))


def test_images_of_other_sizes_do_too_within_a_pixel(make: Make, spot_model: Any, spot_task: Any) -> None:
    images = [some_image(0, 64, 64), some_image(1, 64, 32), some_image(2, 16, 16), some_image(3, 40, 56)]
    assert_same(run(make(), batches_of(images, 2)), eager(spot_model, spot_task, images), atol=1)


def test_a_trained_kind_of_detector(make: Make) -> None:
    """The real detector and task, on images of several sizes, in batches the last of which is not full."""
    torch.manual_seed(0)
    model = DetectorConfig(backbone=CSPDarknetConfig(width=0.125)).build(num_classes=3).eval()
    with torch.no_grad():
        for branch in model.get_submodule("head.class_branches"):
            branch[-1].weight.mul_(10)
            branch[-1].bias.zero_()
    settings = PostprocessConfig(confidence=0.05, max_detections=20)
    config = DetectionTaskConfig(input=InputSpec(64, 64), postprocess=settings)
    task = config.build(model, ("circle", "square", "triangle"))
    images = [some_image(0, 64, 64), some_image(1, 48, 80), some_image(2, 100, 30)]
    assert_same(run(make(model, task), batches_of(images, 2)), eager(model, task, images), atol=1)


def test_objects_bring_their_masks(make: Make) -> None:
    """Coefficients and prototypes leave the graph with the boxes, for as many images as the batch has."""
    torch.manual_seed(0)
    model = (
        DetectorConfig(backbone=CSPDarknetConfig(width=0.125), head=DFLMasksHeadConfig()).build(num_classes=3).eval()
    )
    with torch.no_grad():
        for branch in model.get_submodule("head.class_branches"):
            branch[-1].weight.mul_(10)
            branch[-1].bias.zero_()
        for branch in model.get_submodule("head.coefficient_branches"):
            branch[-1].bias.normal_()
        model.get_parameter("head.prototypes.conv3.bn.bias").normal_()
    config = InstanceTaskConfig(input=InputSpec(64, 64), postprocess=PostprocessConfig(0.05, max_detections=20))
    task = config.build(model, ("circle", "square", "triangle"))
    images = [some_image(seed, 64, 64) for seed in range(3)]
    found, expected = run(make(model, task), batches_of(images, 2)), eager(model, task, images)
    assert_same(found, expected, atol=1)
    assert sum(mask.area for one in found for mask in one.masks) > 1000
    for one, other in zip(found, expected, strict=True):
        for mask, true in zip(one.masks, other.masks, strict=True):
            assert mask.area + true.area - 2 * mask.intersection(true) <= 0.05 * true.area + 2


def test_label_maps_have_the_size_of_their_image(make: Make) -> None:
    """Color channels are logits, so that the best class is the channel that is brightest."""
    spec = InputSpec(32, 32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    task: Any = SemanticTaskConfig(input=spec).build(nn.Identity(), ("red", "green", "blue"))
    images = [some_image(0), some_image(1, 48, 80), some_image(2, 100, 30)]
    found = run(make(nn.Identity(), task), batches_of(images, 2))
    assert [result.labels.shape for result in found] == [(32, 32), (48, 80), (100, 30)]
    assert all(isinstance(result, LabelMap) for result in found)
    assert np.array_equal(found[0].labels, images[0].argmax(axis=2))
    expected = eager(nn.Identity(), task, images)
    assert np.mean([(one.labels == other.labels).mean() for one, other in zip(found, expected, strict=True)]) > 0.99


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 0, 4, 1, 3)])
def test_results_may_be_read_late_and_in_any_order(
    make: Make, spot_model: Any, spot_task: Any, order: Sequence[int]
) -> None:
    images = [some_image(seed) for seed in range(5)]
    runner = make()
    pending = [runner.submit([image]) for image in images]
    expected = eager(spot_model, spot_task, images)
    for number in order:
        assert_same(pending[number].results(), [expected[number]])
        assert pending[number].results() is pending[number].results()


def test_images_may_change_once_they_are_handed_in(make: Make, spot_model: Any, spot_task: Any) -> None:
    images = [some_image(seed) for seed in range(2)]
    expected = eager(spot_model, spot_task, images)
    pending = make().submit(images)
    for image in images:
        image[:] = 0
    assert_same(pending.results(), expected)


def test_larger_images_need_a_new_graph_and_smaller_ones_do_not(
    make: Make, spot_model: Any, spot_task: Any, deferred_stream: Any
) -> None:
    runner = make()
    sizes = [(32, 32), (32, 32), (16, 16), (36, 36), (128, 128), (128, 128), (100, 32), (32, 32)]
    images = [some_image(seed, *size) for seed, size in enumerate(sizes)]
    captures = []
    found: list[Any] = []
    for image in images:
        found.extend(runner.submit([image]).results())
        captures.append(deferred_stream.num_captures)
    # Memory is a power of two, so that 32 x 32 x 3 bytes leave room for a third more. Two slots take turns.
    assert captures == [1, 2, 2, 2, 3, 4, 4, 4]
    assert_same(found, eager(spot_model, spot_task, images), atol=1)


def test_memory_grows_while_another_batch_is_on_its_way(make: Make, spot_model: Any, spot_task: Any) -> None:
    images = [some_image(seed, side, side) for seed, side in enumerate((32, 32, 64, 128, 32, 64))]
    assert_same(run(make(), batches_of(images, 1)), eager(spot_model, spot_task, images), atol=1)


def test_a_batch_pays_for_the_next_power_of_two_and_no_more(make: Make, spot_model: Any, deferred_stream: Any) -> None:
    runner = make()
    inputs: list[Tensor] = []
    spot_model.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
    white = np.full((32, 32, 3), 255, np.uint8)
    for count in (3, 4, 1, 1, 3, 1):
        assert len(runner.submit([white] * count).results()) == count
    assert deferred_stream.num_captures == 4, "of 4 places and of 1, in two slots"
    brightness = [batch.mean(dim=(1, 2, 3)).tolist() for batch in inputs]
    # A capture, when there are no images, comes before the first batch of its kind in a slot.
    assert brightness == [
        [0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0], [1], [0], [1], [1, 1, 1, 0], [1],
    ]  # fmt: skip


def test_a_slot_keeps_few_graphs(make: Make, deferred_stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_runner, "_MAX_PROGRAMS", 2)
    runner, image = make(), some_image(0, 8, 8)
    runner.max_in_flight = 1
    for count in (1, 2, 4, 2, 1):
        for _ in range(2):  # both slots
            runner.submit([image] * count).results()
    assert deferred_stream.num_captures == 2 * 4, "that of 1 was let go for that of 4"
    assert all(len(slot._programs) == 2 for slot in (next(runner._slots), next(runner._slots)))


def test_large_images_go_through_in_parts(
    make: Make, spot_model: Any, spot_task: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 images of 48 megapixels once took 8.6 GB of page-locked memory, and as much on the GPU."""
    monkeypatch.setattr(cuda_runner, "MAX_BYTES", 2 * 64 * 64 * 3)
    sizes = [(64, 64), (64, 64), (64, 64), (32, 32), (128, 128), (16, 16), (64, 64)]
    images = [some_image(seed, *size) for seed, size in enumerate(sizes)]
    seen: list[tuple[int, int]] = []
    pack = cuda_runner.pack_images

    def pack_images(part: Any, spec: Any, pixels: Tensor, table: Tensor) -> Any:
        seen.append((len(part), len(pixels)))
        return pack(part, spec, pixels, table)

    monkeypatch.setattr(cuda_runner, "pack_images", pack_images)
    found = run(make(), [images, images[:1]])
    assert_same(found, eager(spot_model, spot_task, [*images, images[0]]), atol=1)
    # Together as many as two of 64 x 64, one alone where it is larger; memory is a power of two.
    assert seen == [(2, 2**15), (2, 2**14), (1, 2**16), (2, 2**14), (1, 2**16)]


def test_what_is_no_image_is_refused_before_any_part_is_begun(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_runner, "MAX_BYTES", 32 * 32 * 3)
    monkeypatch.setattr(cuda_runner, "pack_images", lambda *given: pytest.fail("a part was begun"))
    with pytest.raises(ValueError, match="image"):
        make().submit([some_image(0), np.zeros((32, 32), np.uint8)])


def test_the_input_has_the_precision_and_layout_of_the_model(make: Make, spot_model: Any) -> None:
    seen: list[Tensor] = []
    spot_model.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    make(dtype=torch.float16).submit([some_image(0)]).results()
    assert all(batch.dtype == torch.float16 and batch.is_inference() for batch in seen)
    assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in seen)


def test_a_batch_of_other_places_needs_a_new_graph_and_later_ones_share_it(
    make: Make, spot_model: Any, spot_task: Any, deferred_stream: Any
) -> None:
    runner = make()
    images = [some_image(seed, 8, 8) for seed in range(11)]
    found: list[Any] = []
    captures = []
    for first, last in ((0, 1), (1, 2), (2, 5), (5, 6), (6, 8), (8, 11)):
        found.extend(runner.submit(images[first:last]).results())
        captures.append(deferred_stream.num_captures)
    # Two slots take turns: the first one sees 1, 3 and 2 images, the second one 1, 1 and 3.
    assert captures == [1, 2, 3, 3, 4, 5]
    assert_same(found, eager(spot_model, spot_task, images), atol=1)
    with pytest.raises(ValueError, match="at least one image, got none"):
        runner.submit([])


def test_what_is_no_image_is_refused_and_the_batches_around_it_are_unharmed(
    make: Make, spot_model: Any, spot_task: Any
) -> None:
    runner = make()
    images = [some_image(seed) for seed in range(3)]
    pending = [runner.submit([images[0]]), runner.submit([images[1]])]
    with pytest.raises(ValueError, match="HxWx3 uint8"):
        runner.submit([images[2].astype(np.float32)])
    pending.append(runner.submit([images[2]]))
    found = [result for batch in pending for result in batch.results()]
    assert_same(found, eager(spot_model, spot_task, images))


def test_a_batch_that_has_no_valid_results_does_not_stop_the_next(make: Make, spot_model: Any, spot_task: Any) -> None:
    original = spot_task.results
    fails = [True, False]

    def results(outputs: Any, transforms: Any) -> Any:
        if fails.pop(0):
            raise ValueError("boxes_xyxy holds a value that is not finite")
        return original(outputs, transforms)

    spot_task.results = results
    runner = make()
    first = runner.submit([some_image(0)])
    second = runner.submit([some_image(1)])
    with pytest.raises(ValueError, match="not finite"):
        first.results()
    found = second.results()
    spot_task.results = original
    assert_same(
        [*found, *runner.submit([some_image(2)]).results()],
        eager(spot_model, spot_task, [some_image(1), some_image(2)]),
    )


def test_classes_are_chosen_before_the_limit(make: Make, deferred_stream: Any) -> None:
    """As the eager runner does; batches with and without a choice, and with others, mix."""
    torch.manual_seed(0)
    model = DetectorConfig(backbone=CSPDarknetConfig(width=0.125)).build(num_classes=3).eval()
    with torch.no_grad():
        for branch in model.get_submodule("head.class_branches"):
            branch[-1].weight.mul_(10)
            branch[-1].bias.zero_()

    def task_of(limit: int) -> Any:
        settings = PostprocessConfig(confidence=0.05, max_detections=limit)
        return DetectionTaskConfig(input=InputSpec(64, 64), postprocess=settings).build(model, ("a", "b", "c"))

    pixels = some_image(0, 64, 64)
    (everything,) = eager(model, task_of(5000), [pixels])
    runner, on_cpu = make(model, task_of(6)), EagerRunner(model, task_of(6), CPU, torch.float32)
    for kept in (None, [True, False, False], None, [False, True, False], [False, False, True], [True, False, True]):
        chosen = np.ones(3, np.bool_) if kept is None else np.array(kept)
        expected = everything.select(np.flatnonzero(chosen[everything.labels])[:6])
        given = () if kept is None else (chosen,)
        for one in (runner, runner, on_cpu):
            assert_same(one.submit([pixels], *given).results(), [expected])
    assert deferred_stream.num_captures == 4, "a graph with a choice serves any choice"


def test_each_thread_gets_the_results_of_its_own_images(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    one_at_a_time, letterbox = threading.Lock(), cuda_runner.letterbox_into

    def letterbox_into(*arguments: Any) -> None:
        with one_at_a_time:  # Triton's interpreter keeps the place in the grid for the whole process
            letterbox(*arguments)

    monkeypatch.setattr(cuda_runner, "letterbox_into", letterbox_into)
    runner = make()
    images = [some_image(seed, *size) for seed, size in enumerate(((32, 32), (16, 16), (64, 64), (48, 32)))]
    runner.submit([images[2]]).results()
    expected = [runner.submit([image]).results()[0].boxes_xyxy.tolist() for image in images]
    assert len({str(boxes) for boxes in expected}) == len(images)
    wrong: list[Any] = []

    def work(number: int) -> None:
        for _ in range(10):
            try:
                runner.submit([images[number - 1]])  # nobody asks for these
                (found,) = runner.submit([images[number]]).results()
                if found.boxes_xyxy.tolist() != expected[number]:
                    wrong.append(found)
            except Exception as error:  # noqa: BLE001 - told at the end
                wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_error_comes_to_whom_the_batch_belongs_each_time(make: Make, spot_model: Any, spot_task: Any) -> None:
    expected = eager(spot_model, spot_task, [some_image(0)])
    original, fails = spot_task.results, [True, False]

    def results(outputs: Any, transforms: Any) -> Any:
        if fails and fails.pop():
            raise ValueError("not finite")
        return original(outputs, transforms)

    spot_task.results = results
    runner = make()
    first = runner.submit([some_image(1)])
    for _ in range(2):  # the second one takes the memory of the first
        assert_same(runner.submit([some_image(0)]).results(), expected)
    for _ in range(2):
        with pytest.raises(ValueError, match="not finite"):
            first.results()


def test_a_forked_child_is_told_to_load_the_model_itself(make: Make, in_forked_child: Any) -> None:
    runner = make()
    runner.submit([some_image(0)]).results()
    assert "load it after the fork" in in_forked_child(lambda: runner.submit([some_image(0)]))

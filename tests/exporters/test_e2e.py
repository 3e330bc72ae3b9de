"""A one-to-one head as a file: the best rows without NMS, the same from torch, from numpy and from the graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import detseg
from detseg.arrays import ByteArray
from detseg.cli.verbs import main
from detseg.exporters.base import ExportSettings
from detseg.exporters.compare_boxes import BoxComparison
from detseg.exporters.export import Exported, export_model, make_file
from detseg.inference.load import make_runner
from detseg.losses.dual import DualLossConfig
from detseg.models.backbones.csp_darknet import CSPDarknetConfig
from detseg.models.detector import DetectorConfig
from detseg.models.heads.e2e import E2EHeadConfig
from detseg.models.necks.pan import PANConfig
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.kinds.boxes import DetectionMetadata
from detseg.runtime.onnx.model import OnnxModel
from detseg.runtime.postprocess.config import HeadMetadata, PostprocessConfig
from detseg.tasks.detection import DetectionTask, DetectionTaskConfig
from detseg.tasks.model_file import ModelFileConfig, load_model_file, save_model_file
from tests.exporters.conftest import settle

ROWS, COLUMNS = 30, 50
"""1,500 dots, one in each cell of 8 pixels."""


@pytest.fixture(scope="module")
def e2e_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An end-to-end detector that was not trained, and finds something everywhere."""
    torch.manual_seed(0)
    config = ModelFileConfig(
        DetectorConfig(
            backbone=CSPDarknetConfig(width=0.0625, depth=0.01),
            neck=PANConfig(depth=0.01, block="csp"),
            head=E2EHeadConfig(),
        ),
        DetectionTaskConfig(input=InputSpec(96, 128), loss=DualLossConfig()),
        ("circle", "square", "triangle"),
        (1, 2, 5),
    )
    model, _ = config.build()
    settle(model, (4, 3, 96, 128), 1.0)
    with torch.no_grad():
        for branch in model.head.one.classes:  # type: ignore[union-attr]
            branch[-1].weight.mul_(20)
            branch[-1].bias.fill_(-1.0)
    path = tmp_path_factory.mktemp("e2e") / "small.safetensors"
    save_model_file(path, model.state_dict(), config)
    return path


@pytest.fixture(scope="module")
def exported(e2e_path: Path) -> Exported:
    return export_model(e2e_path, e2e_path.with_name("e2e.onnx"))


def test_the_graph_gives_300_rows_of_six_and_has_no_nms(exported: Exported, e2e_path: Path) -> None:
    graph = onnx.load(exported.path).graph
    (output,) = graph.output
    assert [side.dim_value or side.dim_param for side in output.type.tensor_type.shape.dim] == ["batch", 300, 6]
    assert not {node.op_type for node in graph.node} & {"NonMaxSuppression", "NonZero", "Loop", "If", "Scan"}
    # The other branch is not in the file: half of the head's convolutions.
    names = {weight.name for weight in graph.initializer}
    assert any(name.startswith("network.head.one.") or ".head.one." in name for name in names)
    assert not any("head.many" in name for name in names)
    assert exported.parity.problems == []
    assert exported.parity.differences["boxes"] > 300


@pytest.mark.parametrize("form", ["e2e", "decoded", "raw"])
def test_all_forms_give_what_torch_gives(form: str, exported: Exported, e2e_path: Path) -> None:
    path = exported.path
    package = load_model_file(e2e_path, for_prediction=True)
    if form != "e2e":
        path = e2e_path.with_name(f"{form}.onnx")
        onnx.save(make_file(package.model.fuse(), package.task, ExportSettings("fp32", form))[0], path)  # type: ignore[operator]
    image = np.random.default_rng(0).integers(0, 255, (90, 100, 3)).astype(np.uint8)
    settings: Any = {"confidence": 0.2, "max_detections": 20}
    first, second = (next(iter(detseg.load(one, **settings).predict(image))).result for one in (e2e_path, path))
    assert len(first) == len(second) == 20
    assert first.num_left_out > 20
    if form == "e2e" and first.num_left_out + 20 >= 300:
        assert second.num_left_out is None, "the graph gives no more than 300"
    else:
        assert second.num_left_out == pytest.approx(first.num_left_out, abs=2)  # scores next to the limit
    comparison = BoxComparison(settings["confidence"], settings["max_detections"])
    comparison.add(first, second)
    assert comparison.problems() == []


@pytest.mark.parametrize("size", [(32, 32), (64, 160)])
def test_few_places_leave_rows_of_zeros(size: tuple[int, int], exported: Exported, e2e_path: Path) -> None:
    """An input of 32x32 has 21 places, and with 3 classes 63 pairs."""
    package = load_model_file(e2e_path, postprocess={"confidence": 0.0})
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        rows, counts, num_above = package.task.infer(package.model, images)
    found = OnnxModel(exported.path, num_threads=1).run(images.numpy())["detections"]
    assert found.shape == (2, 300, 6)
    np.testing.assert_allclose(found[..., 4], rows[..., 4], rtol=0, atol=1e-4)
    num_pairs = 3 * sum((size[0] // stride) * (size[1] // stride) for stride in (8, 16, 32))
    assert num_above.tolist() == [num_pairs] * 2
    assert counts.tolist() == [min(300, num_pairs)] * 2
    assert not found[:, num_pairs:].any()


def test_settings_of_the_file(exported: Exported, e2e_path: Path) -> None:
    model = detseg.load(exported.path, confidence=0.9, max_detections=5)
    assert all(len(found) <= 5 for found in model.predict(np.zeros((40, 40, 3), np.uint8)))
    metadata = OnnxModel(exported.path, num_threads=1).metadata
    for settings, words in (
        ({"max_detections": 301}, "the graph gives the 300 best, so max_detections cannot be more, got 301"),
        ({"multi_label": False}, "multi_label cannot be changed any more"),
        ({"iou": 0.5}, "the head is one-to-one, so there is no NMS"),
    ):
        with pytest.raises(ValueError, match=words):
            metadata.with_settings(settings)
    with pytest.raises(ValueError, match="the head is one-to-one, so there is no NMS"):
        detseg.load(exported.path, iou=0.5)
    with pytest.raises(ValueError, match="the head is one-to-one, so there is no NMS"):
        detseg.load(e2e_path, iou=0.5)
    with pytest.raises(ValueError, match="has the output form e2e or decoded or raw, got 'nms'"):
        export_model(e2e_path, form="nms")


def test_forms_and_heads_that_do_not_fit_are_refused() -> None:
    given = {
        "version": "1", "task": "detection", "class_names": ("a",), "category_ids": (1,),
        "input": InputSpec(64, 64), "postprocess": PostprocessConfig(),
    }  # fmt: skip
    with pytest.raises(ValueError, match="the form nms is not for a one-to-one head"):
        DetectionMetadata(**given, form="nms", head=HeadMetadata("ltrb", (8,), one_to_one=True))
    with pytest.raises(ValueError, match="the form e2e is for a one-to-one head, and this head needs NMS"):
        DetectionMetadata(**given, form="e2e", head=HeadMetadata("ltrb", (8,)))


def test_another_program_reads_the_rows_as_those_of_yolov10(exported: Exported, tmp_path: Path) -> None:
    network = onnx.load(exported.path)
    del network.metadata_props[:]
    bare = tmp_path / "bare.onnx"
    onnx.save(network, bare)
    image = np.random.default_rng(1).integers(0, 255, (96, 128, 3)).astype(np.uint8)
    names = ["circle", "square", "triangle"]
    other = detseg.load(bare, confidence=0.3, size=(96, 128), full_input=True, layout="e2e", names=names)
    own = detseg.load(exported.path, confidence=0.3, full_input=True)
    one, two = (next(iter(model.predict(image))) for model in (own, other))
    assert len(one) > 50
    np.testing.assert_allclose(one.boxes_xyxy, two.boxes_xyxy, rtol=0, atol=1e-3)


@pytest.mark.parametrize("branch", ["one_to_one", "one_to_many"])
def test_the_branch_is_chosen_by_the_configuration(branch: str, e2e_path: Path, tmp_path: Path) -> None:
    package = load_model_file(e2e_path)
    config = package.config
    head = E2EHeadConfig(branch=branch)  # type: ignore[arg-type]
    chosen = ModelFileConfig(
        DetectorConfig(backbone=config.model.backbone, neck=config.model.neck, head=head),
        config.task, config.class_names, config.category_ids,
    )  # fmt: skip
    path = tmp_path / "chosen.safetensors"
    save_model_file(path, package.model.state_dict(), chosen)
    task = load_model_file(path).task
    assert task.forms[0] == ("e2e" if branch == "one_to_one" else "decoded")
    assert "nms" in task.forms or branch == "one_to_one"


class DotDetector(nn.Module):
    """One level of cells of 8 pixels: an object of half a cell to each side where there is a bright pixel."""

    num_classes = 1

    def __init__(self) -> None:
        super().__init__()
        # A convolution, as a network has them; it sums the channels.
        self.sum = nn.Conv2d(3, 1, 1, bias=False)
        nn.init.constant_(self.sum.weight, 1 / 3)

    def forward(self, images: Tensor) -> list[Tensor]:
        score = 20 * (nn.functional.max_pool2d(self.sum(images), 8) - 0.5)
        return [torch.cat((torch.full_like(score, 0.5).expand(-1, 4, -1, -1), score), dim=1)]


def picture_of_dots() -> ByteArray:
    image = np.zeros((8 * ROWS, 8 * COLUMNS, 3), np.uint8)
    image[4::8, 4::8] = 255
    return image


def dot_task(max_detections: int) -> DetectionTask:
    config = DetectionTaskConfig(
        input=InputSpec(8 * ROWS, 8 * COLUMNS),
        postprocess=PostprocessConfig(confidence=0.25, max_detections=max_detections),
    )
    return DetectionTask(config, HeadMetadata("ltrb", (8,), one_to_one=True), ("dot",))


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The detector of dots in files, by form and limit."""
    folder, model = tmp_path_factory.mktemp("dots"), DotDetector().eval().requires_grad_(False)
    made = {}
    for form, limit in (("e2e", 300), ("e2e", 4000), ("decoded", 300), ("raw", 300)):
        path = made[f"{form} {limit}"] = folder / f"{form}{limit}.onnx"
        onnx.save(make_file(model, dot_task(limit), ExportSettings("fp32", form))[0], path)
    return made


@pytest.mark.parametrize("limit", [300, 1500, 4000])
@pytest.mark.parametrize("form", ["torch", "e2e 300", "e2e 4000", "decoded 300", "raw 300"])
def test_1500_objects_in_one_picture(form: str, limit: int, dots: dict[str, Path]) -> None:
    if form == "e2e 300" and limit > 300:
        with pytest.raises(ValueError, match="export the model again with a larger --max-det"):
            detseg.load(dots[form], max_detections=limit)
        return
    if form == "torch":
        (found,) = make_runner(DotDetector(), dot_task(limit)).submit([picture_of_dots()]).results()
    else:
        found = next(iter(detseg.load(dots[form], max_detections=limit).predict(picture_of_dots()))).result
    num_found = min(limit, 1500)
    # Rows of the graph that are all taken do not tell how many more there are.
    assert found.num_left_out == (None if form == "e2e 300" else 1500 - num_found)
    # All score the same, so that they come row by row.
    cells = [(int(top) // 8, int(left) // 8) for left, top, _, _ in found.boxes_xyxy.tolist()]
    assert cells == [divmod(place, COLUMNS) for place in range(num_found)]
    np.testing.assert_allclose(found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2], 8)


def test_what_a_limit_left_out_is_in_the_summary(
    dots: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "dots.png"
    cv2.imwrite(str(picture), picture_of_dots())
    for form, limit, words in (
        ("decoded 300", 400, "left out, as images may hold no more objects (--max-det): 1100 objects in 1 images\n"),
        ("e2e 300", 300, "as many objects as an image may hold (--max-det): in 1 images, where there may be more\n"),
        ("e2e 4000", 2000, ""),
    ):
        output = str(tmp_path / form)
        options = ["-o", output, "--max-det", str(limit), "--save", "coco"]
        assert main(["predict", str(dots[form]), str(picture), *options]) == 0
        said = capsys.readouterr().out
        assert f"objects found: dot {min(limit, 1500)}\n" in said
        assert words in said
        assert ("--max-det" in said) == bool(words)

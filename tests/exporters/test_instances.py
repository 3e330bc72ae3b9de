"""Networks for objects with masks as ONNX files, in every form and precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import detseg
from detseg.exporters.export import Exported, export_model
from detseg.structures import Instances

OUTPUTS = {
    "raw": {
        "raw": ["batch", 4 * 4 + 3 + 6, "anchors"],
        "prototypes": ["batch", 6, "prototype_rows", "prototype_columns"],
    },
    "decoded": {
        "boxes": ["batch", "anchors", 4],
        "scores": ["batch", "anchors", 3],
        "coefficients": ["batch", "anchors", 6],
        "prototypes": ["batch", 6, "prototype_rows", "prototype_columns"],
    },
    "nms": {
        "boxes": ["batch", 50, 4],
        "scores": ["batch", 50],
        "labels": ["batch", 50],
        "counts": ["batch"],
        "coefficients": ["batch", 50, 6],
        "prototypes": ["batch", 6, "prototype_rows", "prototype_columns"],
    },
}


def sides(model: onnx.ModelProto) -> dict[str, list[Any]]:
    return {
        value.name: [side.dim_value or side.dim_param for side in value.type.tensor_type.shape.dim]
        for value in model.graph.output
    }


@pytest.fixture(scope="module")
def export(instance_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """Each file is made once: tracing takes seconds."""
    folder = tmp_path_factory.mktemp("exported")

    @cache
    def made(form: str = "decoded", **settings: Any) -> Exported:
        name = "_".join([form, *map(str, settings.values())])
        return export_model(instance_path, folder / f"{name}.onnx", form=form, **settings)

    return made


def report_of(made: Exported) -> Any:
    return json.loads(made.report_path.read_text(encoding="utf-8"))


def noise(*size: int) -> Any:
    return np.random.default_rng(3).integers(0, 256, (*size, 3), np.uint8)


FORMS = [("decoded", {}), ("nms", {"verify": "shapes"}), pytest.param("raw", {}, marks=pytest.mark.slow)]


@pytest.mark.parametrize(("form", "settings"), FORMS)
def test_each_form_gives_the_same_objects_without_torch(
    form: str, settings: dict[str, Any], export: Callable[..., Exported], instance_path: Path
) -> None:
    made = export(form, **settings)
    assert sides(onnx.load(made.path)) == OUTPUTS[form]
    report = report_of(made)
    assert (report["judged"], report["kept"], report["problems"]) == (True, True, [])
    differences = report["differences"]
    assert differences["boxes"] > 50
    assert differences["matched"] == 1
    assert differences["mean_mask_iou"] > 0.999
    assert 0.9 < differences["smallest_mask_iou"] <= 1
    assert differences["differing_mask_pixels"] < 1e-3

    (expected,) = detseg.load(instance_path, device="cpu", full_input=True)(noise(150, 200))
    model = detseg.load(made.path, full_input=True)
    assert (model.task_name, model.class_names) == ("instance", ("circle", "square", "triangle"))
    (found,) = model(noise(150, 200))
    assert isinstance(found.result, Instances)
    assert len(found.result) == len(expected.result) > 5
    np.testing.assert_allclose(found.result.scores, expected.result.scores, atol=1e-4)
    np.testing.assert_allclose(found.result.boxes_xyxy, expected.result.boxes_xyxy, atol=1e-2)
    assert sum(mask.area for mask in found.result.masks) > 1000
    assert {(mask.height, mask.width) for mask in found.result.masks} == {(150, 200)}


def test_average_precision_of_both_sides_is_that_of_masks(export: Callable[..., Exported]) -> None:
    metrics = report_of(export("nms", verify="shapes"))["metrics"]
    assert {"AP", "AP_box"} <= metrics["torch"].keys()
    assert metrics["torch"]["AP"] == pytest.approx(metrics["onnx"]["AP"], abs=1e-6)


def test_a_fitted_input_has_prototypes_of_its_size(export: Callable[..., Exported], instance_path: Path) -> None:
    """A wide image goes in as 64x128; in torch and in the file alike."""
    paths = (instance_path, export().path)
    (expected,), (found,) = (detseg.load(path, device="cpu", full_input=False)(noise(60, 130)) for path in paths)
    assert len(found.result) == len(expected.result) > 0
    pairs = list(zip(found.result.masks, expected.result.masks, strict=True))
    assert sum(one.area for one, _ in pairs) > 100
    assert all(one.area + other.area - 2 * one.intersection(other) <= 2 + 0.01 * other.area for one, other in pairs)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "settings"), [("fp16", {}), ("int8", {"calibrate": "shapes"})])
def test_lower_precisions_have_masks_too(
    precision: str, settings: dict[str, Any], export: Callable[..., Exported]
) -> None:
    made = export(precision=precision, **settings)
    report = report_of(made)
    assert report["judged"] is False
    assert report["differences"]["boxes"] > 50
    assert report["differences"]["mean_mask_iou"] > 0.5
    model = onnx.load(made.path)
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {onnx.TensorProto.FLOAT}

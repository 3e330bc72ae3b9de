"""Non-maximum suppression in an ONNX graph, by the standard operator.

Shape legend: B images, A anchors, C classes, K selected boxes of all images and classes, P prototypes of masks, M the
largest number of detections.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx.compose
import onnx.parser

from detseg.runtime.postprocess.config import PostprocessConfig
from detseg.runtime.postprocess.nms import floor_to_float32

# The candidates that the operator sees, ``candidates`` [B, C, A], and where an anchor counts for one class only that
# class, ``best`` [B, A, 1].
_EVERY_CLASS = """
    candidates = Transpose <perm = [0, 2, 1]> (dense_scores)
"""
_BEST_CLASS = """
    best = ArgMax <axis = 2, keepdims = 1> (dense_scores)
    positions = Range (zero, num_classes, one)
    is_best = Equal (best, positions)
    only_best = Where (is_best, dense_scores, below_all)
    candidates = Transpose <perm = [0, 2, 1]> (only_best)
"""
_ANY_CLASS = """
    best = ArgMax <axis = 2, keepdims = 1> (dense_scores)
    best_score = ReduceMax <keepdims = 1> (dense_scores, axis_2)
    candidates = Transpose <perm = [0, 2, 1]> (best_score)
"""
_OWN_LABEL = """
    selected_label = Identity (selected_class)
"""
_BEST_LABEL = """
    best_flat = Squeeze (best, axis_2)
    selected_label = GatherND (best_flat, selected_place)
"""

# Where boxes carry coefficients of masks, these follow their anchors.
_COEFFICIENTS = """
    pad_anchor = Expand (no_label, limit)
    all_anchor = Concat <axis = 0> (selected_anchor, pad_anchor)
    row_anchor = Gather <axis = 0> (all_anchor, order)
    top_anchor = Gather <axis = 0> (row_anchor, top_row)
    top_anchor_column = Unsqueeze (top_anchor, axis_2)
    top_coefficients = GatherND <batch_dims = 1> (dense_coefficients, top_anchor_column)
    coefficients = Where (is_found_column, top_coefficients, no_score)
"""

# The operator gives triples (image, class, anchor) [K, 3]. M rows of padding are added, so that the later steps need
# not care for the number of boxes. Then the rows are brought into the order of anchor and class, which decides between
# equal scores in detseg's own NMS as well, and each image takes its best M.
_GRAPH = """
<ir_version: 10, opset_import: ["" : OPSET]>
NMS (float[batch, anchors, 4] dense_boxes, float[batch, anchors, classes] dense_scores MORE_INPUTS)
    => (float[batch, LIMIT, 4] boxes, float[batch, LIMIT] scores, int64[batch, LIMIT] labels, int64[batch] counts
        MORE_OUTPUTS)
<int64 zero = {0}, int64 one = {1}, int64 two = {2}, int64[1] axis_1 = {1}, int64[1] axis_2 = {2},
 float below_all = {-1.0}, float no_score = {0.0}, int64 no_label = {0}, int64[1] no_image = {-1},
 int64[1] last_key = {9223372036854775807}, int64[1] limit = {LIMIT}, int64[2] rows_of_boxes = {LIMIT, 4}>
{
    batch_size_1 = Shape <start = 0, end = 1> (dense_scores)
    batch_size = Squeeze (batch_size_1)
    num_classes_1 = Shape <start = 2, end = 3> (dense_scores)
    num_classes = Squeeze (num_classes_1)
    CANDIDATES
    selected = NonMaxSuppression (dense_boxes, candidates, limit, iou, confidence)
    selected_image = Gather <axis = 1> (selected, zero)
    selected_class = Gather <axis = 1> (selected, one)
    selected_anchor = Gather <axis = 1> (selected, two)
    image_column = Unsqueeze (selected_image, axis_1)
    anchor_column = Unsqueeze (selected_anchor, axis_1)
    selected_place = Concat <axis = 1> (image_column, anchor_column)
    selected_score = GatherND (candidates, selected)
    selected_box = GatherND (dense_boxes, selected_place)
    LABEL
    anchor_start = Mul (selected_anchor, num_classes)
    selected_key = Add (anchor_start, selected_label)

    pad_score = Expand (below_all, limit)
    pad_label = Expand (no_label, limit)
    pad_image = Expand (no_image, limit)
    pad_key = Expand (last_key, limit)
    pad_box = Expand (no_score, rows_of_boxes)
    all_score = Concat <axis = 0> (selected_score, pad_score)
    all_label = Concat <axis = 0> (selected_label, pad_label)
    all_image = Concat <axis = 0> (selected_image, pad_image)
    all_key = Concat <axis = 0> (selected_key, pad_key)
    all_box = Concat <axis = 0> (selected_box, pad_box)

    num_rows = Shape (all_key)
    sorted_key, order = TopK <axis = 0, largest = 0, sorted = 1> (all_key, num_rows)
    row_score = Gather <axis = 0> (all_score, order)
    row_label = Gather <axis = 0> (all_label, order)
    row_image = Gather <axis = 0> (all_image, order)
    row_box = Gather <axis = 0> (all_box, order)

    images_flat = Range (zero, batch_size, one)
    image_numbers = Unsqueeze (images_flat, axis_1)
    is_mine = Equal (image_numbers, row_image)
    my_score = Where (is_mine, row_score, below_all)
    top_score, top_row = TopK <axis = 1, largest = 1, sorted = 1> (my_score, limit)
    is_found = GreaterOrEqual (top_score, no_score)
    scores = Where (is_found, top_score, no_score)
    top_label = Gather <axis = 0> (row_label, top_row)
    labels = Where (is_found, top_label, no_label)
    top_box = Gather <axis = 0> (row_box, top_row)
    is_found_column = Unsqueeze (is_found, axis_2)
    boxes = Where (is_found_column, top_box, no_score)
    found_count = Cast <to = 7> (is_found)
    counts = ReduceSum <keepdims = 0> (found_count, axis_1)
    MORE_NODES
}
"""


def append_nms(decoded: onnx.ModelProto, settings: PostprocessConfig) -> onnx.ModelProto:
    """``decoded`` with NMS by ``settings`` behind it: outputs ``boxes`` ``[B, M, 4]``, ``scores`` ``[B, M]``,
    ``labels`` ``[B, M]`` int64 and ``counts`` ``[B]`` int64, best first; rows past the count are 0.

    Boxes, thresholds and the order of equal scores are those of
    :func:`detseg.runtime.postprocess.nms.select_detections`, but for its limit of 30,000 candidates. With
    ``class_agnostic`` an anchor counts for its best class only, as its other classes, in the same place, would be
    suppressed by that.

    Where ``decoded`` gives ``coefficients`` ``[B, A, P]`` too, so does the result, ``[B, M, P]``, those of the boxes;
    other outputs stay as they are.
    """
    carried = [one for one in decoded.graph.output if one.name == "coefficients"]
    names = [one.name for one in carried]
    opset = next(entry.version for entry in decoded.opset_import if entry.domain == "")
    merged: onnx.ModelProto = onnx.compose.merge_models(
        _rename_outputs(decoded),
        _suppression(settings, opset, _num_prototypes(carried)),
        io_map=[(f"decoded_{name}", f"dense_{name}") for name in ("boxes", "scores", *names)],
        prefix2="nms/",
        producer_name=decoded.producer_name,
        producer_version=decoded.producer_version,
    )
    return _rename(merged, {f"nms/{name}": name for name in ("boxes", "scores", "labels", "counts", *names)})


def _num_prototypes(carried: Sequence[onnx.ValueInfoProto]) -> int | str | None:
    """How many coefficients a box has, or the name of a free number of them; None where there are none."""
    if not carried:
        return None
    side = carried[0].type.tensor_type.shape.dim[2]
    return side.dim_value or "prototypes"


def _suppression(settings: PostprocessConfig, opset: int, num_prototypes: int | str | None) -> onnx.ModelProto:
    if settings.class_agnostic:
        candidates, label = _ANY_CLASS, _BEST_LABEL
    else:
        candidates, label = (_EVERY_CLASS if settings.multi_label else _BEST_CLASS), _OWN_LABEL
    text = _GRAPH.replace("CANDIDATES", candidates).replace("LABEL", label)
    more_inputs, more_outputs, more_nodes = "", "", ""
    if num_prototypes is not None:
        more_inputs = f", float[batch, anchors, {num_prototypes}] dense_coefficients"
        more_outputs = f", float[batch, LIMIT, {num_prototypes}] coefficients"
        more_nodes = _COEFFICIENTS
    for place, more in (("INPUTS", more_inputs), ("OUTPUTS", more_outputs), ("NODES", more_nodes)):
        text = text.replace(f"MORE_{place}", more)
    model = onnx.parser.parse_model(text.replace("OPSET", str(opset)).replace("LIMIT", str(settings.max_detections)))
    for name, value in (("iou", settings.iou), ("confidence", settings.confidence)):
        # As the comparison is in float32 here, by the float32 that decides as the number itself would.
        limit = onnx.helper.make_tensor(name, onnx.TensorProto.FLOAT, [1], [float(floor_to_float32(value))])
        model.graph.initializer.append(limit)
    return model


def _rename_outputs(decoded: onnx.ModelProto) -> onnx.ModelProto:
    return _rename(decoded, {name: f"decoded_{name}" for name in ("boxes", "scores", "coefficients")})


def _rename(model: onnx.ModelProto, names: dict[str, str]) -> onnx.ModelProto:
    renamed = onnx.ModelProto()
    renamed.CopyFrom(model)
    for node in renamed.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in renamed.graph.output:
        value.name = names.get(value.name, value.name)
    return renamed

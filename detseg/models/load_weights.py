"""Weights from files: our own safetensors, and checkpoints of YOLOX, LETNet and MONAI's VNet under their own names."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

# The front of an official YOLOX name -> ours.
YOLOX_MODULES = (
    ("backbone.backbone.stem.", "backbone.stem."),
    ("backbone.backbone.dark2.", "backbone.stages.0."),
    ("backbone.backbone.dark3.", "backbone.stages.1."),
    ("backbone.backbone.dark4.", "backbone.stages.2."),
    ("backbone.backbone.dark5.", "backbone.stages.3."),
    ("backbone.lateral_conv0.", "neck.top_down.0.reduce."),
    ("backbone.C3_p4.", "neck.top_down.0.block."),
    ("backbone.reduce_conv1.", "neck.top_down.1.reduce."),
    ("backbone.C3_p3.", "neck.top_down.1.block."),
    ("backbone.bu_conv2.", "neck.bottom_up.0.down."),
    ("backbone.C3_n3.", "neck.bottom_up.0.block."),
    ("backbone.bu_conv1.", "neck.bottom_up.1.down."),
    ("backbone.C3_n4.", "neck.bottom_up.1.block."),
    ("head.stems.", "head.stems."),
    ("head.cls_convs.", "head.class_convs."),
    ("head.reg_convs.", "head.box_convs."),
    ("head.cls_preds.", "head.class_preds."),
    ("head.reg_preds.", "head.box_preds."),
    ("head.obj_preds.", "head.objectness_preds."),
)
YOLOX_PARTS = ((".m.", ".blocks."), (".dconv.", ".depthwise."), (".pconv.", ".pointwise."))

# The front of a name of the published LETNet, as a pattern -> ours; \1 is the number of a stage or of a block.
LETNET_MODULES = (
    (r"init_conv\.", "stem."),
    (r"bn_prelu_1\.", "stem.3."),
    (r"downsample_(\d)\.bn_prelu\.", r"down\1.norm."),
    (r"downsample_(\d)\.", r"down\1."),
    (r"DAB_Block_(\d)\.DAB_Module_\d_", r"stage\1."),
    (r"bn_prelu_2\.", "norm1."),
    (r"bn_prelu_3\.", "norm2."),
    (r"bn_prelu_4\.", "norm3."),
    (r"transformer1\.atten\.", "transformer.attention."),
    (r"transformer1\.mlp\.fc1\.", "transformer.mlp.0."),
    (r"transformer1\.mlp\.fc2\.", "transformer.mlp.2."),
    (r"transformer1\.", "transformer."),
    (r"upsample_(\d)\.", r"up\1."),
    (r"bn_prelu_5\.", "up1.norm."),
    (r"bn_prelu_6\.", "up2.norm."),
    (r"bn_prelu_7\.", "up3.norm."),
    (r"PA1\.", "unused.0."),
    (r"PA2\.", "unused.1."),
    (r"PA3\.", "up3.attention."),
    (r"LC(\d)\.dconv3x1\.", r"skip\1.first."),
    (r"LC(\d)\.dconv1x3\.", r"skip\1.last."),
    (r"classifier\.0\.conv\.", "classifier."),
)
LETNET_PARTS = (
    (".bn_relu_1.", ".pre."),
    (".bn_relu_2.", ".post."),
    (".conv1x1_in.conv.", ".squeeze."),
    (".conv1x1.conv.", ".unsqueeze."),
    (".conv3x1.", ".dense.0."),
    (".conv1x3.", ".dense.1."),
    (".ddconv3x1.", ".far.0."),
    (".ddconv1x3.", ".far.1."),
    (".dconv3x1.", ".near.0."),
    (".dconv1x3.", ".near.1."),
    (".ca11.", ".near_weights."),
    (".ca22.", ".far_weights."),
    (".conv3x3.conv.", ".conv."),
    (".bn_prelu.", "."),
    (".acti.", ".act."),
)

# The front of a name of MONAI's VNet -> ours, and patterns for the rest of such a name.
MONAI_VNET_MODULES = (
    ("in_tr.conv_block.", "stem.convs.0."),
    ("in_tr.act_function.", "stem.act."),
    ("down_tr32.", "downs.0."),
    ("down_tr64.", "downs.1."),
    ("down_tr128.", "downs.2."),
    ("down_tr256.", "downs.3."),
    ("up_tr256.", "ups.0."),
    ("up_tr128.", "ups.1."),
    ("up_tr64.", "ups.2."),
    ("up_tr32.", "ups.3."),
    ("out_tr.conv_block.", "classifier.hidden."),
    ("out_tr.act_function1.", "classifier.act."),
    ("out_tr.conv2.", "classifier.conv."),
)
MONAI_VNET_PARTS = (
    (r"\.(down|up)_conv\.", ".resample.conv."),
    (r"\.bn1\.", ".resample.norm."),
    (r"\.act_function1\.", ".resample_act."),
    (r"\.act_function2\.", ".stage.act."),
    (r"\.ops\.(\d+)\.conv_block\.", r".stage.convs.\1."),
    (r"\.ops\.(\d+)\.act_function\.", r".stage.inner_acts.\1."),
    (r"\.adn\.N\.", ".norm."),
)

NAMES_SHOWN = 10


class WeightsError(ValueError):
    """A file of weights cannot be read, or does not fit the model."""


@dataclass(frozen=True)
class LoadReport:
    """What became of the names: ``mapped`` and ``missing`` are the model's, ``unused`` the file's.

    A weight whose shape differs is both missing and unused.
    """

    mapped: tuple[str, ...]
    unused: tuple[str, ...]
    missing: tuple[str, ...]


def load_weights(model: nn.Module, path: str | Path, strict: bool = True) -> LoadReport:
    """Load a file of weights into ``model``, in place, or leave it untouched when the file does not fit.

    Args:
        model: the network; the weights take its precision and device.
        path: ``.safetensors``; ``.pth`` or ``.pt`` with tensors only, a state dict or ``{"model": state dict}``. The
            names are the model's own, or those of YOLOX, of the published LETNet or of MONAI's VNet.
        strict: every weight of the file and of the model must find its match. Otherwise those without one keep their
            values and are reported: a detector for other classes starts from the rest.

    Raises:
        WeightsError: the file is missing, unreadable or holds objects other than tensors; a weight has no match or
            another shape and ``strict`` is set; no weight matches at all.
    """
    path = Path(path)
    names_and_weights = {_own_name(name): (name, weight) for name, weight in _read(path).items()}
    own = model.state_dict()
    problems, mapped = [], {}
    for own_name, (name, weight) in names_and_weights.items():
        if own_name not in own:
            problems.append(f"unused: {name}")
        elif own[own_name].shape != weight.shape:
            problems.append(
                f"shape of {name}: {list(weight.shape)} in the file, {list(own[own_name].shape)} in the model"
            )
        else:
            mapped[own_name] = weight
    problems += [f"missing: {own_name}" for own_name in own if own_name not in names_and_weights]
    if problems and (strict or not mapped):
        raise WeightsError(f"{path} does not fit the model ({len(mapped)} weights fit): {_listing(problems)}")
    model.load_state_dict(mapped, strict=False)
    return LoadReport(
        mapped=tuple(mapped),
        unused=tuple(name for own_name, (name, _) in names_and_weights.items() if own_name not in mapped),
        missing=tuple(own_name for own_name in own if own_name not in mapped),
    )


def _listing(problems: list[str]) -> str:
    rest = len(problems) - NAMES_SHOWN
    return "; ".join(problems[:NAMES_SHOWN]) + (f"; and {rest} more" if rest > 0 else "")


def _own_name(name: str) -> str:
    for front, own_front in YOLOX_MODULES:
        if name.startswith(front):
            name = own_front + name.removeprefix(front)
            for part, own_part in YOLOX_PARTS:
                name = name.replace(part, own_part)
            return name
    for pattern, own_front in LETNET_MODULES:
        name, num_found = re.subn(rf"^{pattern}", own_front, name)
        if num_found:
            for part, own_part in LETNET_PARTS:
                name = name.replace(part, own_part)
            return name
    for front, own_front in MONAI_VNET_MODULES:
        if name.startswith(front):
            name = own_front + name.removeprefix(front)
            for pattern, own_part in MONAI_VNET_PARTS:
                name = re.sub(pattern, own_part, name)
            return name
    return name


def _read(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"no file of weights at {path}")
    match path.suffix.lower():
        case ".safetensors":
            try:
                return load_file(path)
            except SafetensorError as error:
                raise WeightsError(f"{path} is not a whole safetensors file: {error}") from error
        case ".pth" | ".pt":
            return _read_torch(path)
    raise WeightsError(f"{path} must end in .safetensors, .pth or .pt")


def _read_torch(path: Path) -> Mapping[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} cannot be read as plain tensors; other Python objects are refused, because loading them could run "
            f"foreign code"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise WeightsError(f"{path} is not a whole torch file: {error}") from error
    weights = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not all(isinstance(weight, Tensor) for weight in weights.values()):
        raise WeightsError(f'{path} must hold a state dict, or one under "model"')
    return weights

"""Classification networks of torchvision and timm as feature pyramids at strides 8, 16 and 32."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from detseg.models.backbones.completed import CompletedPyramid, FeatureMap, maps_at
from detseg.models.backbones.pretrained import find_timm_weights, load_torchvision_weights
from detseg.models.base import Backbone

STRIDES = (8, 16, 32)
# Height and width differ, so that [B, C, H, W] and [B, H, W, C] cannot be confused.
PROBE_SIZES = ((128, 192), (512, 768))
"""Of a trial run; the second, where the first does not find all maps: what borders cost counts less there."""

_ANY_SIZE: tuple[dict[str, bool], ...] = (
    {},
    {"dynamic_img_size": True},
    {"dynamic_img_size": True, "dynamic_img_pad": True},
)
"""What a network of timm may need to be built with to take images of any size: transformers adapt their positions, and
pad what is no multiple of their patches, where they are asked to."""

# Auxiliary classifiers serve classification only; these networks' own initialization is slow.
BUILD_OPTIONS: dict[str, dict[str, bool]] = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": False, "init_weights": False},
}


@dataclass(frozen=True)
class AdapterConfig:
    """A torchvision network by its own name, or ``name: torchvision`` or ``timm`` with the network's name as
    ``arch``."""

    name: str
    arch: str | None = None
    """The library's name of the network, where ``name`` is ``torchvision`` or ``timm``."""
    pretrained: bool = False
    """Loads the library's default ImageNet weights from its local cache. Nothing is ever downloaded; where the file is
    missing, the error says how to get it. These weights expect ImageNet's mean and standard deviation."""
    image_size: tuple[int, int] | None = None
    """Height and width for which a timm network of one resolution (BEiT, CaiT, LeViT, ...) is built, and to which it
    resizes images; null: its own. No other network takes it."""

    def __post_init__(self) -> None:
        if self.name in ("torchvision", "timm"):
            if self.arch is None:
                raise ValueError(f"backbone {self.name} needs arch: the name of one of its networks, such as resnet50")
        elif self.arch is not None:
            raise ValueError(f"backbone {self.name} takes no arch; write name: torchvision or timm to give one")
        if self.image_size is not None and (self.name != "timm" or min(self.image_size) < 1):
            raise ValueError(
                f"backbone {self.name}: image_size is for networks of timm, two numbers above 0, got {self.image_size}"
            )

    def build(self) -> Backbone:
        """The network without its classifier.

        Raises:
            ValueError: the library does not know the network, it has no map near the strides 8, 16 and 32, or the
                pretrained weights are not in the cache.
            ImportError: timm is asked for and not installed.
        """
        if self.name == "timm":
            assert self.arch is not None
            return TimmPyramid(self.arch, self.pretrained, self.image_size)
        return TorchvisionPyramid(self.arch or self.name, self.pretrained)


class TorchvisionPyramid(Backbone):
    """The part of a torchvision classification network that leads to its last maps at strides 8, 16 and 32, or nearest
    to them; see :class:`detseg.models.backbones.completed.CompletedPyramid`."""

    def __init__(self, arch: str, pretrained: bool = False) -> None:
        super().__init__()
        known = torchvision.models.list_models(module=torchvision.models)
        if arch not in known:
            raise ValueError(f"torchvision has no classification network {arch!r}; it has {', '.join(known)}")
        model = torchvision.models.get_model(arch, weights=None, **BUILD_OPTIONS.get(arch, {}))
        found = _find_maps(arch, model)
        self.maps = list(found.values())
        if pretrained:
            load_torchvision_weights(model, arch)
        self.body = create_feature_extractor(model, [one.key for one in self.maps])
        self.completed = CompletedPyramid(STRIDES, found)
        self.channels = self.completed.channels
        self.strides = STRIDES

    def forward(self, images: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> the maps at strides 8, 16 and 32."""
        outputs: Mapping[str, Tensor] = self.body(images)
        maps = [_channels_first(outputs[found.key], found) for found in self.maps]
        return self.completed(maps, *images.shape[2:])  # type: ignore[no-any-return]


class TimmPyramid(Backbone):
    """The maps of a timm network at strides 8, 16 and 32, or nearest to them, completed likewise.

    A network that takes images of one size only, ``image_size`` or its own, gets them resized (bilinear) to that.
    """

    def __init__(self, arch: str, pretrained: bool = False, image_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        try:
            timm = importlib.import_module("timm")
        except ModuleNotFoundError as error:
            raise ImportError(f"backbone timm, arch {arch}, needs the package timm: pip install timm") from error
        if arch not in timm.list_models():
            close = ", ".join(timm.list_models(f"*{arch[:4]}*")[:20]) or "see timm.list_models()"
            raise ValueError(f"timm has no network {arch!r}; similar names: {close}")
        weights = {"pretrained_cfg_overlay": {"file": str(find_timm_weights(timm, arch))}} if pretrained else {}
        found, options, self.image_size = _find_timm_maps(timm, arch, image_size)
        self.maps = list(found.values())
        self.completed = CompletedPyramid(STRIDES, found)
        self.channels = self.completed.channels
        self.strides = STRIDES
        indices = [int(one.key) for one in self.maps]
        self.body: nn.Module = timm.create_model(
            arch, pretrained=pretrained, features_only=True, out_indices=indices, **options, **weights
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> the maps at strides 8, 16 and 32."""
        one_size = self.image_size
        outputs = self.body(images if one_size is None else F.interpolate(images, one_size, mode="bilinear"))
        maps = [_channels_first(output, found) for output, found in zip(outputs, self.maps, strict=True)]
        return self.completed(maps, *images.shape[2:])  # type: ignore[no-any-return]


def _channels_first(features: Tensor, found: FeatureMap) -> Tensor:
    return features.permute(0, 3, 1, 2) if found.channels_last else features


def _find_timm_maps(
    timm: Any, arch: str, image_size: tuple[int, int] | None
) -> tuple[dict[int, FeatureMap], dict[str, Any], tuple[int, int] | None]:
    """The maps of timm's ``arch`` by stride, keys are their indices, what it must be built with, and the size to which
    images must be resized; None: it takes those of any size.

    Raises:
        ValueError: it has no maps, or cannot be built for ``image_size``.
    """
    refused = None
    for options in _ANY_SIZE:
        try:
            found = _timm_maps(timm, arch, options, PROBE_SIZES)
        except _REFUSALS as error:
            refused = refused or error
            continue
        if image_size is not None:
            raise ValueError(f"timm's {arch} takes images of any size; leave image_size out")
        return _require_some(arch, found), dict(options), None
    _, *sides = timm.get_pretrained_cfg(arch).input_size
    own: tuple[int, int] = (sides[0], sides[1])
    chosen: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    size = image_size or own
    try:
        return _require_some(arch, _timm_maps(timm, arch, chosen, (size,))), chosen, size
    except _REFUSALS as error:
        way_out = f"another image_size, or none for its own {own[0]}x{own[1]}" if image_size else "another network"
        raise ValueError(
            f"timm's {arch} takes images of one size only ({refused}), and none of {size[0]}x{size[1]} ({error}); "
            f"choose {way_out}"
        ) from error


_REFUSALS = (AssertionError, RuntimeError, TypeError, ValueError)
"""What networks of timm raise where they cannot be built, or cannot take an image."""


def _timm_maps(
    timm: Any, arch: str, options: Mapping[str, Any], sizes: Sequence[tuple[int, int]]
) -> dict[int, FeatureMap]:
    """The maps that a trial run finds with an image of the first of ``sizes`` that shows all of them, or else the
    last."""
    probe = timm.create_model(arch, features_only=True, **options).eval()
    found: dict[int, FeatureMap] = {}
    for height, width in sizes:
        with torch.no_grad():
            outputs = probe(torch.zeros(1, 3, height, width))
        found = maps_at(STRIDES, {str(index): output for index, output in enumerate(outputs)}, height, width)
        if len(found) == len(STRIDES):
            break
    return found


def _find_maps(arch: str, model: nn.Module) -> dict[int, FeatureMap]:
    """The last maps of ``model`` through which everything flows, found by a trial run.

    In a residual network that is the end of a stage: the first convolutions of the next stage have the same resolution,
    but part of the information passes them by.
    """
    _, names = get_graph_node_names(model)
    whole = create_feature_extractor(model, names).eval()
    found: dict[int, FeatureMap] = {}
    for height, width in PROBE_SIZES:
        with torch.no_grad():
            outputs = whole(torch.zeros(1, 3, height, width))
        found = maps_at(STRIDES, {key: outputs[key] for key in _junctions(whole.graph)}, height, width)
        if len(found) == len(STRIDES):
            break
    return _require_some(arch, found)


def _junctions(graph: fx.Graph) -> list[str]:
    """The outputs of ``graph`` that lie on every path from its input to its end, in order."""
    nodes = list(graph.nodes)
    end = nodes[-1]
    position = {node: index for index, node in enumerate(nodes)}
    key_of_node = {node: key for key, node in end.args[0].items()}
    reached = {node for node in nodes if node.op == "placeholder"}
    junctions, furthest = [], 0
    for index, node in enumerate(nodes[:-1]):
        if reached.isdisjoint((node, *node.all_input_nodes)):
            continue
        reached.add(node)
        if furthest <= index and node in key_of_node:
            junctions.append(key_of_node[node])
        furthest = max(furthest, *(position[user] for user in node.users if user is not end), index)
    return junctions


def _require_some(arch: str, found: Mapping[int, FeatureMap]) -> dict[int, FeatureMap]:
    if not found:
        raise ValueError(f"{arch} has no feature map near any of the strides {STRIDES}, which a backbone needs")
    return dict(found)

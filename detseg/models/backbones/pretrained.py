"""ImageNet weights of torchvision and timm from the local caches of these libraries. Nothing here uses the network."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision
from torch import nn


class PretrainedError(ValueError):
    """Pretrained weights were asked for and cannot be had."""


def load_torchvision_weights(model: nn.Module, arch: str) -> None:
    """Load torchvision's default weights of ``arch``, in place.

    Raises:
        PretrainedError: the file is not in torch's cache, or does not fit the model.
    """
    url = torchvision.models.get_model_weights(arch).DEFAULT.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not path.is_file():
        raise PretrainedError(
            f"the pretrained weights of {arch} are not at {path}. A configuration never downloads; do it once with: "
            f"python -c \"import torchvision; torchvision.models.get_model('{arch}', weights='DEFAULT')\""
        )
    weights = torch.load(path, map_location="cpu", weights_only=True)
    # The files of the DenseNets are older than the names in the code: norm.1 there is norm1 here.
    weights = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key): weights[key] for key in weights}
    result = model.load_state_dict(weights, strict=False)
    # What is unused are auxiliary classifiers.
    if missing := [key for key in result.missing_keys if not key.endswith("num_batches_tracked")]:
        raise PretrainedError(f"{path} lacks weights of {arch}: {', '.join(missing)}")


def find_timm_weights(timm: Any, arch: str) -> Path:
    """The file with timm's default weights of ``arch``.

    Raises:
        PretrainedError: timm has none, or they are not in the cache of the Hugging Face hub.
    """
    config = timm.get_pretrained_cfg(arch)
    if config is None or config.hf_hub_id is None:
        raise PretrainedError(f"timm has no pretrained weights for {arch}; set pretrained: false")
    hub = importlib.import_module("huggingface_hub")
    path = hub.try_to_load_from_cache(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
    if not isinstance(path, str):
        raise PretrainedError(
            f"the pretrained weights of timm's {arch} ({config.hf_hub_id}) are not in the local cache. A configuration "
            f"never downloads; do it once with: python -c \"import timm; timm.create_model('{arch}', pretrained=True)\""
        )
    return Path(path)

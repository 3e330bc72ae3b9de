from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision

from detseg.models.backbones.adapter import AdapterConfig
from detseg.models.backbones.pretrained import PretrainedError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def _file_name(arch: str) -> str:
    return torchvision.models.get_model_weights(arch).DEFAULT.url.rpartition("/")[2]


@pytest.mark.parametrize("settings", [("resnet18", None), ("timm", "resnet18")])
def test_weights_that_are_not_here_are_not_downloaded(
    cache: Path, settings: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    with pytest.raises(PretrainedError, match="never downloads; do it once with: python -c"):
        AdapterConfig(*settings, pretrained=True).build()


@pytest.mark.parametrize("arch", ["resnet18", "googlenet", "densenet121"])
def test_weights_from_the_cache_are_loaded(cache: Path, arch: str) -> None:
    options = {"aux_logits": True, "init_weights": False} if arch == "googlenet" else {}
    source = torchvision.models.get_model(arch, weights=None, **options).state_dict()
    # As the files of the DenseNets have it.
    file = {name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value for name, value in source.items()}
    torch.save(file if arch == "densenet121" else source, cache / _file_name(arch))
    loaded = AdapterConfig(arch, pretrained=True).build().body.state_dict()
    assert len(loaded) > 100
    for name, value in loaded.items():
        assert torch.equal(value, source[name]), name


def test_weights_of_another_network_are_refused(cache: Path) -> None:
    torch.save(torchvision.models.resnet18().state_dict(), cache / _file_name("resnet34"))
    with pytest.raises(PretrainedError, match=r"lacks weights of resnet34: layer1\.2"):
        AdapterConfig("resnet34", pretrained=True).build()

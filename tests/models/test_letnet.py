from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from detseg.layers.ldb import ChannelShuffle
from detseg.models import MODELS
from detseg.models.letnet import LETNet, LETNetConfig
from detseg.models.load_weights import load_weights
from tests.models.tester import ModelTester

NEVER_USED = {f"unused.{index}.conv.{part}" for index in (0, 1) for part in ("weight", "bias")}


def settled(num_classes: int = 3) -> LETNet:
    """In evaluation, with statistics and slopes of all kinds, and weights so small that values do not grow from block
    to block: those of a new network do in evaluation, until rounding decides which token attention looks at."""
    torch.manual_seed(0)
    model = LETNetConfig().build(num_classes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.5, 0.5)
        elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.reset_parameters()
    return model.eval()


class TestLETNet(ModelTester):
    config = LETNetConfig()
    class_counts = (1, 11)
    sizes = ((32, 32), (33, 61), (47, 96), (90, 45))

    def build(self, num_classes: int = 3) -> nn.Module:
        return settled(num_classes) if num_classes else LETNetConfig().build(num_classes)

    def expected_shapes(self, num_classes: int, height: int, width: int) -> list[tuple[int, ...]]:
        return [(num_classes, height, width)]

    @pytest.mark.parametrize(("height", "width"), [(31, 64), (64, 31)])
    def test_smaller_than_32_is_refused(self, height: int, width: int) -> None:
        with pytest.raises(ValueError, match=f"at least 32, got {height}x{width}"):
            self.build()(torch.zeros(1, 3, height, width))

    def test_only_what_is_never_used_is_frozen(self) -> None:
        model = LETNetConfig().build(3)
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        assert frozen == NEVER_USED


@pytest.fixture(scope="module")
def reference(detseg_data: Path) -> Mapping[str, Tensor]:
    return load_file(detseg_data / "reference" / "letnet_reference.safetensors")


@pytest.fixture
def published(reference: Mapping[str, Tensor], tmp_path: Path) -> LETNet:
    """The network with the reference's weights, read under their published names."""
    weights = {name.removeprefix("model."): value for name, value in reference.items() if name.startswith("model.")}
    save_file(weights, tmp_path / "published.safetensors")
    model = LETNetConfig().build(11).eval()
    report = load_weights(model, tmp_path / "published.safetensors", strict=False)
    assert report.unused == ()
    # The file leaves out what counts the batches; evaluation does not look at it.
    assert all(name.endswith("num_batches_tracked") for name in report.missing)
    return model


@pytest.mark.parametrize("fused", [False, True])
def test_computes_what_the_published_network_does(
    fused: bool, reference: Mapping[str, Tensor], published: LETNet
) -> None:
    model = published.fuse() if fused else published
    with torch.no_grad():
        logits = model(reference["input"])
    # The demand is 1e-4; a wrong scale of the attention already shows at 2e-5.
    torch.testing.assert_close(logits, reference["output"], rtol=0, atol=2e-6)


def test_published_names_of_every_weight_lead_to_one_of_ours(reference: Mapping[str, Tensor]) -> None:
    own = LETNetConfig().build(11).state_dict()
    count = sum(name.startswith("model.") for name in reference)
    assert count == sum(not name.endswith("num_batches_tracked") for name in own)


@pytest.mark.parametrize(("num_classes", "expected"), [(19, 951_216), (11, 951_088)])
def test_parameter_counts(num_classes: int, expected: int) -> None:
    with torch.device("meta"):
        model = LETNetConfig().build(num_classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_multiply_adds() -> None:
    """13.6 G at 512x1024, says the paper."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        LETNetConfig().build(19).eval()(torch.empty(1, 3, 512, 1024))
    assert counter.get_total_flops() / 2 == pytest.approx(13.6e9, rel=0.03)


def test_initial_weights() -> None:
    torch.manual_seed(0)
    model = LETNetConfig().build(19)
    conv = model.down3.conv  # 128 channels, 3x3
    assert conv.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.05)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.1)}
    slopes = [module for module in model.modules() if isinstance(module, nn.PReLU)]
    assert all(slope.num_parameters > 1 for slope in slopes)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 61), (360, 480)])
def test_fused_network_computes_the_same(height: int, width: int) -> None:
    model = settled().double()
    images = torch.rand(1, 3, height, width, dtype=torch.float64)
    fused = copy.deepcopy(model).fuse().fuse()
    assert not any(isinstance(module, ChannelShuffle) for module in fused.modules())
    # What remains lies between a sum or an activation and a PReLU: there is no convolution to fold it into.
    assert all(name.endswith("bn") for name, module in fused.named_modules() if isinstance(module, nn.BatchNorm2d))
    with torch.no_grad():
        torch.testing.assert_close(fused(images), model(images), rtol=1e-6, atol=1e-6)


def test_fused_network_equals_in_single_precision(published: LETNet) -> None:
    images = torch.rand(1, 3, 360, 480, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = published(images)
        after = published.fuse()(images)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


def test_fusing_while_training_is_refused() -> None:
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        LETNetConfig().build(3).fuse()


def test_pixels_stay_where_they_are() -> None:
    """What the last layer sees at a place reaches the same pixels in an image cut to an odd size as in the whole."""
    model = settled()
    images = torch.rand(1, 3, 64, 64)
    grid = torch.zeros(1, 16, 32, 32)
    grid[..., 3, 5] = grid[..., 20, 28] = 1.0
    # In place of what looks at the whole image.
    model.up3.forward = lambda x, like: grid[..., : like.shape[-2], : like.shape[-1]]  # type: ignore[method-assign]
    with torch.no_grad():
        whole, cut = model(images), model(images[..., :51, :63])
    torch.testing.assert_close(cut, whole[..., :51, :63])


@pytest.mark.slow
def test_one_exported_graph_takes_every_size(published: LETNet, tmp_path: Path) -> None:
    path = tmp_path / "letnet.onnx"
    sides = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=32), 3: torch.export.Dim("width", min=32)}
    torch.onnx.export(
        published.fuse(), (torch.rand(2, 3, 75, 98),), path, dynamo=True, dynamic_shapes=(sides,), verbose=False
    )
    session = onnxruntime.InferenceSession(str(path))
    (name,) = (value.name for value in session.get_inputs())
    for shape in ((2, 3, 75, 98), (1, 3, 128, 192), (1, 3, 32, 33), (1, 3, 360, 480)):
        images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = published(images).numpy()
        np.testing.assert_allclose(session.run(None, {name: images.numpy()})[0], expected, rtol=0, atol=1e-5)


def test_table_names_it() -> None:
    assert MODELS["letnet"] == f"{LETNetConfig.__module__}:{LETNetConfig.__name__}"

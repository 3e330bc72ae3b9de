from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from monai.networks.nets import VNet as MonaiVNet
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from detseg.config import from_dict
from detseg.layers.volumetric import SameConv3d
from detseg.models import MODELS
from detseg.models.load_weights import load_weights
from detseg.models.vnet import MONAI_VNET, VNet, VNetConfig
from tests.models.tester import ModelTester

TINY = VNetConfig(width=4, num_convolutions=(1, 2, 1), kernel_size=3)
VNET_S = VNetConfig(kernel_size=3, num_convolutions=(1, 2, 2, 2), norm="instance")


def settle(model: nn.Module) -> None:
    """Statistics and slopes of all kinds, and weights so small that values do not grow from stage to stage."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.5, 0.5)
        elif isinstance(module, (nn.Conv3d, nn.ConvTranspose3d)):
            module.reset_parameters()


def build(config: VNetConfig, num_classes: int = 3) -> VNet:
    torch.manual_seed(0)
    model = config.build(num_classes)
    settle(model)
    return model.eval()


def volumes(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


class VolumeTester(ModelTester):
    """The tester's images are volumes here: ``height`` stands for the depth as well."""

    class_counts = (1, 3)
    sizes = ((16, 8), (9, 17))

    def images(self, height: int = 12, width: int = 16) -> Tensor:
        return volumes(self.batch_size, 1, height, height, width)

    def expected_shapes(self, num_classes: int, height: int, width: int) -> list[tuple[int, ...]]:
        return [(num_classes, height, height, width)]

    def test_class_counts_and_shapes(self) -> None:
        for num_classes in self.class_counts:
            outputs = self.outputs(self.build(num_classes), self.images())
            assert [tuple(output.shape[1:]) for output in outputs] == self.expected_shapes(num_classes, 12, 16)


class TestBatchNorm(VolumeTester):
    config = TINY


class TestInstanceNorm(VolumeTester):
    config = dataclasses.replace(TINY, norm="instance", strides=((1, 2, 2), (2, 2, 2)))

    def test_every_trained_parameter_gets_a_finite_gradient(self) -> None:
        """But for a bias, which the norm of a volume cancels, as that of a batch does up to rounding."""
        model = self.build().train()
        for up in model.ups:  # type: ignore[union-attr]
            up.resample.conv.bias.requires_grad_(False)  # type: ignore[union-attr]
        for output in self.outputs(model, self.images()):
            (output**2).mean().backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert bool(parameter.grad.isfinite().all()), name
                assert bool((parameter.grad != 0).any()), name


class TestResidualEncoder(VolumeTester):
    config = dataclasses.replace(TINY, num_blocks=(1, 2, 2), num_up_convolutions=(1, 1))


class TestNoNorm(VolumeTester):
    config = dataclasses.replace(TINY, norm="none", max_width=6, num_up_convolutions=(2, 1))


class TestMonaiStyle(VolumeTester):
    config = dataclasses.replace(MONAI_VNET, width=4, kernel_size=3, dropout=0.0)


class TestDeepSupervision(VolumeTester):
    config = dataclasses.replace(TINY, num_convolutions=(1, 1, 1, 1), deep_supervision=True, dropout=0.1)

    def outputs(self, model: nn.Module, images: Tensor) -> list[Tensor]:
        outputs = model(images)
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    def build(self, num_classes: int = 3) -> nn.Module:
        return super().build(num_classes).eval()


def save_monai(model: nn.Module, folder: Path) -> Path:
    save_file(model.state_dict(), folder / "monai.safetensors")
    return folder / "monai.safetensors"


@pytest.fixture(scope="module", params=["prelu", "elu"])
def monai_pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, VNet]:
    torch.manual_seed(0)
    reference = MonaiVNet(out_channels=3, act=request.param)
    settle(reference)
    own = dataclasses.replace(MONAI_VNET, activation=request.param).build(3)
    report = load_weights(own, save_monai(reference, tmp_path_factory.mktemp("monai")))
    assert report.unused == report.missing == ()
    return reference, own


def test_computes_what_monai_does(monai_pair: tuple[nn.Module, VNet]) -> None:
    reference, own = monai_pair
    images = volumes(1, 1, 32, 48, 32)
    with torch.no_grad():
        expected = reference.eval()(images)
        assert expected.abs().max() > 0.5, "values too small to tell"
        torch.testing.assert_close(own.eval()(images), expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(copy.deepcopy(own).fuse()(images), expected, rtol=0, atol=1e-5)


def test_trains_as_monai_does(monai_pair: tuple[nn.Module, VNet]) -> None:
    """Dropout included, which draws the same numbers."""
    reference, own = (copy.deepcopy(model).train() for model in monai_pair)
    images = volumes(2, 1, 16, 32, 16)
    outputs = []
    for model in (reference, own):
        torch.manual_seed(2)
        outputs.append(model(images))
        (outputs[-1] ** 2).mean().backward()
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-4)
    for name in ("running_mean", "running_var"):
        statistics = (
            getattr(model.get_submodule(path), name)
            for model, path in ((reference, "up_tr32.ops.0.conv_block.adn.N"), (own, "ups.3.stage.convs.0.norm"))
        )
        torch.testing.assert_close(*statistics, rtol=1e-5, atol=1e-5)
    grads = [
        model.get_parameter(name).grad
        for model, name in (
            (reference, "up_tr64.ops.0.conv_block.conv.weight"),
            (own, "ups.2.stage.convs.0.conv.weight"),
        )
    ]
    scale = grads[0].abs().max()
    torch.testing.assert_close(grads[1] / scale, grads[0] / scale, rtol=0, atol=1e-4)


def test_monai_weights_start_a_network_for_other_classes(tmp_path: Path) -> None:
    reference = MonaiVNet(out_channels=2)
    report = load_weights(MONAI_VNET.build(4), save_monai(reference, tmp_path), strict=False)
    assert all(name.startswith("out_tr.") for name in report.unused)
    assert all(name.startswith("classifier.") for name in report.missing)


@pytest.mark.parametrize(
    ("config", "expected"),
    [(VNetConfig(), 65_179_043), (MONAI_VNET, 45_601_906), (VNET_S, 2_491_587)],
    ids=["paper", "monai", "small"],
)
def test_parameter_counts(config: VNetConfig, expected: int) -> None:
    with torch.device("meta"):
        model = config.build(3)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_widths() -> None:
    config = VNetConfig(width=4, max_width=10, num_convolutions=(1, 1, 1, 2), num_up_convolutions=(1, 2, 3))
    model = config.build(3)
    assert [down.resample.conv.out_channels for down in model.downs] == [8, 10, 10]
    assert [up.resample.conv.out_channels for up in model.ups] == [10, 8, 4]
    assert [len(up.stage.convs) for up in model.ups] == [3, 2, 1]
    assert model.classifier.in_channels == 8


@pytest.mark.parametrize("size", [(1, 1, 1), (8, 8, 8), (7, 5, 3), (13, 4, 11)])
@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
def test_any_size(size: tuple[int, int, int], norm: Any) -> None:
    model = build(dataclasses.replace(TINY, norm=norm))
    with torch.no_grad():
        logits = model(volumes(2, 1, *size))
    assert logits.shape == (2, 3, *size)
    assert bool(logits.isfinite().all())


def test_padding_is_zeros_at_the_far_ends() -> None:
    model = build(TINY)
    images = volumes(1, 1, 9, 6, 11)
    with torch.no_grad():
        padded = model(F.pad(images, (0, 1, 0, 2, 0, 3)))
        torch.testing.assert_close(model(images), padded[..., :9, :6, :11])


def test_deep_supervision_gives_every_level_of_the_way_up_but_in_evaluation() -> None:
    config = dataclasses.replace(
        TINY, num_convolutions=(1, 1, 1, 1), strides=((1, 2, 2), (2, 2, 2), (2, 2, 2)), deep_supervision=True
    )
    model = build(config)
    images = volumes(2, 1, 10, 17, 16)
    expected = [(2, 3, 10, 17, 16), (2, 3, 10, 9, 8), (2, 3, 5, 5, 4)]
    assert [tuple(logits.shape) for logits in model.train()(images)] == expected
    assert model.eval()(images).shape == expected[0]
    with torch.no_grad():
        nn.init.zeros_(model.coarse_classifiers[0].weight)
        nn.init.constant_(model.coarse_classifiers[0].bias, 7.0)
        outputs = model.train()(images)
    assert bool((outputs[1] == 7).all()), "classifiers must follow the order of the levels"


def test_a_single_voxel_at_the_coarsest_level_cannot_be_trained_with_batch_norm() -> None:
    model = build(TINY).train()
    with pytest.raises(ValueError, match=r"a batch of one and 4x3x4 voxels leave one; use larger patches"):
        model(volumes(1, 1, 4, 3, 4))
    assert model(volumes(2, 1, 4, 3, 4)).shape == (2, 3, 4, 3, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_convolutions": [2]}, r"num_convolutions must be at least two positive numbers.*got \(2,\)"),
        ({"num_convolutions": [1, 0]}, "num_convolutions must be at least two positive"),
        ({"num_up_convolutions": [1, 1]}, r"num_up_convolutions must be 4 positive numbers.*got \(1, 1\)"),
        ({"num_up_convolutions": [1, 1, 0, 1]}, "num_up_convolutions must be 4 positive numbers"),
        ({"in_channels": 0}, "width and in_channels must be positive; got 16 and 0"),
        ({"width": 0}, "width and in_channels must be positive; got 0 and 1"),
        ({"max_width": 8}, "max_width must be at least the width, 16; got 8"),
        ({"kernel_size": 4}, "kernel_size must be 3 or 5, got 4"),
        ({"strides": [[2, 2, 2]]}, "strides must be 4 triples"),
        ({"num_convolutions": [1, 1], "strides": [[1, 1, 1]]}, "strides must be 1 triples .* not all 1"),
        ({"num_convolutions": [1, 1], "strides": [[0, 2, 2]]}, "strides must be 1 triples"),
        ({"dropout": 1.0}, "dropout must be a probability from 0 to below 1, got 1.0"),
        ({"norm": "layer"}, "norm"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(VNetConfig, {"name": "vnet"} | settings, "test")


@pytest.mark.parametrize("setting", ["norm", "activation", "style"])
def test_unknown_choices_in_code(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be one of .*; got 'other'"):
        VNetConfig(**{setting: "other"})


@pytest.mark.parametrize("config", [TINY, VNetConfig(width=16, num_convolutions=(1, 1, 2)), VNET_S])
@pytest.mark.parametrize("size", [(16, 16, 16), (9, 13, 10)])
def test_fused_network_computes_the_same(config: VNetConfig, size: tuple[int, int, int]) -> None:
    model = build(config)
    fused = copy.deepcopy(model).fuse().fuse()
    assert not any(isinstance(module, nn.BatchNorm3d) for module in fused.modules())
    wide = (module for module in fused.modules() if isinstance(module, SameConv3d) and module.in_channels >= 16)
    assert all(conv.points is not None for conv in wide)
    images = volumes(1, 1, *size)
    with torch.no_grad():
        torch.testing.assert_close(fused(images), model(images), rtol=0, atol=1e-5)
        torch.testing.assert_close(fused.double()(images.double()), model.double()(images.double()))


def test_fusing_while_training_is_refused() -> None:
    with pytest.raises(ValueError, match=r"call model\.eval\(\) first"):
        TINY.build(3).fuse()


def test_several_channels_of_input() -> None:
    model = build(dataclasses.replace(TINY, in_channels=2))
    assert model(volumes(1, 2, 8, 8, 8)).shape == (1, 3, 8, 8, 8)


def train_a_little(model: VNet) -> VNet:
    """A few steps toward the bright voxels and the very bright: logits as a trained network has them."""
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-2)
    images = F.avg_pool3d(volumes(4, 1, 18, 18, 18), 3, stride=1) * 3
    labels = (images[:, 0] > 0).long() + (images[:, 0] > 1).long()
    for _ in range(8):
        optimizer.zero_grad()
        logits = model(images)
        F.cross_entropy(logits if isinstance(logits, Tensor) else logits[0], labels).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        TINY,
        dataclasses.replace(TINY, norm="instance", strides=((1, 2, 2), (2, 2, 2)), deep_supervision=True),
        dataclasses.replace(MONAI_VNET, width=4, kernel_size=3),
    ],
    ids=["batch", "instance", "monai"],
)
def test_one_exported_graph_takes_every_size(config: VNetConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = train_a_little(config.build(3)).fuse()
    path = tmp_path / "vnet.onnx"
    sides = dict.fromkeys((0, 2, 3, 4), torch.export.Dim.DYNAMIC)
    torch.onnx.export(model, (volumes(2, 1, 19, 22, 13),), path, dynamo=True, dynamic_shapes=(sides,), verbose=False)
    session = onnxruntime.InferenceSession(str(path))
    (name,) = (value.name for value in session.get_inputs())
    for shape in ((2, 1, 19, 22, 13), (1, 1, 16, 16, 16), (3, 1, 35, 50, 36), (1, 1, 1, 1, 1), (1, 1, 5, 24, 7)):
        images = volumes(*shape)
        with torch.no_grad():
            expected = model(images).numpy()
        result = session.run(None, {name: images.numpy()})[0]
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-3)
        if np.prod(shape) > 1000:
            for position in range(3):
                ours, theirs = expected.argmax(1) == position, result.argmax(1) == position
                assert ours.sum() > 0, "a class that is never predicted shows nothing"
                assert 2 * (ours & theirs).sum() / (ours.sum() + theirs.sum()) > 0.999


def test_table_names_it() -> None:
    assert MODELS["vnet"] == f"{VNetConfig.__module__}:{VNetConfig.__name__}"


@pytest.mark.parametrize(("in_channels", "width"), [(3, 16), (5, 8), (9, 4), (4, 16)])
def test_any_number_of_channels_goes_with_any_width(in_channels: int, width: int) -> None:
    config = VNetConfig(in_channels=in_channels, width=width, num_convolutions=(1, 1), kernel_size=3, norm="instance")
    model = config.build(2).eval()
    images = torch.rand(1, in_channels, 8, 8, 8)
    assert model(images).shape == (1, 2, 8, 8, 8)
    # With a convolution of nothing, what is left of the first stage is its input, repeated as often as the width takes.
    with torch.no_grad():
        for parameter in model.stem.convs.parameters():
            parameter.zero_()
        found = model.stem(images)
    expected = images[:, torch.arange(width) % in_channels]
    assert torch.equal(found, expected)


def test_more_blocks_make_a_residual_encoder() -> None:
    """Each block adds what its convolutions make of its input to that; a model without them is what it was."""
    settings = {"width": 4, "num_convolutions": (1, 2, 1), "kernel_size": 3, "norm": "instance"}
    torch.manual_seed(0)
    plain = VNetConfig(**settings).build(2).eval()
    heavy = VNetConfig(**settings, num_blocks=(1, 3, 2), num_up_convolutions=(1, 1)).build(2).eval()
    assert not [name for name in plain.state_dict() if "more_blocks" in name]
    # Two more blocks of two convolutions at level 1, one of one at level 2.
    convolutions = [name for name in heavy.state_dict() if "more_blocks" in name and name.endswith("conv.weight")]
    assert [name.split(".")[1] for name in convolutions] == ["1"] * 4 + ["2"]
    images = torch.rand(1, 1, 16, 16, 16)
    assert heavy(images).shape == (1, 2, 16, 16, 16)
    heavy.train()
    heavy(images).square().mean().backward()
    assert all(
        parameter.grad is not None and parameter.grad.any()
        for name, parameter in heavy.named_parameters()
        if name in convolutions
    )
    # A block whose last convolution gives nothing passes on what it got, through its activation.
    block = heavy.more_blocks[1][0]
    with torch.no_grad():
        block.convs[-1].norm.weight.zero_()
        block.convs[-1].norm.bias.zero_()
        x = torch.rand(1, 8, 8, 8, 8)
        assert torch.equal(block(x), block.act(x))


@pytest.mark.parametrize("num_blocks", [(1, 2), (1, 2, 0), (1, 1, 1, 1)])
def test_blocks_that_fit_no_levels(num_blocks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"num_blocks must be 3 positive numbers, one per level; got"):
        VNetConfig(num_convolutions=(1, 1, 1), num_blocks=num_blocks)

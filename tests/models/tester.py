"""The one tester that every model must pass: subclass it in a test file and say how to build the model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from detseg.config import from_dict, to_dict
from detseg.models.load_weights import load_weights


class ModelTester:
    """What holds for every model, whatever it predicts.

    A subclass sets ``config`` (a config of the model, small enough for a CPU), ``sizes`` (heights and widths of images
    that the model must take, odd ones or odd multiples of its stride among them), and says what comes out.
    """

    config: Any
    class_counts: tuple[int, ...] = (1, 3, 80)
    sizes: tuple[tuple[int, int], ...] = ((32, 96), (96, 64))
    batch_size = 2

    def expected_shapes(self, num_classes: int, height: int, width: int) -> list[tuple[int, ...]]:
        """The shapes of the outputs for one image."""
        raise NotImplementedError

    def build(self, num_classes: int = 3) -> nn.Module:
        torch.manual_seed(0)
        model: nn.Module = self.config.build(num_classes)
        return model

    def outputs(self, model: nn.Module, images: Tensor) -> list[Tensor]:
        """What the model gives, as a list also where it gives a single tensor."""
        outputs: Tensor | list[Tensor] = model(images)
        return [outputs] if isinstance(outputs, Tensor) else outputs

    def images(self, height: int = 64, width: int = 64) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        return torch.rand(self.batch_size, 3, height, width, generator=generator)

    def test_class_counts_and_shapes(self) -> None:
        for num_classes in self.class_counts:
            outputs = self.outputs(self.build(num_classes), self.images())
            assert [tuple(output.shape[1:]) for output in outputs] == self.expected_shapes(num_classes, 64, 64)

    def test_image_sizes(self) -> None:
        model = self.build()
        for height, width in self.sizes:
            outputs = self.outputs(model, self.images(height, width))
            assert [tuple(output.shape[1:]) for output in outputs] == self.expected_shapes(3, height, width)

    def test_no_classes_is_refused(self) -> None:
        with pytest.raises(ValueError, match="num_classes must be positive, got 0"):
            self.build(0)

    def test_every_trained_parameter_gets_a_finite_gradient(self) -> None:
        model = self.build().train()
        sum((output**2).mean() for output in self.outputs(model, self.images())).backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert bool(parameter.grad.isfinite().all()), name
                assert bool((parameter.grad != 0).any()), name

    def test_images_of_a_batch_do_not_mix_in_evaluation(self) -> None:
        model = self.build().eval()
        images = self.images()
        with torch.no_grad():
            together, alone = self.outputs(model, images), self.outputs(model, images[:1])
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one[:1], other, rtol=1e-4, atol=1e-5)

    def test_a_copy_follows_train_and_eval(self) -> None:
        """As the moving average of the weights needs it."""
        model = self.build().train()
        model(self.images())
        duplicate = copy.deepcopy(model).eval()
        model.eval()
        with torch.no_grad():
            images = self.images()
            for one, other in zip(self.outputs(model, images), self.outputs(duplicate, images), strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0)

    def test_weights_survive_a_file(self, tmp_path: Path) -> None:
        model = self.build().train()
        model(self.images())
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "m.safetensors")
        torch.manual_seed(2)
        other = self.config.build(3)
        report = load_weights(other, tmp_path / "m.safetensors")
        assert report.unused == report.missing == ()
        assert set(report.mapped) == set(model.state_dict())
        with torch.no_grad():
            images = self.images()
            for before, after in zip(
                self.outputs(model.eval(), images), self.outputs(other.eval(), images), strict=True
            ):
                torch.testing.assert_close(before, after, rtol=0, atol=0)

    def test_config_survives_plain_data(self) -> None:
        assert from_dict(type(self.config), to_dict(self.config), "test") == self.config

"""Plain vision transformers (arXiv 2010.11929) with the simple feature pyramid of ViTDet (arXiv 2203.16527)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from detseg.models.backbones.pretrained import load_torchvision_weights
from detseg.models.base import Backbone


@dataclass(frozen=True)
class ViTConfig:
    """A torchvision vision transformer with patches of 16 pixels."""

    name: str = "vit_b_16"
    pretrained: bool = False
    """Loads torchvision's default ImageNet weights from its local cache, as for the other networks."""

    def build(self) -> ViTPyramid:
        """The transformer without its classifier.

        Raises:
            ValueError: the pretrained weights are not in torch's cache.
        """
        model = torchvision.models.get_model(self.name, weights=None)
        assert isinstance(model, VisionTransformer)
        assert model.patch_size == 16
        if self.pretrained:
            load_torchvision_weights(model, self.name)
        return ViTPyramid(model)


class ViTPyramid(Backbone):
    """The last map of a transformer, at stride 16, and the same enlarged and shrunk by two."""

    def __init__(self, model: VisionTransformer) -> None:
        super().__init__()
        width = model.hidden_dim
        self.patches = model.conv_proj
        self.class_token = model.class_token
        self.encoder = model.encoder
        self.grid = model.image_size // model.patch_size
        self.enlarge = nn.ConvTranspose2d(width, width // 2, 2, stride=2)
        self.channels = (width // 2, width, width)
        self.strides = (8, 16, 32)

    def forward(self, images: Tensor) -> list[Tensor]:
        """``[B, 3, H, W]`` -> the maps at strides 8, 16 and 32."""
        patches = self.patches(images)
        batch, _, height, width = patches.shape
        tokens = torch.cat((self.class_token.expand(batch, -1, -1), patches.flatten(2).transpose(1, 2)), dim=1)
        tokens = self.encoder.dropout(tokens + self._positions(height, width))
        tokens = self.encoder.ln(self.encoder.layers(tokens))
        features = tokens[:, 1:].transpose(1, 2).unflatten(2, (height, width))
        return [self.enlarge(features), features, F.max_pool2d(features, 2)]

    def _positions(self, height: int, width: int) -> Tensor:
        """The position embedding ``[1, 1 + height * width, D]``, interpolated from the grid that it was trained on."""
        embedding: Tensor = self.encoder.pos_embedding
        if (height, width) == (self.grid, self.grid):
            return embedding
        grid = embedding[:, 1:].transpose(1, 2).reshape(1, -1, self.grid, self.grid)
        grid = F.interpolate(grid, (height, width), mode="bicubic", align_corners=False)
        return torch.cat((embedding[:, :1], grid.flatten(2).transpose(1, 2)), dim=1)

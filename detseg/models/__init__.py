"""Networks: images in, raw predictions out. Decoding, losses and metrics live elsewhere."""

from __future__ import annotations

MODELS = {
    "detector": "detseg.models.detector:DetectorConfig",
    "letnet": "detseg.models.letnet:LETNetConfig",
    "semantic_fpn": "detseg.models.semantic_fpn:SemanticFPNConfig",
    "vnet": "detseg.models.vnet:VNetConfig",
}

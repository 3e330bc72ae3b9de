"""Networks that turn a neck's levels into raw predictions."""

from __future__ import annotations

HEADS = {
    "dfl": "detseg.models.heads.dfl:DFLHeadConfig",
    "dfl_masks": "detseg.models.heads.dfl_masks:DFLMasksHeadConfig",
    "e2e": "detseg.models.heads.e2e:E2EHeadConfig",
    "yolox": "detseg.models.heads.yolox:YOLOXHeadConfig",
}

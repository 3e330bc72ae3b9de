"""What boxes and masks have in common: they are found in images, which are written into batches and drawn on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from detseg.arrays import ByteArray, FloatArray
from detseg.runtime.inputs.geometry import InputSpec
from detseg.runtime.inputs.network_input import InputWriter
from detseg.runtime.kinds.base import Save
from detseg.runtime.writers.drawn import DrawnWriter, PictureWriter, VideoWriter
from detseg.runtime.writers.text import JsonLinesWriter
from detseg.structures import Placement


class ImageInputs:
    """Images into the inputs of a network, in memory that is kept."""

    def __init__(self, spec: InputSpec) -> None:
        self._writer = InputWriter(spec)
        self._memory: dict[int, FloatArray] = {}

    def prepare(self, images: Sequence[ByteArray], slot: int) -> tuple[FloatArray, list[Placement]]:
        """Images, placed and normalized ``[B, 3, H, W]``, in the memory ``slot``; the way back for each."""
        shape = self._writer.shape(images)
        size = math.prod(shape)
        memory = self._memory.get(slot)
        if memory is None or memory.size < size:
            memory = self._memory[slot] = np.empty(size, np.float32)
        batch = memory[:size].reshape(shape)
        return batch, self._writer.write(images, batch)


IMAGE_WRITERS: Mapping[str, Save] = {
    "drawn": Save(
        lambda to: DrawnWriter(
            PictureWriter(to.output, to.draw, to.sources), VideoWriter(to.output, to.draw, to.sources)
        )
    ),
    "picture": Save(lambda to: PictureWriter(to.output, to.draw, to.sources)),
    "video": Save(lambda to: VideoWriter(to.output, to.draw, to.sources, to.fps)),
}
"""``picture``: drawn pictures, of a video one per frame; ``video``: drawn videos, of still pictures ``video.mp4``;
``drawn``: pictures of pictures and videos of videos."""

JSON_LINES = Save(
    lambda to: JsonLinesWriter(to.output / "results.jsonl", lambda result: to.kind.record(result, to.class_names)),
    opens_at_once=True,
)
"""A line of JSON for each image, in ``results.jsonl``."""

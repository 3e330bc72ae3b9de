"""From encoded images to results: decoding, the network, and what is told of it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from fastapi import HTTPException

from detseg.arrays import ByteArray
from detseg.runtime.media.decode_budget import MAX_PIXELS_AT_A_TIME
from detseg.runtime.media.images import ImageError, decode_image, encode_image, encoded_size
from detseg.runtime.model import Model
from detseg.runtime.postprocess.class_settings import reaches
from detseg.runtime.postprocess.nms import floor_to_float32
from detseg.server.batcher import Batcher
from detseg.server.bodies import Encoded
from detseg.server.budget import Budget
from detseg.server.counters import Counters
from detseg.server.fetch import FetchError, fetch
from detseg.server.settings import ServerSettings
from detseg.structures import Result

_Given = TypeVar("_Given")

MAX_BYTES_AT_A_TIME = 1_000_000_000
"""Of all bodies that are arriving."""


class Service:
    """A ``model`` for many requests at a time: what they send is decoded in a few threads and put together to batches.
    ``limits``: how many bytes all bodies together may take while they arrive.

    Raises:
        ValueError: the model is not for images.
    """

    def __init__(self, model: Model, settings: ServerSettings) -> None:
        if not model.runner.spec.one_size:
            raise ValueError(f"only models of images can be served, this one is for {model.task_name}")
        self.model = model
        self.settings = settings
        self.is_ready = False
        self.num_under_way = 0
        self.counters = Counters(lambda: self.num_under_way, lambda: self._batcher.num_waiting)
        self._batcher = Batcher(model.runner, settings.batch_size, settings.batch_wait_s, self.counters.batch)
        self._threads = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="serve")
        self.bytes_left = Budget(max(settings.max_bytes, MAX_BYTES_AT_A_TIME))
        self._pixels_left = Budget(max(settings.max_pixels, MAX_PIXELS_AT_A_TIME))

    def start(self) -> None:
        """Run the network once, which takes longer than later runs, and be ready."""
        self._batcher.submit(np.zeros((64, 64, 3), np.uint8)).result()
        self.is_ready = True

    def stop(self) -> None:
        """Take nothing more, and return when what was taken is done."""
        self.is_ready = False
        self._batcher.close()
        self._threads.shutdown()

    @property
    def works(self) -> bool:
        """Whether images that come now are worked on."""
        return self.is_ready and self._batcher.is_alive

    async def predict(self, images: list[Encoded], confidence: float | None) -> list[dict[str, Any]]:
        """What is in each of ``images``, as plain data; of boxes those that score above ``confidence``.

        Raises:
            HTTPException: 413: an image has too many pixels; 422: it cannot be read.
        """

        def told(name: str, image: ByteArray, result: Result) -> dict[str, Any]:
            place = {"file": name, "height": image.shape[0], "width": image.shape[1]}
            return place | self.model.runner.kind.record(self._above(result, confidence), self.model.class_names)

        return list(await asyncio.gather(*(self._work(one, told) for one in images)))

    async def draw(self, sent: Encoded, confidence: float | None, suffix: str) -> bytes:
        """``sent`` with what is in it, encoded as the ``suffix`` says. Errors as of :meth:`predict`."""

        def drawn(name: str, image: ByteArray, result: Result) -> bytes:
            kept, names = self._above(result, confidence), self.model.class_names
            drawing = self.model.runner.kind.draw(image, kept, names, palette=self.model.palette)
            return encode_image(drawing, f"the drawn image{suffix}")

        return await self._work(sent, drawn)

    def fetch(self, address: str) -> bytes:
        """The bytes at a network address."""
        try:
            return fetch(address, self.settings.max_bytes)
        except FetchError as error:
            raise HTTPException(422, str(error)) from error

    async def _work(self, sent: Encoded, use: Callable[[str, ByteArray, Result], _Given]) -> _Given:
        loop = asyncio.get_running_loop()
        name = sent.name or "the image"
        try:
            height, width = encoded_size(sent.data, name, sys.maxsize)
            if height * width > self.settings.max_pixels:
                raise HTTPException(
                    413, f"{name}: {width}x{height} pixels, allowed are {self.settings.max_pixels:,}; make it smaller"
                )
            async with self._pixels_left.hold(height * width):
                image = await loop.run_in_executor(self._threads, decode_image, sent.data, name)
                result = await asyncio.wrap_future(self._batcher.submit(image))
                return await loop.run_in_executor(self._threads, use, sent.name, image, result)
        except ImageError as error:
            raise HTTPException(422, str(error)) from error

    def _above(self, result: Any, confidence: float | None) -> Any:
        """Of boxes those that score above ``confidence`` or, where a request names none, that reach what the model has
        for their class. As better boxes suppress worse ones and come first where their number is limited, these are the
        boxes that the model gives at this confidence."""
        if confidence is not None:
            return result.select(result.scores > floor_to_float32(confidence))
        floors = self.model.class_confidences
        return result.select(reaches(result, floors)) if floors else result

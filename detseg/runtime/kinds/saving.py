"""What results can be saved as, and how they are drawn for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detseg.arrays import ByteArray
from detseg.files import require_replaceable
from detseg.runtime.drawing.legend import with_legend
from detseg.runtime.drawing.palette import Palette, palette_of
from detseg.runtime.kinds.base import Kind, Save
from detseg.runtime.sources.frames import Frame
from detseg.runtime.writers.base import (
    DrawnWriter,
    ImageWriter,
    JsonLinesWriter,
    ResultWriter,
    SharedOutput,
    VideoWriter,
    reduce_to_draw,
)

Overlay = Callable[[ByteArray], ByteArray]
"""Draws more on a drawn image, which it may change."""


@dataclass(frozen=True)
class Drawing:
    """How results are drawn: class names, the width of lines in pixels (None: it grows with the image), what is drawn
    on top, colors (None: the usual ones), and whether all classes are named below."""

    kind: Kind
    class_names: tuple[str, ...]
    line_width: int | None = None
    overlay: Overlay | None = None
    palette: Palette | None = None
    has_legend: bool = False

    def __call__(self, frame: Frame, result: Any) -> ByteArray:
        """The image of ``frame`` with ``result``."""
        image, result = self._drawable(frame.image, result)
        drawn = self.kind.draw(image, result, self.class_names, self.line_width, self.palette)
        if self.overlay is not None:
            drawn = self.overlay(drawn)
        if self.has_legend:
            drawn = with_legend(drawn, self.palette or palette_of(self.class_names), self.class_names)
        return drawn

    def _drawable(self, image: Any, result: Any) -> tuple[Any, Any]:
        """The image and its result, reduced where it is too large to be drawn as a whole."""
        if not self.kind.has_boxes:
            return image, result
        reduced, factor = reduce_to_draw(image)
        return (image, result) if factor == 1 else (reduced, self.kind.reduced(result, factor, reduced.shape[:2]))


@dataclass(frozen=True)
class Saving:
    """What writers are made of: the folder ``output``, where no file of ``sources`` may lie; the classes and their
    numbers in the data set; how results are drawn, and the ``fps`` of a video of still images; ``outputs``: what the
    writers share; ``overlay``: what is drawn on top; ``palette``: colors in place of the usual ones; ``legend``:
    whether classes are named below images (None: as the kind has it)."""

    kind: Kind
    output: Path
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    sources: Sequence[Path | str] = ()
    fps: float = 25.0
    line_width: int | None = None
    outputs: SharedOutput = field(default_factory=SharedOutput)
    overlay: Overlay | None = None
    palette: Palette | None = None
    legend: bool | None = None

    @property
    def draw(self) -> Drawing:
        """What draws results."""
        has_legend = self.kind.has_legend if self.legend is None else self.legend
        return Drawing(self.kind, self.class_names, self.line_width, self.overlay, self.palette, has_legend)

    @property
    def colors(self) -> Palette:
        """The colors of the classes."""
        return self.palette or palette_of(self.class_names)

    def table(self, name: str, *others: str) -> Path:
        """The path for the file ``name``, written together with ``others``.

        Raises:
            ValueError: one of them is there and must not be replaced.
        """
        # A run that goes on has looked when it began; what it has made since may be there.
        may_replace = self.outputs.overwrite or self.outputs.goes_on
        for one in (name, *others):
            require_replaceable(self.output / one, overwrite=may_replace)
        return self.output / name


IMAGE_WRITERS: Mapping[str, Save] = {
    "drawn": Save(
        lambda to: DrawnWriter(
            ImageWriter(to.output, to.draw, to.sources, to.outputs),
            VideoWriter(to.output, to.draw, to.sources, outputs=to.outputs),
        )
    ),
    "image": Save(lambda to: ImageWriter(to.output, to.draw, to.sources, to.outputs)),
    "video": Save(lambda to: VideoWriter(to.output, to.draw, to.sources, to.fps, to.outputs)),
}
"""``image``: drawn images, of a video one per frame; ``video``: drawn videos, of still images ``video.mp4``;
``drawn``: the one or the other, as the source is."""

_RENAMED = {"picture": "image"}
"""What can be saved, by the names that earlier versions had for it."""

JSON_LINES = Save(
    lambda to: JsonLinesWriter(
        to.table("results.jsonl"), lambda result: to.kind.record(result, to.class_names), goes_on=to.outputs.goes_on
    ),
    opens_at_once=True,
)
"""A line of JSON for each image, in ``results.jsonl``."""


def make_writers(names: Sequence[str], saving: Saving, task_name: str) -> list[ResultWriter]:
    """A writer for each of ``names``, which are those of ``saving.kind.writers``.

    Raises:
        ValueError: there is no such thing for these results, or a folder of results holds one of the sources.
    """
    allowed = saving.kind.writers
    for old in _RENAMED.keys() & set(names):
        new = _RENAMED[old]
        warnings.warn(f"--save: {old} is now called {new}; the next version will not read {old}", FutureWarning, 2)
        names = [new if name == old else name for name in names]
    unknown = [name for name in names if name not in allowed]
    if unknown:
        shown = ", ".join(name or "''" for name in unknown)
        raise ValueError(f"--save: unknown {shown}; allowed for {task_name} are {', '.join(allowed)}")
    # Those that open their files at once come last, and must not leave them behind where another one is refused.
    order = sorted(set(names), key=lambda name: (allowed[name].opens_at_once, name))
    made = []
    with ExitStack() as stack:
        for name in order:
            made.append(allowed[name].make(saving))
            stack.push(made[-1])
        stack.pop_all()
    return made

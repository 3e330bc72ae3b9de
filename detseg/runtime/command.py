"""The verb ``predict``: from a model and the names of sources to drawn pictures, videos and result files."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from detseg.files import write_text
from detseg.runtime.background import Sink
from detseg.runtime.kinds.base import Saving, make_writers
from detseg.runtime.media.frames import Frame
from detseg.runtime.media.images import ImageError
from detseg.runtime.media.sources import Source, find_sources
from detseg.runtime.media.video_reader import Section
from detseg.runtime.model import Model, Prediction
from detseg.runtime.tracking.tracker import TrackerConfig

EXIT_SOME_FAILED = 1
ERRORS = "errors.jsonl"

_AHEAD = 4
"""Frames that are read before they are needed, and results that wait to be written, beyond those of a batch."""


@dataclass
class _Tally:
    """What has come of the sources so far."""

    num_frames: int = 0
    num_of_video: Counter[str] = field(default_factory=Counter)
    num_overtaken: Counter[str] = field(default_factory=Counter)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, frame: Frame) -> int:
        """Count ``frame``; returns how many frames are to be expected that were not known of before."""
        self.num_frames += 1
        if frame.stream is None:
            return 0
        self.num_of_video[frame.source] += 1
        self.num_overtaken[frame.source] += frame.num_overtaken
        return (frame.stream.num_expected or 0) if self.num_of_video[frame.source] == 1 else 0

    def fail(self, source: Source, error: ImageError) -> None:
        """Note that ``source`` was not read, or not to its end."""
        self.failures[source.name] = str(error)


def predict_command(
    model: Model,
    names: Sequence[str],
    *,
    output: Path,
    save: Sequence[str] | None = None,
    batch_size: int | None = None,
    section: Section | None = None,
    classes: Iterable[str] | None = None,
    track: TrackerConfig | None = None,
    allow_url: bool = False,
    fps: float = 25.0,
    line_width: int | None = None,
) -> int:
    """``detseg predict``: see :meth:`Model.predict` and :class:`Saving` for what the settings mean, and the kinds
    of results for what can be saved.

    Reading, predicting and writing overlap. What cannot be read is named at the end and in ``output/errors.jsonl``; the
    rest goes on. Returns 0, or ``EXIT_SOME_FAILED`` where something could not be read.
    """
    sources = find_sources(names, model.runner.spec.suffixes, allow_url=allow_url, listing=sys.stdin)
    kind = model.runner.kind
    paths = [source.path for source in sources if source.path is not None]
    saving = Saving(kind, output, model.class_names, model.category_ids, paths, fps, line_width)
    batch_size = model.runner.default_batch_size if batch_size is None else batch_size
    tally = _Tally()
    predictions = model.predict(
        sources,
        batch_size,
        section=section,
        classes=classes,
        track=track,
        ahead=batch_size + _AHEAD,
        on_error=tally.fail,
    )
    with ExitStack() as stack:
        made = make_writers(kind.default_save if save is None else save, saving, model.task_name)
        writers = [stack.enter_context(writer) for writer in made]

        def write(prediction: Prediction) -> None:
            for writer in writers:
                writer.write(prediction.frame, prediction.result)

        sink = stack.enter_context(Sink(write, batch_size + _AHEAD))
        bar = stack.enter_context(tqdm(desc="predict", unit="frame", leave=False, dynamic_ncols=True, disable=None))
        bar.total = sum(source.kind in ("image", "volume") for source in sources)
        for prediction in predictions:
            bar.total += tally.add(prediction.frame)
            sink.put(prediction)
            bar.update()
    return _report(tally, sources, output)


def _report(tally: _Tally, sources: Sequence[Source], output: Path) -> int:
    """Say what has been done and what has not; returns the exit code."""
    num_read = len(sources) - len(tally.failures)
    print(f"{num_read} of {len(sources)} sources, {tally.num_frames} images; results are in {output}")
    for name, count in tally.num_of_video.items():
        overtaken = tally.num_overtaken[name]
        more = f" (live: {overtaken} more came while the model was at work, and were overtaken)" if overtaken else ""
        print(f"{name}: {count} frames{more}, {'not complete' if name in tally.failures else 'complete'}")
    for failure in tally.failures.values():
        print(f"not read: {failure}", file=sys.stderr)
    path = output / ERRORS
    if not tally.failures:
        path.unlink(missing_ok=True)  # of an earlier run
        return 0
    lines = [json.dumps({"source": name, "error": error}) for name, error in tally.failures.items()]
    write_text(path, "".join(f"{line}\n" for line in lines))
    return EXIT_SOME_FAILED

"""The verb ``predict``: from a model and the names of sources to drawn images, videos and result files."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from detseg.files import printable, remove_partial_files, require_apart, require_replaceable
from detseg.folders import free_folder
from detseg.runtime.background import Sink, Weighed
from detseg.runtime.commands.counts import CountWriter, PlaceCounts
from detseg.runtime.commands.progress import JOURNAL, Progress, is_begun
from detseg.runtime.commands.shards import RUN, SHARES, WHOLE, Shard, is_complete, list_digest, write_run
from detseg.runtime.commands.summary import ERRORS, Summary
from detseg.runtime.commands.window import WindowWriter
from detseg.runtime.drawing.palette import Palette
from detseg.runtime.kinds.saving import Saving, make_writers
from detseg.runtime.media.decode_budget import MAX_PIXELS_WAITING
from detseg.runtime.model import Model
from detseg.runtime.prediction import Prediction
from detseg.runtime.runner import TimedRunner
from detseg.runtime.sources.finding import Source, SourceError, find_sources
from detseg.runtime.sources.video_reader import Section
from detseg.runtime.stop import StopSignals
from detseg.runtime.tracking.counting import Place
from detseg.runtime.tracking.tracker import TrackerConfig
from detseg.runtime.writers.base import SharedOutput
from detseg.runtime.writers.growing import GrowingJson, json_object, unfinished_name
from detseg.runtime.writers.several import SeveralWriters

SOURCES = "sources.json"
"""Says of every file of results which source it is of. It marks a folder as that of a run, from its first moment on."""

COUNTS = "counts.csv"
_AHEAD = 4
"""Frames that are read before they are needed, and results that wait to be written, beyond those of a batch."""


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
    crops: bool = False,
    counts: Sequence[Place] = (),
    show: bool = False,
    palette: Palette | None = None,
    legend: bool | None = None,
    overwrite: bool = False,
    shard: Shard | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    found: Sequence[Source] | None = None,
) -> int:
    """``detseg predict``: see :meth:`Model.predict` and :class:`Saving` for what the settings mean, and the kinds
    of results for what can be saved; with ``crops`` each object is an image of its own, too. ``counts`` are places
    where followed objects are counted, on the images and in ``counts.csv``. With ``show`` a window shows what comes.

    Reading, predicting and writing overlap. What cannot be read or written is named at the end and in
    ``output/errors.jsonl``; the rest goes on. A folder with the results of another run is left alone, and the next free
    of ``output-2``, ``output-3``, ... taken; no other file is replaced either, unless ``overwrite``. Ctrl-C and SIGTERM
    end the run with what was found so far.

    With ``resume`` a run that was ended before its time in ``output``, by whatever, goes on: sources that are done are
    not done again, and the files become those of a run that nobody ended. ``settings`` are what the results depend on
    beyond the arguments, for comparison with that run. If there is none, a new one begins. Where the run in ``output``
    is complete, nothing is done. ``shard``: only this share of the sources. With either of both, signals leave a run so
    that it can go on. ``found``: the sources that ``names`` name, where somebody has looked already.

    Returns 0, ``summary.EXIT_SOME_FAILED`` where something could not be read or written, or 128 and the number of the
    signal that ended the run.
    """
    if counts and track is None:
        raise ValueError("only followed objects are counted: track them")
    summary = Summary(model.class_names, model.runner.kind)
    share = shard or WHOLE
    if found is None:
        # What is not there is told once.
        missing = summary.fail if share.index == 1 else lambda name, error: None
        found = find_named(names, model.runner.spec, allow_url, missing)
    titles = [source.title for source in found]
    sources = [found[position] for position in share.positions(titles)]
    kind = model.runner.kind
    chosen = [*(kind.default_save if save is None else save), *(["crops"] if crops else [])]
    if model.gpu:
        print(f"on {model.gpu}")
    divides = resume or shard is not None
    if divides:
        require_apart_results(sources, chosen, track)
        if counts:
            raise ValueError("--count counts through a whole video; leave it out with --shard or --resume")
    depends_on = {**(settings or {}), "shard": str(share), "list": list_digest(titles), "save": sorted(chosen)}
    if resume and is_complete(output, depends_on):
        (output / JOURNAL).unlink(missing_ok=True)
        # 0 also where sources had failed: repeating does not help, and schedulers repeat what does not end with 0.
        told = f", but for what {printable(output / ERRORS)} names" if (output / ERRORS).exists() else ""
        print(f"{printable(output)} holds all results already{told}")
        return 0
    if resume and (output / SHARES).is_dir():
        raise ValueError(f"the run in {printable(output)} was begun with --ray, and goes on with --ray --resume")
    goes_on = resume and (is_begun(output) or _is_claimed(output))
    paths = [source.path for source in sources if source.path is not None]
    if any(name in kind.writers and kind.writers[name].needs_probabilities for name in chosen):
        model = model.with_probabilities()
    runner = TimedRunner(model.runner)
    model = model.run_by(runner)
    batch_size = runner.default_batch_size if batch_size is None else batch_size
    ahead = batch_size + _AHEAD if runner.spec.max_ahead is None else runner.spec.max_ahead
    with StopSignals() as stop:
        folder = output if goes_on else claim_folder(output, paths, overwrite)
        with _given_back(folder, goes_on):
            progress = Progress(folder, depends_on, go_on=goes_on)
        if goes_on:
            print(f"going on in {printable(folder)}: {len(progress.done)} of {len(sources)} sources are done")
        summary.num_sources = len(sources) + len(summary.failures)
        summary.failures += progress.failures
        summary.num_before = len(progress.done - {source for _, source, _ in progress.failures})
        sources = [source for source in sources if source.title not in progress.done]
        with ExitStack() as stack:
            stack.enter_context(suppress(_StoppedError))
            stack.enter_context(_kept(folder))
            stack.enter_context(progress.kept_on_errors())
            if divides:
                stack.push(lambda kind, *_: write_run(folder, share, titles, depends_on) if kind is None else None)
            made_from = stack.enter_context(GrowingJson(folder / SOURCES, json_object, goes_on=goes_on))
            shared = SharedOutput(
                overwrite,
                lambda path, frame: made_from.append({str(path.relative_to(folder)): frame.source}),
                progress.claim,
                goes_on,
            )
            tally = PlaceCounts(counts) if counts else None
            progress.reserve(shared)
            saving = Saving(
                runner.kind,
                folder,
                model.class_names,
                model.category_ids,
                paths,
                fps,
                line_width,
                shared,
                None if tally is None else tally.draw,
                palette or model.palette,
                legend,
            )
            predictions = model.predict(
                sources,
                batch_size,
                section=section,
                classes=classes,
                track=track,
                ahead=ahead,
                on_error=summary.fail,
                stop=stop.requested,
            )
            made = make_writers(chosen, saving, model.task_name)
            if show:
                made.append(WindowWriter(saving.draw, stop))
            if tally is not None:
                # What is counted in a frame is known before it is drawn.
                made.insert(0, CountWriter(saving.table(COUNTS), tally, model.class_names))
            several = SeveralWriters(
                made, summary.fail_to_write, lambda frame: progress.end(frame.source, summary.failures)
            )
            writers = stack.enter_context(several)
            progress.begin()

            def write(prediction: Prediction) -> None:
                writers.write(prediction.frame, prediction.result)

            # A window belongs to the thread that waits for it.
            weighed = Weighed(lambda prediction: prediction.frame.num_pixels, MAX_PIXELS_WAITING)
            put = write if show else stack.enter_context(Sink(write, ahead, weighed)).put
            bar = stack.enter_context(tqdm(desc="predict", unit="frame", leave=False, dynamic_ncols=True, disable=None))
            bar.total = sum(source.kind in ("image", "volume") for source in sources)
            for prediction in predictions:
                bar.total += summary.add(prediction.frame, prediction.result)
                put(prediction)
                bar.update()
            if divides and stop.requested.is_set():
                # What is half done must not get its name.
                raise _StoppedError
        summary.network_s, summary.write_s = runner.seconds, writers.seconds
        summary.sort(titles)
        exit_code = summary.report(folder, stop, sources)
        if tally is not None:
            for source, words in tally.words.items():
                print(f"{printable(source)}: {printable('; '.join(words))}")
        return exit_code


def find_named(
    names: Sequence[str], spec: Any, allow_url: bool, on_error: Callable[[str, SourceError], None]
) -> list[Source]:
    """The sources for a model with inputs as ``spec`` says; ``-`` is the list on standard input."""
    # Names of files there may be of any bytes.
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    return find_sources(
        names, spec.suffixes, allow_url=allow_url, listing=sys.stdin, on_error=on_error, num_files=spec.num_files
    )


class _StoppedError(Exception):
    """The run was told to stop, and shall go on later."""


def require_apart_results(sources: Sequence[Source], save: Sequence[str], track: TrackerConfig | None) -> None:
    """Refuse what makes one result of many still images, of which no part can be made alone.

    Raises:
        ValueError: a video is to be made of images, or objects are to be followed through them.
    """
    if all(source.kind != "image" for source in sources):
        return
    if "video" in save:
        raise ValueError("--save video makes one video of all images; with --shard or --resume leave it out")
    if track is not None:
        raise ValueError("--track follows objects from image to image; with --shard or --resume name videos only")


def claim_folder(wanted: Path, paths: Sequence[Path], overwrite: bool) -> Path:
    """The folder for the results, made and marked so that no other run takes it."""
    mark = unfinished_name(Path(SOURCES).with_suffix(".jsonl")).name
    marks = (SOURCES, mark)
    if overwrite and any((wanted / name).exists() for name in marks):
        remove_partial_files(wanted)
        for name in (ERRORS, RUN):
            (wanted / name).unlink(missing_ok=True)
    while True:
        folder = free_folder(wanted, marks, overwrite=overwrite)
        require_apart(folder, paths)
        require_replaceable(folder / ERRORS, overwrite=overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), (folder / mark).open("w" if overwrite else "x"):
            break
    if folder != wanted:
        print(f"{printable(wanted)} holds the results of another run; those of this one go to {printable(folder)}")
    return folder


@contextmanager
def _given_back(folder: Path, goes_on: bool) -> Iterator[None]:
    """Where the block fails, and the run was to begin, ``folder`` is as if nobody had claimed it."""
    try:
        yield
    except BaseException:
        if not goes_on:
            (folder / unfinished_name(Path(SOURCES).with_suffix(".jsonl")).name).unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                folder.rmdir()
        raise


def _is_claimed(folder: Path) -> bool:
    """Whether a run has marked ``folder`` as its own, and was ended before anything else."""
    mark = unfinished_name(Path(SOURCES).with_suffix(".jsonl")).name
    return (folder / mark).exists() and not (folder / mark).stat().st_size and not (folder / SOURCES).exists()


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """Where the run fails, say what there is; a folder without anything in it is removed."""
    try:
        yield
    except BaseException:
        with suppress(OSError):  # not empty
            folder.rmdir()
        if unfinished := sorted(path for path in folder.glob("*.unfinished.*") if path.name != JOURNAL):
            names = ", ".join(path.name for path in unfinished)
            print(f"what was found before is kept in {printable(folder)}: {names}", file=sys.stderr)
        if is_begun(folder):
            print("the same command with --resume goes on there", file=sys.stderr)
        raise

"""What ``detseg predict`` does with its arguments: here, or on the machines of a cluster."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from detseg.cli.common_arguments import foreign_settings, postprocess_settings
from detseg.cli.deployment import tell_runtime, what_results_depend_on

if TYPE_CHECKING:
    from detseg.runtime.model import Model


def predict(options: argparse.Namespace) -> int:
    """Run the verb; returns its exit code."""
    from detseg.runtime.commands.predict import predict_command
    from detseg.runtime.commands.shards import parse_shard

    if options.ray is not None:
        return _on_ray(options)
    if options.ray_workers is not None:
        raise ValueError("--ray-workers says how many processes --ray takes; give that, too")
    model, arguments = prepare(options)
    tell_runtime(options, model)
    say_confidences(model)
    return predict_command(
        model,
        options.sources,
        output=options.output,
        show=options.show,
        overwrite=options.overwrite,
        shard=None if options.shard is None else parse_shard(options.shard),
        resume=options.resume,
        **arguments,
    )


def _on_ray(options: argparse.Namespace) -> int:
    from detseg.runtime.commands.on_ray import ray_command
    from detseg.runtime.commands.ray_workers import Cluster

    given = {"--show": options.show, "--shard": options.shard, "--count": options.count}
    if refused := [name for name, value in given.items() if value]:
        raise ValueError(f"--ray divides the work over machines; leave {' and '.join(refused)} out")
    num_threads = options.threads or 1
    chosen = argparse.Namespace(**{**vars(options), "threads": num_threads})
    cluster = Cluster(options.ray, options.ray_workers, num_threads, wants_gpus=options.device != "cpu")
    return ray_command(
        partial(prepare, chosen),
        options.sources,
        cluster,
        output=options.output,
        settings=what_results_depend_on(options),
        allow_url=options.allow_url,
        overwrite=options.overwrite,
        resume=options.resume,
    )


def prepare(options: argparse.Namespace) -> tuple[Model, dict[str, Any]]:
    """The model, and what is done with it wherever that is."""
    from detseg.api.models import load
    from detseg.runtime.commands.colors import read_palette
    from detseg.runtime.sources.video_reader import Section
    from detseg.runtime.tracker import tracker_for
    from detseg.runtime.tracking.counting import parse_place

    counts = [parse_place(text, number) for number, text in enumerate(options.count or (), start=1)]
    section = Section(options.every, options.start, options.end)
    settings = postprocess_settings(options)
    track = None
    if options.camera_motion and not (options.track or counts):
        raise ValueError("--camera-motion is for objects that are followed; add --track")
    if options.track or counts:
        track = replace(tracker_for(options.confidence), camera_motion=options.camera_motion)
    model = load(
        [options.model, *options.ensemble] if options.ensemble else options.model,
        device=options.device,
        precision=options.precision,
        num_threads=options.threads,
        size=options.size,
        full_input=options.full_input,
        runtime=options.runtime,
        runtime_cache=options.runtime_cache,
        compile=options.compile,
        track=track,
        **foreign_settings(options),
        **settings,
    )
    arguments = {
        "palette": None if options.colors is None else read_palette(options.colors, model.class_names),
        "legend": options.legend,
        "save": None if options.save is None else options.save.split(","),
        "batch_size": options.batch_size,
        "section": section,
        "classes": None if options.classes is None else options.classes.split(","),
        "track": track,
        "allow_url": options.allow_url,
        "fps": options.fps,
        "line_width": options.line_width,
        "crops": options.crops,
        "counts": counts,
        "settings": what_results_depend_on(options),
    }
    return model, arguments


def say_confidences(model: Any) -> None:
    """Say from which score on boxes of each class count, where they differ."""
    from detseg.runtime.postprocess.class_settings import describe_confidences

    if model.class_confidences:
        print(f"confidence by class: {describe_confidences(model.class_names, model.class_confidences)}")

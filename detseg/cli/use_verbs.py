"""The verbs that put a model to use, and the settings that they and others have in common."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from detseg.cli.deployment import tell_runtime, what_results_depend_on


def postprocess_settings(options: argparse.Namespace) -> dict[str, Any]:
    names = ("confidence", "iou", "max_detections", "nms_backend", "tiles", "scales", "flip", "window", "overlap")
    chosen = {name: getattr(options, name) for name in names}
    if options.conf_per_class is not None:
        from detseg.runtime.postprocess.class_settings import read_confidences

        if options.confidence is not None:
            raise ValueError("--conf is one number for all classes, --conf-per-class one for each; give one of them")
        chosen["confidence"] = read_confidences(options.conf_per_class)
    return {name: value for name, value in chosen.items() if value is not None}


def foreign_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What is said of an ``.onnx`` file of another program."""
    return {name: getattr(options, name) for name in ("layout", "names", "scale", "mean", "std", "bgr", "anchor")}


def predict(options: argparse.Namespace) -> int:
    from detseg.api.models import load
    from detseg.runtime.commands.colors import read_palette
    from detseg.runtime.commands.predict import predict_command
    from detseg.runtime.commands.shards import parse_shard
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
    tell_runtime(options, model)
    _say_confidences(model)
    return predict_command(
        model,
        options.sources,
        palette=None if options.colors is None else read_palette(options.colors, model.class_names),
        legend=options.legend,
        output=options.output,
        save=None if options.save is None else options.save.split(","),
        batch_size=options.batch_size,
        section=section,
        classes=None if options.classes is None else options.classes.split(","),
        track=track,
        allow_url=options.allow_url,
        fps=options.fps,
        line_width=options.line_width,
        crops=options.crops,
        counts=counts,
        show=options.show,
        overwrite=options.overwrite,
        shard=None if options.shard is None else parse_shard(options.shard),
        resume=options.resume,
        settings=what_results_depend_on(options),
    )


def _say_confidences(model: Any) -> None:
    """Say from which score on boxes of each class count, where they differ."""
    from detseg.runtime.postprocess.class_settings import describe_confidences

    if model.class_confidences:
        print(f"confidence by class: {describe_confidences(model.class_names, model.class_confidences)}")


def serve(options: argparse.Namespace) -> int:
    from detseg.api.models import load
    from detseg.server.command import read_token, serve_command
    from detseg.server.settings import ServerSettings

    settings = ServerSettings(
        host=options.host,
        port=options.port,
        token=read_token(options.token_file),
        allow_url=options.allow_url,
        max_bytes=options.max_bytes,
        max_pixels=options.max_pixels,
        queue=options.queue,
        batch_size=options.batch_size,
        batch_wait_s=options.batch_wait / 1000,
    )
    model = load(
        options.model,
        device=options.device,
        precision=options.precision,
        num_threads=options.threads,
        size=options.size,
        full_input=options.full_input,
        runtime=options.runtime,
        runtime_cache=options.runtime_cache,
        compile=options.compile,
        **foreign_settings(options),
        **postprocess_settings(options),
    )
    tell_runtime(options, model)
    _say_confidences(model)
    return serve_command(model, settings)


def colors(options: argparse.Namespace) -> int:
    from detseg.api.models import load
    from detseg.runtime.commands.colors import colors_command, read_palette

    model = load(options.model, device="cpu")
    palette = None if options.colors is None else read_palette(options.colors, model.class_names)
    return colors_command(model, options.output, palette, options.overwrite)


def store(options: argparse.Namespace) -> int:
    from detseg.runtime.commands.settings import set_command
    from detseg.runtime.weights.released import find_model

    return set_command(
        find_model(options.model),
        options.output,
        confidences=options.conf_per_class,
        colors=options.colors,
        overwrite=options.overwrite,
    )

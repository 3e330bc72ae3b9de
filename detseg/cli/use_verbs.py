"""The verbs that put a model to use, but for ``predict``: its server, and what its file keeps of classes."""

from __future__ import annotations

import argparse

from detseg.cli.common_arguments import foreign_settings, postprocess_settings
from detseg.cli.deployment import tell_runtime
from detseg.cli.predict import say_confidences


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
    say_confidences(model)
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

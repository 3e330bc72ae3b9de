"""The arguments of the verbs that put a model to use at a larger scale."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from detseg.cli.common_arguments import path

if TYPE_CHECKING:
    from detseg.runtime.model import Model

_FREE = (
    *("verb", "traceback", "sources", "output", "overwrite", "resume", "shard", "save"),
    *("threads", "batch_size", "runtime_cache", "ray", "ray_workers"),
)
_MODEL = "a .safetensors or .onnx file, or the name of released weights"


def add_serve(serve: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The arguments of ``serve``, but for those that it has in common with other verbs."""
    serve.description = "Needs the extra serve. See docs/serving.md."
    serve.add_argument("model", type=path, help=_MODEL)
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine only)"
    )
    serve.add_argument("--port", type=int, default=8080, help="0: any that is free (default 8080)")
    serve.add_argument(
        "--token-file",
        type=path,
        metavar="FILE",
        help="a file with the token that requests must show (default: what DETSEG_TOKEN holds); needed where other "
        "machines reach the server",
    )
    serve.add_argument("--allow-url", action="store_true", help="let requests name the address of an image")
    limits = serve.add_argument_group("limits")
    limits.add_argument(
        "--queue",
        type=int,
        default=128,
        metavar="N",
        help="requests under way at a time; further ones get 429 (default 128)",
    )
    limits.add_argument(
        "--max-bytes", type=int, default=20_000_000, metavar="N", help="of a request (default 20 million)"
    )
    limits.add_argument(
        "--max-pixels", type=int, default=50_000_000, metavar="N", help="of an image (default 50 million)"
    )
    limits.add_argument(
        "--batch",
        "--batch-size",
        dest="batch_size",
        type=int,
        default=8,
        metavar="N",
        help="most images that go through the network together (default 8)",
    )
    limits.add_argument(
        "--batch-wait",
        type=float,
        default=2.0,
        metavar="MS",
        help="how many milliseconds an image may wait for others (default 2)",
    )
    add_runtime(serve)
    serve.add_argument("--threads", type=int, metavar="N", help="CPU cores for the network (default all)")
    serve.add_argument(
        "--full-input",
        action="store_true",
        default=None,
        help="pad images to the whole input size, as eval does",
    )
    return serve


def add_runtime(parser: argparse.ArgumentParser) -> None:
    """What runs a network, and in which precision."""
    parser.add_argument(
        "--runtime",
        choices=("auto", "onnxruntime", "openvino"),
        help="what runs .onnx files; openvino, an extra, on CPUs; auto: the faster one by a short measurement, never "
        "less exact than --precision asks for (default onnxruntime)",
    )
    parser.add_argument(
        "--runtime-cache", type=path, metavar="FILE.json", help="keep what auto found in this file, for the next time"
    )
    parser.add_argument(
        "--precision",
        default="fp32",
        help="fp32, fp16 or bf16 (default fp32; of .onnx files fp32 or, in OpenVINO, bf16, else their own)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="the network through torch.compile, for images on a GPU: faster after minutes of compiling",
    )


def tell_runtime(options: argparse.Namespace, model: Model) -> None:
    """What ``--runtime auto`` has chosen."""
    if options.runtime == "auto":
        print(f"runs in {model.runs_in}", file=sys.stderr)


def add_shares(predict: argparse.ArgumentParser) -> None:
    """The arguments of ``predict`` for many machines, and for runs that are ended before their time."""
    shares = predict.add_argument_group("many machines (see docs/fleets.md)")
    shares.add_argument(
        "--shard", metavar="I/N", help="take the I-th of N shares of the sources; detseg merge puts results together"
    )
    shares.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in the output folder where it was ended; if there is none, begin one",
    )
    shares.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="divide the sources over the processes of a Ray cluster, an extra: HOST:PORT, auto for the one that this "
        "machine belongs to, or nothing for this machine only",
    )
    shares.add_argument(
        "--ray-workers",
        type=int,
        metavar="N",
        help="how many processes, each with a model and --threads cores, there 1 by default, or a GPU (default as many "
        "as the cluster has room for)",
    )


def what_results_depend_on(options: argparse.Namespace) -> dict[str, Any]:
    """All that was said to ``predict`` but what the results do not depend on."""
    from detseg.runtime.weights.released import find_models, sha256_of

    said = {name: value for name, value in vars(options).items() if name not in (*_FREE, "model", "ensemble")}
    models = [path for one in (options.model, *(options.ensemble or ())) for path in find_models(one)]
    return {"models": [sha256_of(path) for path in models], **said}


def add_merge(merge: argparse.ArgumentParser) -> None:
    """The arguments of ``merge``."""
    merge.description = "Tables become those of one run over the whole list; images and videos stay where they are."
    merge.add_argument("folders", nargs="+", type=path, metavar="DIR", help="the folders of all shares")
    merge.add_argument(
        "-o",
        "--output",
        type=path,
        required=True,
        metavar="DIR",
        help="folder for the tables; if it holds results already, DIR-2, DIR-3, ...",
    )


def add_bench(bench: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The arguments of ``bench``, but for those that need the readers of other verbs."""
    bench.description = "Latency, throughput, memory and, with --data, the main metric, per runtime and precision."
    bench.add_argument("model", type=path, help="a file that export wrote: .onnx, .xml (OpenVINO) or .param (ncnn)")
    bench.add_argument("images", nargs="*", metavar="IMAGE", help="files or folders (default: a gray image)")
    bench.add_argument("--data", help="folder or YAML of a data set to measure the quality on; needs the extra train")
    bench.add_argument("--format", help="needed only where the layout is ambiguous")
    bench.add_argument("--split", default="val")
    bench.add_argument("--threads", type=int, metavar="N", help="CPU cores for the network (default all)")
    bench.add_argument("--seconds", type=float, default=2.0, help="for each row of the table (default 2)")
    return bench

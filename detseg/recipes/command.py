"""The verb ``train``: begins runs, and goes on with them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from detseg.config import load_config
from detseg.engine.distributed import join_group, leave_group
from detseg.engine.logging.callbacks import Callback
from detseg.engine.logging.log import RECORDS_NAME, read_records
from detseg.engine.meeting import PeerError
from detseg.engine.peers import EXIT_LOST
from detseg.engine.run import RunResult, train
from detseg.engine.run_folder import CONFIG_NAME
from detseg.engine.settings import RunConfig
from detseg.engine.training.interrupt import EXIT_INTERRUPTED, InterruptedRunError
from detseg.folders import new_folder
from detseg.recipes.plan import Options, plan_run

# What may change when a run goes on: where things are, how fast they come, what is done about bad files, and how long
# it lasts, not what is learned. A run that goes on has its weights in its state, so the file it began from may be gone:
# train.weights=null.
_MAY_CHANGE = (
    "data.path",
    "data.num_workers",
    "data.cache",
    "data.on_bad_image",
    "data.max_bad_images",
    "train.device",
    "train.weights",
    "train.epochs",
)
_AS_OPTIONS = "--data, --epochs, --device, --workers"


def train_command(
    model: str | None,
    options: Options,
    overrides: Sequence[str],
    output: Path | None,
    resume: Path | None,
    *,
    accept_changed_data: bool = False,
) -> int:
    """``detseg train``. Returns 0, ``EXIT_INTERRUPTED`` where the run was stopped and can be resumed, or
    ``EXIT_LOST`` where another process of the run has ended or has never come, and a third one has said so."""
    if accept_changed_data and resume is None:
        raise ValueError("--accept-changed-data is for a run that goes on: name it with --resume RUN")
    try:
        if resume is not None:
            if model is not None or output is not None:
                raise refusal(model or "-o", resume)
            result = resume_run(resume, options, overrides, accept_changed_data=accept_changed_data)
        elif model is None:
            raise ValueError(
                "nothing to train is named: give a configuration or weights, such as c2f_n (`detseg configs` lists "
                "them), a YAML, or --resume RUN"
            )
        else:
            result = start_run(model, options, overrides, output)
    except InterruptedRunError as error:
        print(error, file=sys.stderr)
        return EXIT_INTERRUPTED
    except PeerError as error:
        if not error.is_told:
            raise
        return EXIT_LOST
    if result.table:
        print(f"{result.table}\n\nbest model: {result.best}\ncurves and metrics: {result.run_dir}")
    return 0


def start_run(
    model: str | Path,
    options: Options,
    overrides: Sequence[str] = (),
    output: Path | None = None,
    *,
    bar: bool = True,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Begin a run, see :func:`detseg.recipes.plan.plan_run`, in ``output``, by default ``runs/NAME``, numbered."""
    plan = plan_run(model, options, overrides)
    with run_folder(output, plan.name) as run_dir:
        return train(plan.config, run_dir, bar=bar, adapt=plan.adapted_to, callbacks=callbacks)


def resume_run(
    run_dir: Path,
    options: Options,
    overrides: Sequence[str] = (),
    *,
    accept_changed_data: bool = False,
    bar: bool = True,
    callbacks: Sequence[Callback] = (),
) -> RunResult:
    """Go on with the run in ``run_dir`` as it was begun; with other ``epochs`` for longer.

    Raises:
        ValueError: something else is to change, or the run is past these epochs already.
    """
    given = [*options.overrides(), *overrides]
    if options.data is not None:
        given.append(f"data.path={json.dumps(options.data)}")
    refused = [text for text in given if text.partition("=")[0] not in _MAY_CHANGE]
    refused += [f"--{name}" for name in ("size",) if getattr(options, name) is not None]
    refused += ["--batch auto"] if options.batch_size == "auto" else []
    if refused:
        raise refusal(", ".join(refused), run_dir)
    if not (run_dir / CONFIG_NAME).is_file():
        raise FileNotFoundError(f"{run_dir} holds no {CONFIG_NAME}, so there is no run to resume")
    config = load_config(RunConfig, run_dir / CONFIG_NAME, given)
    num_done = len(read_records(run_dir / RECORDS_NAME))
    if config.train.epochs < num_done:
        raise ValueError(
            f"{run_dir} has trained for {num_done} epochs already, and is to end after {config.train.epochs}"
        )
    return train(config, run_dir, resume=True, accept_changed_data=accept_changed_data, bar=bar, callbacks=callbacks)


def refusal(what: str, run_dir: Path) -> ValueError:
    """What to say of ``what`` is given beside the name of a run that is to go on."""
    return ValueError(
        f"--resume goes on with the run as it was begun, got {what}; only {', '.join(_MAY_CHANGE)} may change "
        f"({_AS_OPTIONS}). To train longer: --resume {run_dir} --epochs N; to begin a new run with its best weights: "
        f"detseg train {run_dir} --data DATA"
    )


@contextmanager
def run_folder(wanted: Path | None, name: str) -> Iterator[Path]:
    """The folder of a new run, the same for all processes that ``torchrun`` started: ``wanted``, or ``runs/NAME``,
    numbered where that is there, made here so that no other run chooses it as well; if it stays empty, it goes."""
    if wanted is not None:
        yield wanted
        return
    group, device = join_group("cpu")
    with ExitStack() as stack:
        try:
            made: list[Path] = []
            group.on_main(lambda: made.append(stack.enter_context(new_folder(Path("runs") / name))), device)
            folder = Path(group.gather_json(str(made[0]) if group.is_main else "", device)[0])
        finally:
            leave_group()
        yield folder

"""Train, measure and document the weights that the project releases.

    python tools/release/train_release.py letnet_camvid [--stage choose|final] [--device auto] [--out DIR] [--hours H]

``choose`` trains every candidate of the row (see ``release_rows.py``), volumes in every fold, and measures them on val.
``final`` takes the best of those that are finished, trains it once more where there is more to learn from, and writes
``weights/NAME.safetensors``, its section of ``weights/README.md`` and its row of ``detseg/runtime/released.yaml``.
With ``--skip-final``, it releases the weights of the best themselves, which have not learned from val.
Without ``--stage``, both. No test split is touched. The last lines are a table of what was reached and how fast.

The same command goes on where the last one was stopped, by SIGTERM or after ``--hours``. It then ends with status 75,
so that a long training can be made of short calls.
``--tiny`` tries the whole road in about a minute; it leaves the repository as it is and writes to ``--out`` alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from release_card import PRIMARY, Made, Tried, publish, results, store
from release_rows import CONFIGS, ROWS, Row
from release_runs import METRICS_NAME, Figures, Run, complete, mean_figures, measure, stop_after

from detseg.engine.training.interrupt import EXIT_INTERRUPTED, InterruptedRunError
from detseg.runtime.weights.released import TABLE

REPOSITORY = Path(__file__).resolve().parents[2]


def candidate_run(name: str, candidate: str, fold: int | None, options: argparse.Namespace) -> Run:
    """One training of a candidate, after that of the candidate it goes on from: finished now, if they are not yet."""
    chosen = ROWS[name].candidates[candidate]
    before = candidate_run(name, chosen.after, fold, options) if chosen.after else None
    settings = settings_of(name, candidate, options)
    if fold is not None:
        settings += (f"data.train_split=fold{fold}-train", f"data.val_split=fold{fold}-val")
    folder = run_folder(name, candidate, fold, options)
    return complete(CONFIGS / chosen.config, settings, folder, options.device, options.amp, before)


def final_run(name: str, candidate: str, options: argparse.Namespace) -> Run:
    """The last training of a candidate, on more data, after that of the candidate it goes on from."""
    row, chosen = ROWS[name], ROWS[name].candidates[candidate]
    before = final_run(name, chosen.after, options) if chosen.after else None
    # There is nothing left to judge it by: the weights are those of the last epoch, and one evaluation is enough.
    judged = candidate_run(name, candidate, folds_of(row, options)[0], options)
    once = f"train.evaluate_epochs={judged.config.train.epochs}"
    settings = (*settings_of(name, candidate, options), *row.final, once)
    folder = base_folder(name, options) / f"final-{candidate}"
    return complete(CONFIGS / chosen.config, settings, folder, options.device, options.amp, before)


def settings_of(name: str, candidate: str, options: argparse.Namespace) -> tuple[str, ...]:
    """What a candidate changes in its configuration, and what the options do."""
    row = ROWS[name]
    tiny = row.tiny if options.tiny else ()
    return (*row.candidates[candidate].settings, *tiny, f"train.compile={options.compile}")


def run_folder(name: str, candidate: str, fold: int | None, options: argparse.Namespace) -> Path:
    """Where the training of a candidate is kept."""
    return base_folder(name, options) / (candidate if fold is None else f"{candidate}-fold{fold}")


def base_folder(name: str, options: argparse.Namespace) -> Path:
    """Where the trainings of a row are kept; those of trials apart."""
    return Path(options.out) / (f"{name}-tiny" if options.tiny else name)


def try_candidates(name: str, options: argparse.Namespace) -> list[Tried]:
    """All candidates that are asked for, trained and measured; in the stage ``final`` those that are by now.

    Raises:
        ValueError: in the stage ``final``, none is.
    """
    row, folds = ROWS[name], folds_of(ROWS[name], options)
    wanted, tried = with_those_before(row, options.candidate or list(row.candidates)), []
    if options.stage == "final":
        asked = wanted
        wanted = [
            one
            for one in asked
            if all((run_folder(name, one, fold, options) / METRICS_NAME).exists() for fold in folds)
        ]
        if not wanted:
            raise ValueError(
                f"no candidate of {', '.join(asked)} is finished in {base_folder(name, options)}; train them with "
                "--stage choose"
            )
    for candidate in wanted:
        runs = [candidate_run(name, candidate, fold, options) for fold in folds]
        figures = mean_figures([run.figures for run in runs])
        tried.append(Tried(candidate, row.candidates[candidate].about, runs, figures))
        print(f"{candidate}: {PRIMARY[row.task]} {figures[PRIMARY[row.task]]:.4f} on val", flush=True)
    return tried


def with_those_before(row: Row, candidates: Sequence[str]) -> list[str]:
    """The candidates, each after the one it goes on from, which is compared with it."""
    ordered: list[str] = []
    for candidate in candidates:
        after = row.candidates[candidate].after
        ordered += [*(with_those_before(row, [after]) if after else ()), candidate]
    return list(dict.fromkeys(ordered))


def folds_of(row: Row, options: argparse.Namespace) -> Sequence[int | None]:
    """The folds to train in; None where there are none."""
    if row.num_folds is None:
        return (None,)
    if options.fold:
        return sorted(set(options.fold))
    return range(1 if options.tiny else row.num_folds)


def best_of(tried: Sequence[Tried], primary: str) -> Tried:
    """The candidate that is best on val; the first of equals."""
    return max(tried, key=lambda one: one.figures[primary])


def figures_by_size(run: Run, row: Row, options: argparse.Namespace) -> dict[tuple[int, int], Figures]:
    """The figures of the best weights of ``run`` by the size of the input, the best on val first; none where the row
    has no other sizes than that of training."""
    others = row.sizes[: 1 if options.tiny else None]
    if not others:
        return {}
    found = {run.input_size: run.figures}
    for height, width in others:
        size = height, width
        if size not in found:
            found[size] = run.look(f"{height}x{width}", options.device, size=size)
    return dict(sorted(found.items(), key=lambda one: one[1][PRIMARY[row.task]], reverse=True))


def release(name: str, tried: Sequence[Tried], options: argparse.Namespace) -> Made:
    """The last training, if there is one, and all that is written about it."""
    row, chosen = ROWS[name], best_of(tried, PRIMARY[ROWS[name].task])
    folder = base_folder(name, options) / "weights" if options.tiny else REPOSITORY / "weights"
    weights = folder / f"{name}.safetensors"
    views = list(row.views.items())[: 1 if options.tiny else None]
    final, looks, sizes = None, {"": {}, **dict(views)}, {}
    if row.final and not options.skip_final:
        final = final_run(name, chosen.name, options)
        figures = {
            view: mean_figures(
                [run.look(view, options.device, settings=how) if view else run.figures for run in chosen.runs]
            )
            for view, how in looks.items()
        }
        images = chosen.runs[0].folder / "images"
        store(final.last, weights, half=row.half, max_bytes=row.max_bytes)
    else:
        (run,) = chosen.runs
        sizes = figures_by_size(run, row, options)
        size = next(iter(sizes), None)
        store(run.best, weights, half=row.half, max_bytes=row.max_bytes, size=size)
        images = base_folder(name, options) / "images"
        figures = {
            view: measure(weights, run.config, options.device, settings=how, images=None if view else images)
            for view, how in looks.items()
        }
    command = f"python tools/release/train_release.py {name}"
    if options.candidate:
        command += f" --candidate {' '.join(options.candidate)}"
    if options.fold:
        command += f" --fold {' '.join(str(one) for one in options.fold)}"
    if options.skip_final:
        command += " --skip-final"
    if options.amp:
        command += f" --amp {options.amp}"
    if options.compile != "none":
        command += f" --compile {options.compile}"
    made = Made(tried, chosen, final, figures, command, sizes)
    written = publish(name, made, images, folder, folder / "released.yaml" if options.tiny else TABLE)
    print(f"{weights}: {written.num_bytes:,} bytes, sha256 {written.sha256}\n{written.quality}\n")
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=ROWS)
    parser.add_argument("--stage", choices=("choose", "final"), help="default: both")
    parser.add_argument("--candidate", nargs="+", help="of the row; default: all")
    parser.add_argument("--fold", type=int, nargs="+", help="of volumes; default: all")
    parser.add_argument("--skip-final", action="store_true", help="release the best weights of the choice themselves")
    modes = ("none", "default", "reduce-overhead")
    parser.add_argument("--compile", choices=modes, default="none", help="see train.compile")
    parser.add_argument("--amp", choices=("none", "bf16"), help="default: bf16 on a GPU, else train.amp")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument(
        "--out", type=Path, default=REPOSITORY / "runs" / "release", help="where the trainings are kept"
    )
    parser.add_argument("--hours", type=float, help="stop after so long, with the state saved")
    parser.add_argument("--tiny", action="store_true", help="a trial of the whole road, small and short")
    options = parser.parse_args()
    row = ROWS[options.name]
    unknown = [one for one in options.candidate or () if one not in row.candidates]
    if unknown:
        parser.error(f"{options.name} has no candidates {', '.join(unknown)}; it has {', '.join(row.candidates)}")
    num_folds = row.num_folds or 0
    if strange := set(options.fold or ()) - set(range(num_folds)):
        parser.error(f"--fold takes some of the {num_folds} folds of {options.name}, from 0 on; got {min(strange)}")
    if options.skip_final and (num_folds or not row.final):
        why = "is cross-validated: its folds have no weights in common" if num_folds else "has no last training"
        parser.error(f"--skip-final: {options.name} {why}")
    if options.hours is not None and not options.hours > 0:
        parser.error(f"--hours must be above 0, got {options.hours}")
    stop_after(options.hours)
    try:
        tried = try_candidates(options.name, options)
        if options.stage == "choose":
            made = Made(tried, best_of(tried, PRIMARY[row.task]), None, {}, "")
        else:
            made = release(options.name, tried, options)
    except InterruptedRunError as error:
        print(f"{error}\nthe same command goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    print(*results(made, PRIMARY[row.task]), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The verb ``predict`` on the processes of a Ray cluster: shares of the list, which are done as anywhere, and put
together."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detseg.files import printable, storable, write_text
from detseg.runtime.commands.merge import merge_shares
from detseg.runtime.commands.predict import SOURCES, claim_folder, find_named, require_apart_results
from detseg.runtime.commands.ray_workers import Cluster, Pool, Prepare, connected
from detseg.runtime.commands.shards import SHARES, WHOLE, Shard, is_complete, list_digest, write_run
from detseg.runtime.commands.summary import ERRORS, EXIT_SOME_FAILED
from detseg.runtime.stop import StopSignals
from detseg.runtime.writers.growing import GrowingJson, json_object

_SHARE = re.compile(r"[1-9]\d*-of-([1-9]\d*)")
_SHARES_PER_WORKER = 4
"""So that those who are done early have more to do."""


def ray_command(
    prepare: Prepare,
    names: Sequence[str],
    cluster: Cluster,
    *,
    output: Path,
    settings: Mapping[str, Any],
    allow_url: bool = False,
    overwrite: bool = False,
    resume: bool = False,
) -> int:
    """``detseg predict --ray``: as :func:`predict_command`, by the workers of ``cluster``, each with a model that
    ``prepare`` loads.

    The tables in ``output`` are, byte by byte, those of one process; images and videos are in the folders of the
    shares, ``output/shares``. A share whose worker ends before its time is gone on with by another, at its last whole
    source. If the run itself is ended, ``resume`` goes on with it.

    Returns 0, ``EXIT_SOME_FAILED`` where something could not be read or written, or 128 and the number of the signal
    that ended the run.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ConnectionError: there is no cluster at this address.
        ValueError: as in :func:`predict_command`, or the process of a share ends again and again.
    """
    begin = time.perf_counter()
    with connected(cluster) as ray, StopSignals() as stop:
        pool = Pool(ray, cluster, prepare, stop)
        spec, save, track = pool.first()
        missing: list[dict[str, str]] = []
        found = find_named(
            names, spec, allow_url, lambda name, error: missing.append({"source": name, "error": str(error)})
        )
        require_apart_results(found, save, track)
        titles = [source.title for source in found]
        depends_on = {**settings, "shard": str(WHOLE), "list": list_digest(titles), "save": sorted(save)}
        if resume and is_complete(output, depends_on):
            print(f"{printable(output)} holds all results already")
            return 0
        folder = output
        if not (resume and (output / SHARES).is_dir()):
            folder = claim_folder(output, [source.path for source in found if source.path is not None], overwrite)
            _remove_shares(folder, overwrite)
            (folder / SHARES).mkdir(exist_ok=True)
        count = _num_shares(folder) or min(len(found), _SHARES_PER_WORKER * pool.num_workers)
        folders = {Shard(index, count): folder / SHARES / f"{index}-of-{count}" for index in range(1, count + 1)}
        left = {
            shard: path for shard, path in folders.items() if not is_complete(path, {**depends_on, "shard": str(shard)})
        }
        pool.run(found, left)
        if stop.requested.is_set():
            print(f"stopped by {stop.name}; the same command with --resume goes on", file=sys.stderr)
            return stop.exit_code
    failures = missing + merge_shares(list(folders.values()), folder)
    _put_together(folder, list(folders.values()))
    if failures:
        lines = (json.dumps(one | {"error": storable(one["error"])}) for one in failures)
        write_text(folder / ERRORS, "".join(f"{line}\n" for line in lines))
    write_run(folder, WHOLE, titles, depends_on)
    _tidy(list(folders.values()))
    return _report(folder, len(found) + len(missing), failures, pool, time.perf_counter() - begin)


def _num_shares(folder: Path) -> int:
    """How many shares a run in ``folder`` has that was begun; 0 where there is none."""
    found = {int(match[1]) for path in (folder / SHARES).iterdir() if (match := _SHARE.fullmatch(path.name))}
    if len(found) > 1:
        raise ValueError(f"{printable(folder / SHARES)}: holds shares of different runs; begin again elsewhere")
    return found.pop() if found else 0


def _remove_shares(folder: Path, overwrite: bool) -> None:
    """Make room for the shares of a new run."""
    for path in (folder / SHARES).glob("*"):
        if not (overwrite and _SHARE.fullmatch(path.name)):
            raise ValueError(f"{printable(path)} is there already; name another folder for the results")
        shutil.rmtree(path)


def _put_together(folder: Path, shares: Sequence[Path]) -> None:
    """Say of every file which source it is of."""
    with GrowingJson(folder / SOURCES, json_object) as made_from:
        for share in shares:
            place = share.relative_to(folder).as_posix()
            for name, source in json.loads((share / SOURCES).read_bytes()).items():
                made_from.append({f"{place}/{name}": source})


def _tidy(shares: Sequence[Path]) -> None:
    """Remove what has been put together."""
    for share in shares:
        kept = json.loads((share / SOURCES).read_bytes())
        for path in [*share.iterdir()]:
            if path.is_file() and path.name not in kept and path.suffix in (".json", ".jsonl", ".csv", ".parquet"):
                path.unlink()
        if not any(share.iterdir()):
            share.rmdir()
    if not any(shares[0].parent.iterdir()):
        shares[0].parent.rmdir()


def _report(folder: Path, num_sources: int, failures: Sequence[dict[str, str]], pool: Pool, seconds: float) -> int:
    num_failed = len({one["source"] for one in failures})
    print(
        f"{num_sources - num_failed} of {num_sources} sources by {pool.num_workers} workers in {seconds:.1f} s; "
        f"results are in {printable(folder)}"
    )
    if pool.num_ends:
        print(f"{pool.num_ends} workers ended before their time; others went on with their shares")
    for one in failures:
        place = "" if one["source"] in one["error"] else f"{one['source']}: "
        print(f"not done: {printable(place + one['error'])}", file=sys.stderr)
    return EXIT_SOME_FAILED if failures else 0

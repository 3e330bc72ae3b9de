"""The mutants of one module that its tests do not notice.

    python bench/mutation.py detseg/losses/dice.py tests/losses/test_dice.py [--limit 60] [--seed 0]

A mutant is the module with one small fault, see ``bench/mutants.py``. The tests run once to see which lines each of
them reaches. A mutant then meets the tests that reach it, the quickest file first, in a fork of a process that has
already loaded what the package imports, and within four times their processor time. A subprocess that a test starts
sees the module as it is. ``--limit``: a random sample, the same for the same seed. Exits with 1 if a mutant survives.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import importlib
import multiprocessing
import os
import random
import resource
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest
from mutants import Mutant, mutants

REPOSITORY = Path(__file__).parents[1]
UNNEEDED = [f"no:{plugin}" for plugin in ("cacheprovider", "xdist", "anyio", "unraisableexception")]
OPTIONS = ["-x", "-q", "--assert=plain", *(f"-p{plugin}" for plugin in UNNEEDED)]
TIMES, EXTRA_SECONDS = 4, 10


class Trace:
    """Of a run of all tests: the lines of ``path`` that each reaches, itself or in its fixtures, and its seconds."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines = str(path), set[int]()
        self.reached: dict[str, set[int]] = {}
        self.seconds: dict[str, float] = {}
        self.fixtures: defaultdict[str, set[int]] = defaultdict(set)

    def __call__(self, frame: Any, event: str, arg: object) -> Any:
        return self.note if frame.f_code.co_filename == self.path else None

    def note(self, frame: Any, event: str, arg: object) -> Any:
        self.lines.add(frame.f_lineno)
        return self.note

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Any:
        before, self.lines = self.lines, set()
        result = yield
        self.fixtures[fixturedef.argname] |= self.lines
        self.lines |= before
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Any:
        self.lines, start = set(), time.process_time()
        sys.settrace(self)
        threading.settrace(self)
        result = yield
        sys.settrace(None)
        self.seconds[item.nodeid] = time.process_time() - start
        self.reached[item.nodeid] = self.lines.union(*(self.fixtures[name] for name in item.fixturenames))
        return result


def forked(work: Callable[[], Any], cpu_seconds: float | None = None) -> Any:
    """What ``work`` returns in a process of its own; None if that ends otherwise, as it does after ``cpu_seconds``."""
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def child() -> None:
        receiver.close()
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        if cpu_seconds is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_seconds) + 1, int(cpu_seconds) + 1))
        sender.send(work())

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    sender.close()
    answer = None
    with contextlib.suppress(EOFError):  # it ended without an answer
        if receiver.poll(None if cpu_seconds is None else 10 * cpu_seconds):  # it may wait for something forever
            answer = receiver.recv()
    process.kill()
    process.join()
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("module", type=Path)
    parser.add_argument("tests", nargs="+")
    parser.add_argument("--limit", type=int, default=sys.maxsize)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sys.path[0] = str(REPOSITORY)
    path = args.module.resolve()
    tree = ast.parse(path.read_text())
    get_code = SourceFileLoader.get_code

    def traced() -> Any:
        trace = Trace(path)
        code = pytest.main([*OPTIONS, *args.tests], plugins=[trace])
        return int(code), trace.reached, trace.seconds, [*sys.modules], dict(os.environ)

    def collected() -> int:
        return int(pytest.main([*OPTIONS, "--collect-only", *reached]))

    def outcome(mutant: Mutant | None, chosen: list[str]) -> int:
        """The exit code of pytest."""
        if mutant is not None:
            mutant.apply()
        code = compile(ast.fix_missing_locations(tree), path, "exec")
        SourceFileLoader.get_code = lambda loader, name: (  # type: ignore[method-assign]
            code if loader.path == str(path) else get_code(loader, name)
        )
        return int(pytest.main([*OPTIONS, *chosen]))

    code, reached, seconds, modules, environment = forked(traced)
    os.environ.update(environment)
    for module in modules:
        if module.partition(".")[0] not in ("detseg", "tests", "__main__"):
            with contextlib.suppress(ImportError):  # names that others put into sys.modules
                importlib.import_module(module)
    gc.freeze()
    of_files: Counter[str] = Counter()
    for test, spent in seconds.items():
        of_files[_file(test)] += spent  # type: ignore[assignment]
    ranked = sorted(reached, key=lambda test: (of_files[_file(test)], _file(test), seconds[test]))
    if code != 0 or forked(collected) != 0 or forked(lambda: outcome(None, ranked[:10])) != 0:
        raise SystemExit("the tests do not pass without a mutant")

    every = list(mutants(tree))
    drawn = sorted(random.Random(args.seed).sample(range(len(every)), min(args.limit, len(every))))
    num_survivors = 0
    for mutant in (every[number] for number in drawn):
        chosen = [test for test in ranked if mutant.lines is None or reached[test] & {*mutant.lines}]
        limit = TIMES * sum(seconds[test] for test in chosen) + EXTRA_SECONDS
        if not chosen or forked(lambda: outcome(mutant, chosen), limit) == 0:  # noqa: B023
            num_survivors += 1
            print(f"{args.module}:{mutant}{'' if chosen else '   (no test reaches it)'}", flush=True)
    killed = len(drawn) - num_survivors
    print(f"{args.module}: {len(every)} mutants, {len(drawn)} tried, {killed} killed, {num_survivors} survived")
    sys.stdout.flush()
    os._exit(min(1, num_survivors))  # without the farewells of the libraries that were loaded


def _file(test: str) -> str:
    return test.partition("::")[0]


if __name__ == "__main__":
    main()

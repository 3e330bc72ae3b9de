from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from detseg.runtime.stop import StopSignals

TWICE = """
import signal, sys, time
from detseg.runtime.stop import StopSignals
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever those who run the tests have made of it
number = signal.Signals[sys.argv[1]]
try:
    with StopSignals() as stop:
        signal.raise_signal(number)
        print(stop.name, stop.exit_code, stop.requested.is_set(), flush=True)
        signal.raise_signal(number)
        time.sleep(60)
finally:
    print("not at once", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_quits_at_once(number: signal.Signals) -> None:
    done = subprocess.run([sys.executable, "-c", TWICE, number.name], capture_output=True, text=True, check=False)
    assert done.stdout == f"{number.name} {128 + number} True\n", done.stderr
    assert done.returncode == -number


def test_handlers_come_back_and_ignored_signals_stay_so() -> None:
    # In the background of a shell, SIGINT is ignored from the start.
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    terminate = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with StopSignals() as stop:
            assert signal.getsignal(signal.SIGINT) not in (signal.default_int_handler, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
            assert not stop.requested.is_set()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, interrupt)
        signal.signal(signal.SIGTERM, terminate)


def test_other_threads_have_no_handlers() -> None:
    failures = []

    def run() -> None:
        try:
            with StopSignals():
                pass
        except ValueError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failures

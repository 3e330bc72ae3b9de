"""What is printed cannot act on the terminal, whoever chose the words."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from detseg.cli.output import LONGEST_MESSAGE, printable_output
from detseg.cli.verbs import EXIT_USER_ERROR, main


def test_both_streams_within_the_block(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with printable_output():
        print("a\x1b[2J", "b\r")
        print("größer, 中\tand\n lines")
        print("c\x1b]0;title\x07", file=sys.stderr)
        sys.stderr.writelines(["d\x1b\n"])
        assert not sys.stdout.isatty()
    assert (sys.stdout, sys.stderr) == before
    said = capsys.readouterr()
    assert said.out == "a\\x1b[2J b\\x0d\ngrößer, 中\tand\n lines\n"
    assert said.err == "c\\x1b]0;title\\x07\nd\\x1b\n"


def test_bars_of_progress_still_move(capsys: pytest.CaptureFixture[str]) -> None:
    with printable_output(), tqdm(total=2, desc="evil\x1b[2J") as outer, tqdm(total=2, desc="inner") as inner:
        outer.update()
        inner.update()
    said = capsys.readouterr().err
    assert "\r" in said
    assert "\x1b[A" in said  # a line up
    assert "\x1b[2J" not in said


def test_a_terminal_of_another_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with printable_output():
        print("größer 中 \udce4")
        sys.stdout.flush()
    assert raw.getvalue() == b"gr\\xf6\\xdfer \\u4e2d \\xe4\n"


def test_names_in_errors_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "\x1b[31mred\udce4")]) == EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert "\\x1b[31mred\\xe4: data set not found" in said
    assert "\x1b" not in said


def test_a_message_has_a_limit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "x") * 1000]) == EXIT_USER_ERROR
    said = capsys.readouterr().err
    assert len(said) < LONGEST_MESSAGE + 200
    assert said.endswith("characters in all)\n")

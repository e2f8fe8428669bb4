"""What the commands print, piece by piece."""

from __future__ import annotations

import argparse
import io
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from eventq import clock
from eventq.cli import command, console


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_printable_keeps_text_and_escapes_the_rest() -> None:
    assert console.printable("grüße 🎉 a b") == "grüße 🎉 a b"
    for hostile in "\x00\x07\x1b\x7f\x9b\r\n\t\u202e\u2028\ud800\ufeff":
        shown = console.printable(f"a{hostile}b")
        assert shown.isprintable()
        assert shown.startswith("a\\")


@pytest.mark.parametrize("value", ["\x9b", "\u2028", "\u202e", "\U000e0001", "ü🎉", "\x7f", "\n"])
def test_json_text_is_the_same_json(value: str) -> None:
    text = console.json_text(msgspec.json.encode({"a": value}))
    assert json.loads(text) == {"a": value}
    assert text.replace("\x7f", "").isprintable()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.123, "0.12s"),
        (-1, "0.00s"),
        (59.6, "60s"),
        (119, "119s"),
        (600, "10m"),
        (86400, "24h"),
        (864000, "10d"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert console.duration(seconds) == text


def test_timestamps_come_back() -> None:
    at = 1_700_000_000.123456
    text = console.timestamp(at)
    assert text == "2023-11-14T22:13:20.123456Z"
    assert datetime.fromisoformat(text).timestamp() == pytest.approx(at, abs=1e-6)
    assert console.timestamp(1e300) is None
    assert console.timestamp(None) is None


def test_tables_align(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_table(["NAME", "N"], [["a", 10], ["long name", 5]], right=(1,))
    assert capsys.readouterr().out.splitlines() == ["NAME        N", "a          10", "long name   5"]


class Ticks:
    """A clock that this test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> Ticks:
    made = Ticks()
    monkeypatch.setattr(console, "clock", made)
    return made


def test_progress_is_silent_for_a_second(ticks: Ticks, capsys: pytest.CaptureFixture[str]) -> None:
    progress = console.Progress("put", 10)
    progress.at(1)
    ticks.now += 0.9
    progress.at(2)
    progress.close()
    assert capsys.readouterr().err == ""


def test_progress_in_a_log_is_lines_that_get_rarer(ticks: Ticks, capsys: pytest.CaptureFixture[str]) -> None:
    progress = console.Progress("put", 4000)
    for number in range(3600):
        ticks.now += 1.0
        progress.at(number, "q")
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "put: 1 of 4,000 (0 %), q"
    assert 100 < len(lines) < 150
    assert "\x1b" not in "".join(lines)
    assert "\r" not in "".join(lines)


def test_progress_on_a_terminal_is_one_line(ticks: Ticks, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    progress = console.Progress("put", eager=True)
    for number in (1, 2):
        progress.at(number)
        ticks.now += 0.2
    progress.close()
    progress.close()
    assert terminal.getvalue() == "\r\x1b[Kput: 1\r\x1b[Kput: 2\r\x1b[K"


@pytest.mark.parametrize(
    ("term", "no_color", "coloured"), [("xterm", "", True), ("xterm", "1", False), ("dumb", "", False)]
)
def test_colours(monkeypatch: pytest.MonkeyPatch, term: str, no_color: str, coloured: bool) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setenv("NO_COLOR", no_color)
    assert (console.styled("a", "red", Terminal()) != "a") is coloured
    assert console.styled("a", "red", io.StringIO()) == "a"


@pytest.mark.parametrize(
    ("text", "value"), [("5", 5), ("0.5s", 0.5), ("250ms", 0.25), ("10m", 600), ("2h", 7200), ("1d", 86400)]
)
def test_seconds(text: str, value: float) -> None:
    assert command.seconds(text) == value


@pytest.mark.parametrize("text", ["", "m", "5 m", "5y", "nan", "inf", "-5", "1e400", "0x5"])
def test_no_seconds(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="duration"):
        command.seconds(text)


def test_instants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock.SYSTEM, "now", lambda: 1000.0, raising=False)
    assert command.instant("10m") == 400.0
    assert command.instant("2026-01-31T12:00Z") == datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()
    assert command.instant("2026-01-31T12:00+02:00") == datetime(2026, 1, 31, 10, tzinfo=UTC).timestamp()
    naive: Any = datetime(2026, 1, 31)  # noqa: DTZ001 - local time is what is tested
    assert command.instant("2026-01-31") == naive.astimezone().timestamp()
    with pytest.raises(argparse.ArgumentTypeError, match="10m"):
        command.instant("yesterday")

"""What the commands print: tables, JSON, progress. Safe for terminals whatever the events contain."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from eventq import clock

if TYPE_CHECKING:
    from collections.abc import Sequence

_STYLES = {"bold": "1", "red": "31", "green": "32", "yellow": "33", "dim": "2"}


def printable(text: str) -> str:
    """Text that cannot steer a terminal: everything invisible is shown as an escape.

    >>> printable("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, width: int) -> str:
    """At most `width` characters, on one line, with an ellipsis for the rest."""
    text = printable(text[: width + 1])
    return text if len(text) <= width else text[: width - 1] + "…"


def styled(text: str, style: str, stream: TextIO | None = None) -> str:
    """Coloured on a terminal; plain elsewhere, and when `NO_COLOR` is set."""
    stream = sys.stdout if stream is None else stream
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[int] = ()) -> None:
    """Aligned columns; those in `right` are numbers."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(header), *cells]) for i in range(len(header))]

    def line(values: Sequence[str]) -> str:
        aligned = [
            v.rjust(w) if i in right else v.ljust(w) for i, (v, w) in enumerate(zip(values, widths, strict=True))
        ]
        return "  ".join(aligned).rstrip()

    print(styled(line(header), "bold"))
    for row in cells:
        print(line(row))


def print_json(document: Any) -> None:
    """One JSON document: indented on a terminal, on one line elsewhere."""
    data = msgspec.json.encode(document)
    if sys.stdout.isatty():
        data = msgspec.json.format(data, indent=2)
    print(json_text(data))


def json_text(data: bytes) -> str:
    """Encoded JSON as text, with whatever is invisible escaped (it can only stand inside strings)."""
    text = data.decode()
    if text.isascii():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _json_escape(c) for c in text)


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def duration(value: float | None) -> str:
    """A duration as people say it: `0.12s`, `34s`, `5m`, `3h`, `12d`; `-` for none."""
    if value is None:
        return "-"
    if value < 10:
        return f"{max(value, 0):.2f}s"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "m"), (172800, 3600, "h")):
        if value < limit:
            return f"{value / unit:.0f}{name}"
    return f"{value / 86400:.0f}d"


def timestamp(at: float | None) -> str | None:
    """An instant as it stands in JSON: ISO 8601 in UTC, to the microsecond."""
    if at is None:
        return None
    try:
        return clock.aware(at).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except (ValueError, OverflowError, OSError):
        return None  # beyond the years 1 to 9999: no calendar has it


class Progress:
    """How far a long command is, on stderr: a line that rewrites itself on a terminal, else now and then a line.

    Says nothing during the first second, unless `eager`.
    """

    def __init__(self, label: str, total: int | None = None, *, eager: bool = False) -> None:
        self.label: str = label
        self.total: int | None = total
        self._stream = sys.stderr
        self._live = self._stream.isatty()
        self._started = clock.perf_counter()
        self._interval = 0.1 if self._live else 1.0
        self._next = self._started + (0.0 if eager else 1.0)
        self._shown = False

    def at(self, done: int, note: str = "") -> None:
        """Show it, if it is time to; cheap to call for every event."""
        now = clock.perf_counter()
        if now < self._next or not done:
            return
        if not self._live and self._shown:
            self._interval = min(self._interval * 1.5, 30.0)  # a log of an hour's work stays short
        self._next = now + self._interval
        self._shown = True
        share = f"{done:,} of {self.total:,} ({100 * done // max(self.total, 1)} %)" if self.total else f"{done:,}"
        text = f"{self.label}: {share}{', ' + note if note else ''}"
        print(
            f"\r\x1b[K{text}" if self._live else text,
            end="" if self._live else "\n",
            file=self._stream,
            flush=True,
        )

    def close(self) -> None:
        """Clear the line; harmless when repeated."""
        if self._live and self._shown:
            print("\r\x1b[K", end="", file=self._stream, flush=True)
        self._shown = False

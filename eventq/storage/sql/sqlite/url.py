"""What a `sqlite://` URL says.

    sqlite:///queue.db       a file, relative to the working directory
    sqlite:////srv/queue.db  an absolute path

Options: `synchronous`, `full` (what was put survives a power cut; the default) or `normal` (it survives the death of
every process); `busy_timeout`, the seconds for which a call waits for its turn to write, 30 unless said.
"""

from __future__ import annotations

import os.path
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from eventq.errors import ConfigError

OPTIONS = ("synchronous", "busy_timeout")
SYNCHRONOUS = ("full", "normal")


class Target(msgspec.Struct, frozen=True):
    """Which file, and how."""

    path: str
    synchronous: str = "full"
    busy_timeout: float = 30.0


def target(url: str) -> Target:
    """What a URL means. Raises ConfigError for what cannot be."""
    parts = urlsplit(url)
    path = unquote(parts.path)[1:]
    if parts.netloc or parts.fragment or not path or path.endswith("/"):
        raise ConfigError(f"{url!r} names no file; write sqlite:///queue.db, or sqlite:////absolute/path/queue.db")
    if path == ":memory:":
        raise ConfigError("a SQLite database in memory cannot be shared by connections; write memory://")
    said = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := sorted(said.keys() - set(OPTIONS)):
        raise ConfigError(f"unknown options of a sqlite:// URL: {', '.join(unknown)}; there are {', '.join(OPTIONS)}")
    synchronous = said.get("synchronous", "full")
    if synchronous not in SYNCHRONOUS:
        raise ConfigError(f"synchronous={synchronous!r} cannot be; write {' or '.join(SYNCHRONOUS)}")
    return Target(path, synchronous, _seconds(said.get("busy_timeout", "30")))


def file_of(url: str) -> tuple[str, bool]:
    """The file that a URL names, and whether it is there."""
    path = target(url).path
    return path, os.path.exists(path)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise ConfigError(f"busy_timeout={text!r} is no duration; give seconds, 0 or more")
    return seconds

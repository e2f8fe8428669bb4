"""The scripts: every change of the store is one of them, so that it happens at once and wholly or not at all.

They are files in `lua/`. Where one says `--# include events keys`, it gets what those files say, and before that the
constants that Python decides by as well.
"""

from __future__ import annotations

import functools
import hashlib
import re
from importlib.resources import files
from typing import Any

import msgspec

from eventq.model import MAX_PLACES, Settings
from eventq.retry import FOR_EVER, SUSPECT_CRASHES
from eventq.storage.checks import MAX_NOTES_BYTES, NOTE_OVERHEAD
from eventq.storage.endings import ATTEMPTS_KEPT

COUNT_SPARES = 600.0
"""A completed event younger than this (seconds) is never given up for `keep_count`."""
PROMOTE_STEP = 5000
"""Due events that one call makes ready at most: some 50 ms."""
PRUNE_STEP = 1000
"""Records that one call gives up at most."""
WINDOW = 32
"""Other workers that one look judges at most."""
DECIDING = ("max_crashes", "keep", "keep_count", "keep_dead", "keep_dead_count", "lease", "max_bytes", "maxsize",
            "concurrency", "paused", "paused_until")  # fmt: skip
"""The settings that scripts decide by: each is a field of its own, unless it is the default."""

INCLUDE = re.compile(r"^ *--# include (.*)$", re.MULTILINE)


class Script(msgspec.Struct, frozen=True):
    """A script as the server knows it."""

    name: str
    source: bytes
    digest: bytes


@functools.cache
def script(name: str) -> Script:
    """A script by its file's name; read on first use."""
    text = _read(name)
    if found := INCLUDE.search(text):  # what stands before it is the plain case, which needs none of this
        text = text[: found.start()] + _constants() + text[found.start() :]
    source = INCLUDE.sub(_included, text).encode()
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


def number(value: float) -> str:
    """A number as text from which Lua reads the same number."""
    return repr(value)


def field(value: Any) -> str:
    """A setting as the text of its field; '' for none."""
    if value is None or value is False:
        return ""
    return "1" if value is True else number(value)


def _read(name: str) -> str:
    return files("eventq.storage.redis").joinpath("lua", f"{name}.lua").read_text("utf-8")


def _included(line: re.Match[str]) -> str:
    return "\n".join(_read(name) for name in line[1].split())


@functools.cache
def _constants() -> str:
    defaults = {name: getattr(Settings(), name) for name in DECIDING}
    shown = ", ".join(f"{name} = {number(value)}" for name, value in defaults.items() if field(value))
    constants = {
        "DEFAULTS": f"{{{shown}}}",
        "SUSPECT_CRASHES": SUSPECT_CRASHES,
        "FOR_EVER": FOR_EVER,
        "ATTEMPTS_KEPT": ATTEMPTS_KEPT,
        "MAX_PLACES": MAX_PLACES,
        "MAX_NOTES_BYTES": MAX_NOTES_BYTES,
        "NOTE_OVERHEAD": NOTE_OVERHEAD,
        "COUNT_SPARES": COUNT_SPARES,
        "PROMOTE_STEP": PROMOTE_STEP,
        "PRUNE_STEP": PRUNE_STEP,
        "WINDOW": WINDOW,
    }
    return f"local {', '.join(constants)} = {', '.join(map(str, constants.values()))}\n"

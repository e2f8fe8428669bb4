"""What every storage refuses, in the same words: for those that keep no files, whose own limits are wider."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import msgspec

from eventq.errors import ConfigError, PayloadError
from eventq.storage.base import MAX_NAME_BYTES, MAX_NOTE_BYTES, MAX_PUT_BYTES, MAX_PUT_EVENTS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventq.model import PutOptions

MAX_NAME = 100
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
MAX_NOTES_BYTES = 1 << 20
"""What the notes of an event take at most; beyond that the oldest go."""
NOTE_OVERHEAD = 64
"""What a note counts beside its data."""


@functools.lru_cache(1024)
def check_name(queue: str) -> None:
    """Refuse what cannot be a queue name on files either, so that a program may change to them.

    A file storage encodes names, and this counts likewise: 1 byte for lower-case letters, digits and `-`,
    2 for `_`, 3 for each other byte.
    """
    if not isinstance(queue, str) or not queue:
        raise ConfigError(f"a queue name is a non-empty text, not {queue!r}")
    try:
        queue.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the queue name {queue!r} is not valid Unicode text") from error
    length = sum(1 if char in PLAIN else 2 if char == "_" else 3 * len(char.encode()) for char in queue)
    if length > MAX_NAME:
        raise ConfigError(f"the queue name {queue[:40]!r}... takes {length} bytes; at most {MAX_NAME}")


def check_sizes(payloads: Sequence[bytes], max_bytes: int) -> None:
    """PayloadError if one put may not be so large; it names the limit."""
    if len(payloads) > MAX_PUT_EVENTS:
        raise PayloadError(f"{len(payloads)} events in one put; at most {MAX_PUT_EVENTS}")
    for payload in payloads:
        if len(payload) > max_bytes:
            raise PayloadError(f"a payload of {len(payload)} bytes; this queue takes max_bytes={max_bytes}")
    total = sum(len(payload) for payload in payloads)
    if len(payloads) > 1 and total > MAX_PUT_BYTES:
        raise PayloadError(f"{total} bytes in one put; at most {MAX_PUT_BYTES}")


def encode_headers(options: PutOptions) -> bytes:
    """Headers as JSON: what is read back shares nothing with the caller's, and looks as on disk."""
    if not options.headers:
        return b"{}"
    try:
        return msgspec.json.encode(options.headers)
    except (TypeError, ValueError) as error:
        raise PayloadError(f"headers must be JSON: {error}") from error


def check_key(options: PutOptions) -> str:
    """The key of a keyed put. ConfigError if it cannot be held as it says."""
    if options.key is None:
        raise ValueError("put_key() needs a key; use put() without one")
    if isinstance(options.unique, str) and options.unique not in ("waiting", "open"):
        raise ConfigError(f"unique={options.unique!r} cannot be; write 'waiting', 'open' or seconds")
    return options.key


def check_key_of_several(options: PutOptions) -> None:
    """ValueError if several events cannot be put with their key."""
    if isinstance(options.unique, str) or options.debounce is not None:
        raise ValueError("a key of several events is held for a time: give unique= in seconds, and no debounce=")


def check_name_size(name: str, data: bytes) -> None:
    """PayloadError if a name is too large, with what is said about it."""
    size = len(name.encode("utf-8", "surrogatepass")) + len(data)
    if size > MAX_NAME_BYTES:
        raise PayloadError(f"a name of {size} bytes with its data; at most {MAX_NAME_BYTES}: keep more elsewhere")


def check_note(data: bytes) -> None:
    """PayloadError if a note is too large."""
    if len(data) > MAX_NOTE_BYTES:
        raise PayloadError(f"a note of {len(data)} bytes; at most {MAX_NOTE_BYTES}: note less, or note it in parts")

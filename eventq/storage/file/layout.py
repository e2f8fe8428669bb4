"""Names and places: which file is where, and what its name says. Pure; PROTOCOL.md has the table.

Nothing from a user is ever a path: queue names are encoded, keys and slot names are hashed.
"""

from __future__ import annotations

import functools
import hashlib
import re

from eventq.errors import ConfigError

FORMAT = "eventq 1"

EVENT_FILE = re.compile(r"[0-9a-f]{38}(\.[0-9a-f]{5})?\+?\Z")
"""`<stem>` as its producer named it, `<event id>` for an event with a file of its own, and a `+` once it came back."""
DELAYED_FILE = re.compile(r"([0-9a-f]{16})~(-?\d{1,3})~([0-9a-f]{38}(?:\.[0-9a-f]{5})?\+?)\Z")
BLOCKED_FILE = re.compile(
    r"(\d{1,5}(?:-[0-9a-f]{1,16})?)~([0-9a-f]{16})~(-?\d{1,3})~([0-9a-f]{38}(?:\.[0-9a-f]{5})?\+?)\Z"
)
"""In `blocked/<digest>/`: how many places the slot has for this event (of a rate, within how many nanoseconds), when it
expires, its priority and its file."""
NOTES_FILE = re.compile(r"[0-9a-f]{38}\.[0-9a-f]{5}~?\Z")
"""`<event id>`, and with a `~` the notes before those."""
CLAIM_FILE = re.compile(r"([a-z0-9_-]{1,100})~(-?\d{1,3})~(.+)\Z", re.DOTALL)
KEYED_DRAFT = re.compile(r"key~([a-z0-9_-]{1,100})~(-?\d{1,3})~([0-9a-f]{16})~([0-9a-f]{38})\Z")

PRIORITY = re.compile(r"(0|-?[1-9][0-9]{0,2})\Z")
"""A folder in `ready/`; any other name there is nothing of ours."""
BUCKET = re.compile(r"[0-9a-f]{7}\Z")

NEVER = "f" * 16
"""The expiry of an event that has none, as digits that are later than any."""

MAX_QUEUE_NAME = 100
BUCKET_DIGITS = 7
"""The first 7 of 16 hex digits of nanoseconds: a bucket is 2**36 ns, 69 seconds."""

_LITERAL = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


def encode_queue(name: str) -> str:
    """A folder name for a queue: different names stay different even where the file system folds case.

    Lower-case letters, digits and `-` stand for themselves, `__` for `_`, and `_xx` for any other byte of UTF-8.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"a queue name is a non-empty text, not {name!r}")
    try:
        raw = name.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the queue name {name!r} is not valid Unicode text") from error
    encoded = "".join(
        character if (character := chr(byte)) in _LITERAL else "__" if byte == 0x5F else f"_{byte:02x}" for byte in raw
    )
    if len(encoded) > MAX_QUEUE_NAME:
        raise ConfigError(
            f"the queue name {name[:40]!r}... takes {len(encoded)} bytes encoded; at most {MAX_QUEUE_NAME}"
        )
    return encoded


@functools.lru_cache(maxsize=1024)
def decode_queue(folder: str) -> str:
    """The queue name of a folder; ValueError if no queue has such a folder."""
    raw = bytearray()
    at = 0
    while at < len(folder):
        if folder[at] != "_":
            raw.append(ord(folder[at]))
            at += 1
        elif folder[at + 1 : at + 2] == "_":
            raw.append(0x5F)
            at += 2
        else:
            raw.append(int(folder[at + 1 : at + 3], 16))
            at += 3
    name = raw.decode()
    if encode_queue(name) != folder:
        raise ValueError(f"{folder!r} is not the folder of a queue")
    return name


def bucket_of(name: str) -> str:
    """The bucket of a file name or id, or of 16 hex digits of a due time."""
    return name[:BUCKET_DIGITS]


def due_digits(due: float) -> str:
    """A due time as it stands in names: 16 hex digits of nanoseconds, so that names sort by it."""
    return f"{int(max(0.0, min(due * 1e9, 2.0**63))):016x}"


@functools.lru_cache(1024)
def digest(text: str) -> str:
    """A key's or slot's file name; the text itself stands inside."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def came_back(name: str) -> str:
    """The name under which a file returns to `ready/` or `delayed/`: never the bare one, which proves to its
    producer that nobody has claimed it."""
    return name if name.endswith("+") else name + "+"


class QueuePaths:
    """The folders of one queue, each with a closing slash."""

    __slots__ = (
        "blocked", "cancelled", "claim_prefix", "completed", "dead", "delayed", "encoded", "expired", "keys", "name",
        "notes", "ready", "root", "settings", "wake",
    )  # fmt: skip

    def __init__(self, store: str, name: str) -> None:
        self.name: str = name
        self.encoded: str = encode_queue(name)
        self.root: str = f"{store}/queues/{self.encoded}/"
        self.ready: str = self.root + "ready/"
        self.delayed: str = self.root + "delayed/"
        self.blocked: str = self.root + "blocked/"
        self.completed: str = self.root + "completed/"
        self.dead: str = self.root + "dead/"
        self.expired: str = self.root + "expired/"
        self.cancelled: str = self.root + "cancelled/"
        self.keys: str = self.root + "keys/"
        self.notes: str = self.root + "notes/"
        self.settings: str = self.root + "settings.json"
        self.wake: str = self.root + "wake"

    def final(self, state: str) -> str:
        """The folder of a final state."""
        return f"{self.root}{state}/"

    def ready_at(self, priority: int) -> str:
        return f"{self.ready}{priority}/"

    def delayed_name(self, due: float | str, priority: int, name: str) -> tuple[str, str]:
        """Folder and file name of an event that waits for its time (seconds, or the digits of a name)."""
        digits = due if isinstance(due, str) else due_digits(due)
        return f"{self.delayed}{bucket_of(digits)}/", f"{digits}~{priority}~{name}"

    def blocked_name(self, slot: str, places: str, expires: float | None, priority: int, name: str) -> tuple[str, str]:
        """Folder and file name of an event that waits for its share (`places`) of a slot.

        All that decides when it comes back stands in the name, so that nobody has to read the file.
        """
        until = NEVER if expires is None else due_digits(expires)
        return f"{self.blocked}{digest(slot)}/", f"{places}~{until}~{priority}~{name}"

    def claim_name(self, priority: int, name: str) -> str:
        """A claim file's name says where it belongs, so that whoever finds it can bring it back unread."""
        return f"{self.encoded}~{priority}~{name}"

    def keyed_draft(self, due: float | None, priority: int, stem: str) -> str:
        """A keyed event's draft: its name says where it goes if its key's marker names it."""
        return f"key~{self.encoded}~{priority}~{due_digits(due or 0.0)}~{stem}"

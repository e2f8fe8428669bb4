"""What a check finds, and the checks that every file and folder of a store must pass: kind, links, permissions."""

from __future__ import annotations

import re
import stat as stat_bits
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from eventq.storage.file import disk

if TYPE_CHECKING:
    import os

T = TypeVar("T")


class Finding(msgspec.Struct, frozen=True):
    """Something that is not as it should be: `path` is relative to the store.

    An `"error"` is a state that no sequence of calls and deaths leaves: somebody or something else changed the store,
    or the power went (then a move's event may stand in two files, and runs twice). A `"note"` is a state that the
    next worker cleans up, or one that a person may want to know of.
    """

    path: str
    problem: str
    severity: Literal["error", "note"]


class Findings:
    """Collects what is found below one folder."""

    def __init__(self, root: str) -> None:
        self.root: str = root
        self.counts: Counter[str] = Counter()
        self.found: dict[Finding, None] = {}

    # ------------------------------------------------------------------ saying it

    def error(self, path: str, problem: str) -> None:
        self.found[Finding(path, problem, "error")] = None

    def note(self, path: str, problem: str) -> None:
        self.found[Finding(path, problem, "note")] = None

    def stranger(self, path: str, name: str, what: str) -> None:
        """Something whose name is not that of `what` belongs there. Dot names are other programs', and harmless."""
        if name.startswith("."):
            self.note(path, "is nothing of eventq's, and ignored")
        else:
            self.error(path, f"is no {what}")

    # ------------------------------------------------------------------ folders and files

    def entries(self, folder: str) -> Iterator[tuple[str, os.stat_result]]:
        """Names and status of what is in a folder; what goes meanwhile is not there."""
        for name in disk.list_if_any(f"{self.root}/{folder}"):
            try:
                yield name, disk.stat(f"{self.root}/{folder}/{name}" if folder else f"{self.root}/{name}")
            except FileNotFoundError:
                continue

    def folders(self, folder: str, legal: re.Pattern[str], what: str) -> Iterator[str]:
        """The legal folders in a folder; whatever else is there is reported."""
        for name, status in self.entries(folder):
            path = f"{folder}/{name}"
            if legal.match(name):
                if self.is_folder(path, status):
                    yield name
            else:
                self.stranger(path, name, what)

    def is_folder(self, path: str, status: os.stat_result) -> bool:
        if not stat_bits.S_ISDIR(status.st_mode):
            self.error(path, f"is {kind_of(status)}, where a folder belongs")
            return False
        self._judge_mode(path, status, 0o700)
        return True

    def is_file(self, path: str, status: os.stat_result, links: int = 1) -> bool:
        self.counts["files"] += 1
        if not stat_bits.S_ISREG(status.st_mode):
            self.error(path, f"is {kind_of(status)}, where a file belongs")
            return False
        if status.st_nlink > links:
            self.error(path, f"has {status.st_nlink} names (hard links)")
        self._judge_mode(path, status, 0o600)
        return True

    def is_fifo(self, path: str, status: os.stat_result) -> None:
        if not stat_bits.S_ISFIFO(status.st_mode):
            self.error(path, f"is {kind_of(status)}, where a FIFO belongs: nobody is woken")
        else:
            self._judge_mode(path, status, 0o600)

    def _judge_mode(self, path: str, status: os.stat_result, wanted: int) -> None:
        mode = status.st_mode & 0o777
        if mode & 0o002:
            self.error(path or ".", f"can be changed by everybody (mode {mode:04o}, not {wanted:04o})")
        elif mode != wanted:
            self.note(path or ".", f"has mode {mode:04o}, not {wanted:04o}")

    def read(self, path: str, limit: int) -> bytes | None:
        """A file's content; None if it is gone."""
        try:
            return disk.read_file(f"{self.root}/{path}", limit)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.error(path, f"cannot be read: {error.strerror or error}")
            return None

    def json(
        self, path: str, limit: int, type: type[T], consequence: str, say: Callable[[str, str], None] | None = None
    ) -> T | None:
        """A JSON file's content; None if it is gone, or not what it should be, which is said."""
        data = self.read(path, limit)
        if data is None:
            return None
        try:
            return msgspec.json.decode(data, type=type)
        except msgspec.MsgspecError as error:
            (say or self.error)(path, f"cannot be read ({error}), {consequence}")
            return None


def kind_of(status: os.stat_result) -> str:
    """What a file is, in words."""
    mode = status.st_mode
    if stat_bits.S_ISLNK(mode):
        return "a symbolic link"
    if stat_bits.S_ISDIR(mode):
        return "a folder"
    if stat_bits.S_ISREG(mode):
        return "a file"
    return "a FIFO" if stat_bits.S_ISFIFO(mode) else "a special file"

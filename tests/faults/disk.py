"""A stand-in for the functions of `eventq.storage.file.disk` that can fail, die or let somebody else run in any call.

It also knows every descriptor that was opened, so that a worker's death can close those that its dead frames still
had, as the kernel would.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from eventq.storage.file import disk

OPENING = ("open_file", "open_read", "create", "open_or_create", "open_fifo", "open_fifo_writer")
NAMING = ("rename", "link", "unlink", "rmdir", "listdir", "stat", "mkdir", "make_fifo", "sync_folder", "remove_tree")
DATA = ("read", "write", "pread", "pwrite", "truncate", "fstat", "sync", "close")
OTHER = ("exists", "try_lock", "unlock", "try_hold", "pipe", "set_blocking")
CALLS = (*OPENING, *NAMING, *DATA, *OTHER)

NEVER_FAILS = {"unlock", "set_blocking", "fstat"}
"""Of a valid descriptor."""
FAILING = {
    errno.EIO: set(CALLS) - NEVER_FAILS - {"close", "pipe", "try_lock", "try_hold", "read", "write"},
    errno.ENOSPC: {
        "rename", "link", "create", "open_or_create", "mkdir", "make_fifo", "pwrite", "sync", "sync_folder",
    },
    errno.EMFILE: {*OPENING, "sync_folder", "pipe"},
    errno.EACCES: {*OPENING, *NAMING, "exists"},
}  # fmt: skip
"""Which calls can fail with which error."""


class Died(BaseException):
    """The process ended in the middle of a call."""


def _in_finalizer(name: str) -> bool:
    """Whether this call is made by `__del__`, from which no error gets out."""
    return name == "close" and sys._getframe(2).f_code.co_name == "__del__"


class FaultyDisk:
    """Counts the calls of one thread while it is armed, and strikes in one of them."""

    def __init__(self) -> None:
        self.real: dict[str, Callable[..., Any]] = {name: getattr(disk, name) for name in CALLS}
        self.open: set[int] = set()
        self.closed_twice: list[int] = []
        self.count = 0
        self.struck: str | None = None
        self.dead = False
        self._armed = False
        self._at = 0
        self._thread = 0
        self._strike: Callable[[str, tuple[Any, ...]], Any] | None = None
        self._names: set[str] = set(CALLS)
        self._heard: list[str] | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            monkeypatch.setattr(disk, name, self._stand_in(name))

    # ------------------------------------------------------------------ arming

    def arm(self, at: int, strike: Callable[[str, tuple[Any, ...]], Any], names: set[str] | None = None) -> None:
        """In the `at`-th call of these names by this thread, do something else instead (0: only count)."""
        self.count, self.struck, self.dead = 0, None, False
        self._at, self._strike, self._names = at, strike, names if names is not None else set(CALLS)
        self._thread = threading.get_ident()
        self._armed = True

    def disarm(self) -> None:
        self._armed = self.dead = False

    def arm_death(self, at: int, half: bool = False) -> None:
        """Die in a call: before it does anything, or (`half`) when half of the bytes are written."""

        def die(name: str, args: tuple[Any, ...]) -> Any:
            if half and name == "pwrite":
                fd, data, offset = args
                self.real["pwrite"](fd, data[: len(data) // 2], offset)
            if name == "close":
                self._close(args[0])
            self.dead = True
            raise Died

        self.arm(at, die, {"pwrite"} if half else None)

    def arm_error(self, at: int, code: int, *, short: bool = False, lasting: bool = False) -> None:
        """Let a call fail with an error (`lasting`: that one and all that could fail so after it; `short`: after it
        has written half)."""

        def fail(name: str, args: tuple[Any, ...]) -> Any:
            if lasting:
                self._at = self.count + 1  # and the next one, too
            if name == "exists":
                return False
            if short and name == "pwrite":
                fd, data, offset = args
                return self.real["pwrite"](fd, data[: len(data) // 2], offset)
            raise OSError(code, os.strerror(code))

        self.arm(at, fail, {"pwrite"} if short else FAILING[code])

    @contextmanager
    def listening(self, calls: list[str]) -> Iterator[None]:
        """Strike nowhere, and write down the names of all calls that this thread makes meanwhile."""
        self.arm(0, self.pass_on)
        self._heard = calls
        try:
            yield
        finally:
            self._heard = None
            self.disarm()

    # ------------------------------------------------------------------ the calls

    def _stand_in(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if self._armed and self._thread == threading.get_ident() and not _in_finalizer(name):
                if self.dead:
                    return self._after_death(name, args)
                if self._heard is not None:
                    self._heard.append(name)
                if name in self._names:
                    self.count += 1
                    if self.count == self._at:
                        self.struck = f"{self.struck}, {name}" if self.struck else name
                        assert self._strike is not None
                        return self._strike(name, args)
            return self.pass_on(name, args)

        return call

    def pass_on(self, name: str, args: tuple[Any, ...]) -> Any:
        """The call itself, with its descriptors written down."""
        if name == "close":
            return self._close(args[0])
        result = self.real[name](*args)
        if name in OPENING:
            self.open.add(result)
        elif name == "pipe":
            self.open.update(result)
        return result

    def _after_death(self, name: str, args: tuple[Any, ...]) -> Any:
        """The dead do nothing; what is still open, the kernel closes."""
        if name == "close":
            return self._close(args[0])
        raise Died

    def _close(self, fd: int) -> None:
        if fd not in self.open:
            self.closed_twice.append(fd)
            return
        self.open.discard(fd)
        self.real["close"](fd)

    def close_all(self, but: set[int]) -> None:
        """What the kernel does for a dead process."""
        for fd in self.open - but:
            self.real["close"](fd)
        self.open &= but

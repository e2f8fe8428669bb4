"""Named claims and slots.

A name is a file that is linked into place, so that one of any number of takers wins; it stays until it is released.
What it says changes by renaming another file over it, under the lock of the one before: so a look at the name finds
either, of several who have read the same one is first, and the kernel frees the lock of whoever dies at it.
A slot is a lock on a file, so the kernel frees it the instant its holder dies. The file stays a little longer than the
lock, since who takes a slot often takes it again, and making a file is the dearest call of all; then it is removed,
under its lock, and whoever locks it checks that the name still leads to it.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator

import msgspec

from eventq.clock import SYSTEM
from eventq.errors import StorageError
from eventq.model import Name
from eventq.storage.base import MAX_NAME_BYTES
from eventq.storage.file import disk
from eventq.storage.file.drafts import Drafts, make_folder
from eventq.storage.file.layout import digest

log: logging.Logger = logging.getLogger("eventq.storage")

MAX_RECORD_BYTES = 8 * MAX_NAME_BYTES
"""Of a name's file: it is JSON, in which a byte of a name may take six."""
TAKE_TRIES = 100
PATIENCE = 10.0
"""Seconds to wait for who changes a name, which takes a fraction of one."""
MAX_IDLE = 64
"""Files of free slots that one process leaves, at most."""
IDLE = 10.0
"""Seconds that such a file stays at least, if there are not too many."""


class Names:
    """The names of one store."""

    def __init__(self, root: str, durable: bool) -> None:
        self._folder = root + "/names/"
        self._durable = durable
        self._locks: set[int] = set()
        """The files that are locked at this moment."""
        self._number = itertools.count()

    def take(self, record: Name, drafts: Drafts) -> tuple[Name, bool]:
        holder = self.read(digest(record.name))
        if holder is not None:
            return holder, False
        draft = drafts.named(self._draft_name(), msgspec.json.encode(record))
        target = self._folder + digest(record.name)
        try:
            for _ in range(TAKE_TRIES):
                try:
                    disk.link(draft.path, target)
                except FileExistsError:
                    holder = self.read(digest(record.name))
                    if holder is None:
                        continue  # released this instant
                    return holder, False
                except FileNotFoundError:
                    make_folder(self._folder, self._durable)
                else:
                    if self._durable:
                        disk.sync_folder(self._folder)
                    return record, True
        finally:
            drafts.drop(draft)
        raise StorageError(f"the name {record.name!r} changes hands faster than it can be read; try again")

    def read(self, filename: str) -> Name | None:
        path = self._folder + filename
        try:
            return decoded(disk.read_file(path, MAX_RECORD_BYTES), path)
        except FileNotFoundError:
            return None

    def all(self, prefix: str) -> list[Name]:
        found = []
        for filename in disk.list_if_any(self._folder):
            try:
                name = self.read(filename)
            except (OSError, StorageError) as error:
                log.error("a taken name cannot be listed: %s", error)  # it must not hide the others
                continue
            if name is not None and name.name.startswith(prefix):
                found.append(name)
        return sorted(found, key=lambda name: name.name)

    def replace(self, held: Name, by: Name | None, drafts: Drafts) -> bool:
        """Rename another record over the one that a name has, or unlink that for None, if it still is this one."""
        path, draft = self._folder + digest(held.name), None
        if by is not None:
            draft = drafts.named(self._draft_name(), msgspec.json.encode(by))
        try:
            with self._locked(path) as fd:
                if fd is None or decoded(disk.read_all(fd, MAX_RECORD_BYTES), path) != held:
                    return False
                if draft is None:
                    disk.unlink(path)
                else:
                    disk.rename(draft.path, path)
                    named, draft = draft, None
                    disk.close(named.fd)
        finally:
            if draft is not None:
                drafts.drop(draft)
        if self._durable:
            disk.sync_folder(self._folder)
        return True

    def release(self, name: str) -> bool:
        path = self._folder + digest(name)
        with self._locked(path) as fd:
            return fd is not None and disk.unlink_if_any(path)

    @contextlib.contextmanager
    def _locked(self, path: str) -> Iterator[int | None]:
        """The file that a name has, or None. It keeps that file meanwhile: who would change that waits for this lock.
        Whoever had it before may have changed it, so the name must still lead to what is locked."""
        until = SYSTEM.monotonic() + PATIENCE
        while True:
            try:
                fd = disk.open_file(path)
            except FileNotFoundError:
                yield None
                return
            self._locks.add(fd)
            try:
                if not disk.lock_soon(fd):
                    if SYSTEM.monotonic() >= until:
                        raise StorageError(f"{path} is locked by a process that does not go on; resume it, or kill it")
                elif leads_to(path, fd):
                    yield fd
                    return
            finally:
                self._locks.discard(fd)
                disk.unlock(fd)
                disk.close(fd)

    def _draft_name(self) -> str:
        return f"name-{next(self._number):016x}"

    def abandon(self) -> None:
        """Close the descriptors, and nothing else: in a forked child they are the parent's."""
        while self._locks:
            disk.close(self._locks.pop())


def decoded(data: bytes, path: str) -> Name:
    """The record that a name's file holds. Raises StorageError."""
    try:
        return msgspec.json.decode(data, type=Name)
    except msgspec.MsgspecError as error:
        raise StorageError(f"{path} cannot be read ({error}); remove it to free the name") from error


def leads_to(path: str, fd: int) -> bool:
    """Whether a name still leads to an open file."""
    try:
        return disk.stat(path).st_ino == disk.fstat(fd).st_ino
    except FileNotFoundError:
        return False


class FileSlot:
    """A held slot."""

    __slots__ = ("_slots", "fd", "path")

    def __init__(self, slots: Slots, path: str, fd: int) -> None:
        self._slots = slots
        self.path: str = path
        self.fd: int = fd

    def release(self) -> None:
        self._slots.release(self)


class Slots:
    """The slots that this process holds."""

    def __init__(self, root: str, durable: bool) -> None:
        self._folder = root + "/slots/"
        self._durable = durable
        self._held: set[FileSlot] = set()
        self._idle: dict[str, float] = {}
        """Files that this process has left, with the time; the oldest first. Any thread changes it, each time in one
        step."""

    def take(self, name: str, limit: int) -> FileSlot | None:
        stem = self._folder + digest(name)
        for number in range(limit):
            slot = self._take(f"{stem}.{number}")
            if slot is not None:
                self._held.add(slot)
                self._idle.pop(slot.path, None)
                return slot
        return None

    def _take(self, path: str) -> FileSlot | None:
        for _ in range(TAKE_TRIES):
            try:
                fd = disk.open_or_create(path)
            except FileNotFoundError:
                make_folder(self._folder, self._durable)
                continue
            try:
                if not disk.try_hold(fd):
                    disk.close(fd)
                    return None
                if leads_to(path, fd):
                    return FileSlot(self, path, fd)
            except OSError:
                disk.close(fd)  # or nobody else could have it as long as we live
                raise
            disk.close(fd)  # removed by its last holder between our open and our lock: take the next of that name
        return None

    def release(self, slot: FileSlot) -> None:
        if slot in self._held:
            self._held.discard(slot)
            disk.close(slot.fd)
            self._idle[slot.path] = SYSTEM.monotonic()
            if len(self._idle) > MAX_IDLE:
                self._remove(next(iter(list(self._idle)), slot.path))

    def tidy(self, after: float = IDLE) -> None:
        """Remove the files of slots that have been free for so many seconds."""
        until = SYSTEM.monotonic() - after
        for path, since in list(self._idle.items()):
            if since > until:
                break
            self._remove(path)

    def _remove(self, path: str) -> None:
        """Remove the file of a slot that was left, unless somebody has the slot again. Who tries to take it in this
        very instant is told that it is held: so it was, a moment ago."""
        self._idle.pop(path, None)
        try:
            slot = self._take(path)
            if slot is not None:
                try:
                    disk.unlink_if_any(path)
                finally:
                    disk.close(slot.fd)
        except OSError as error:
            log.warning("the file of a free slot stays behind, and is used again: %s", error)

    def close(self) -> None:
        for slot in list(self._held):
            self.release(slot)
        self.tidy(0.0)

    def abandon(self) -> None:
        for slot in self._held:
            disk.close(slot.fd)
        self._held.clear()
        self._idle.clear()

"""A worker's room: `workers/<worker>/`, with everything that belongs to one process, under one lock held for life.

The kernel frees the lock within milliseconds of any death, so a visible room whose lock can be taken is dead. No pid,
no time stamp and no heartbeat decides. To leave no window, a room is made under a hidden name in the order folder,
locked `lock`, inner folders, and then renamed into `workers/`; it is removed in the order inner folders, other files,
`lock`, folder: a room without `lock` holds nothing, and anyone may remove it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import msgspec

from eventq.errors import StorageError
from eventq.ids import new_worker_id
from eventq.storage.file import disk

Introduction = tuple[tuple[str, ...], tuple[str, ...]]
"""The queues that a worker serves, and the tasks that it knows."""

INNER = ("claims", "drafts", "requests")
MAX_INFO_BYTES = 4 << 20
"""More than `MAX_INTRODUCTION`, written as JSON, in most cases; what exceeds it is not shown."""
JOIN_TRIES = 50
CLOSED = "this store was closed; open it again with eventq.App(...)"


class Info(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a room's `info.json` tells; nothing that happens to an event is decided by it."""

    pid: int
    host: str
    since: float
    serves: tuple[str, ...] = ()
    """The queues that the worker claims from, by its own word."""
    tasks: tuple[str, ...] = ()


class Room:
    """This process's room in a store."""

    __slots__ = ("claims", "drafts", "lock_fd", "path", "requests", "since", "wake", "worker")

    def __init__(self, workers: str, worker: str, lock_fd: int, since: float) -> None:
        self.worker: str = worker
        self.path: str = workers + worker
        self.claims: str = self.path + "/claims/"
        self.drafts: str = self.path + "/drafts/"
        self.requests: str = self.path + "/requests/"
        self.wake: str = self.path + "/wake"
        self.lock_fd: int = lock_fd
        self.since: float = since

    def info(self, said: Introduction) -> bytes:
        """The content of `info.json`."""
        return msgspec.json.encode(Info(os.getpid(), socket.gethostname(), self.since, *said))

    def leave(self) -> None:
        """Remove the room. What could not be given back stays in it, for the next look of anybody."""
        remove_room(self.path)
        disk.close(self.lock_fd)


def read_info(room: str) -> Info:
    """What a room says of its worker; nothing, if that cannot be read."""
    try:
        return msgspec.json.decode(disk.read_file(room + "/info.json", MAX_INFO_BYTES), type=Info)
    except (OSError, msgspec.MsgspecError):
        return Info(0, "", 0.0)


def join(
    workers: str, durable: bool, now: float, make_space: Callable[[], bool], said: Introduction = ((), ())
) -> Room:
    """Make a room for this process. `make_space` is asked on a full disk; it says whether to try again."""
    for _ in range(JOIN_TRIES):
        room = Room(workers, new_worker_id(), -1, now)
        try:
            room.lock_fd = _make_room(workers, room.worker, room.info(said), durable)
        except FileNotFoundError:
            continue  # a cleaner took the half-made room for litter: its lock was not held yet
        except OSError as error:
            if disk.is_full(error) and make_space():
                continue
            raise StorageError(f"cannot join the store at {workers}: {error}") from error
        if room.lock_fd >= 0:
            return room
    raise StorageError(f"cannot join the store at {workers}: rooms vanish as fast as they are made")


def _make_room(workers: str, worker: str, info: bytes, durable: bool) -> int:
    """The lock's descriptor of a finished room, or -1 if a cleaner was faster."""
    hidden = f"{workers}.{worker}"
    fd = -1
    try:
        disk.mkdir(hidden)
        fd = disk.create(hidden + "/lock")
        if not disk.try_hold(fd):
            disk.close(fd)
            return -1
        for name in INNER:
            disk.mkdir(f"{hidden}/{name}")
        info_fd = disk.create(hidden + "/info.json")
        try:
            disk.write_all(info_fd, info)
        finally:
            disk.close(info_fd)
        if durable:
            for name in ("claims", "drafts"):
                disk.sync_folder(f"{hidden}/{name}")
            disk.sync_folder(hidden)
        disk.rename(hidden, workers + worker)
        if durable:
            disk.sync_folder(workers)
    except BaseException:
        for room in (hidden, workers + worker):
            remove_room(room)
        if fd >= 0:
            disk.close(fd)
        raise
    return fd


def remove_room(room: str) -> bool:
    """Remove a room whose lock the caller holds; False if something is left in it (then it stays)."""
    steps: list[tuple[str, Callable[[str], None]]] = [(f"/{name}", disk.rmdir) for name in INNER]
    steps += [("/wake", disk.unlink), ("/info.json", disk.unlink), ("/lock", disk.unlink), ("", disk.rmdir)]
    for name, remove in steps:
        try:
            remove(room + name)
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True


def take_dead_room(room: str) -> int | None:
    """The lock of a dead worker's room, held; None if it lives, is gone, or cannot be judged now."""
    try:
        fd = disk.open_file(room + "/lock")  # without O_CREAT: a late taker must not bring a removed room back
    except (FileNotFoundError, NotADirectoryError):
        _remove_litter(room)
        return None
    except OSError:
        return None  # EMFILE and the like are no proof of death
    try:
        if disk.try_hold(fd) and disk.stat(room + "/lock").st_ino == disk.fstat(fd).st_ino:
            return fd
    except OSError:
        disk.close(fd)
        return None
    disk.close(fd)
    return None


def _remove_litter(room: str) -> None:
    """A room without `lock` was half made or half removed, and its inner folders come after `lock` and go before it:
    there is only the folder. Nothing else is removed, for its maker may be making `lock` and the rest just now."""
    try:
        disk.rmdir(room)
    except OSError:
        return

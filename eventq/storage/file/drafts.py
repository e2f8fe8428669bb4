"""Drafts and recycling: every new file is written whole before it gets its name.

Creating a file is the dearest call of all (24 us on a journaled ext4, 0.4 ms and more on one without a journal),
renaming one costs 13 us, overwriting one 1 us. So finished files are kept: the newest few, open, in this worker's own
`claims/` (they hold no open event; whoever recovers them finds nothing to do), the others in `free/`, and a draft
starts from one of them. Nothing in `free/` is ever read for data. Only files that eventq wrote, with a single name
and of bounded size, are kept; all of them go on the first sign of a full disk.
"""

from __future__ import annotations

import errno
import logging

from eventq.clock import SYSTEM
from eventq.errors import OutcomeUnknown, StorageError
from eventq.storage.file import disk
from eventq.storage.file.corrupt import set_aside
from eventq.storage.file.presence import Room

log: logging.Logger = logging.getLogger("eventq.storage")

MAX_KEPT = 4
MAX_FREE = 256
MAX_RECYCLED_BYTES = 64 << 10
BLOCK = 4 << 10
FREE_LOOK = 0.1
"""Seconds between two listings of `free/` while it is empty."""
BALLAST = 64 << 10
RENAME_TRIES = 100


class Draft:
    """A file that is written but not yet named: `publish` or `drop` it."""

    __slots__ = ("fd", "path", "size")

    def __init__(self, path: str, fd: int, size: int = 0) -> None:
        self.path: str = path
        self.fd: int = fd
        self.size: int = size
        """What the file holds by now, in bytes."""


class Drafts:
    """Makes drafts in one worker's room and takes back finished files. Safe for several threads."""

    def __init__(self, root: str, room: Room, durable: bool) -> None:
        self._root = root
        self._free = root + "/free/"
        self._room = room
        self._durable = durable
        self._kept: list[Draft] = []
        self._listed: list[str] = []
        self._next_look = 0.0
        self._space = 0
        self._given = 0

    # ------------------------------------------------------------------ drafting

    def quick(self, name: str, data: bytes, size: int = 0) -> Draft:
        """A draft wherever it is cheapest; after a crash it is as if it had never been.

        Padded with spaces to `size`. Durable in a durable store. Raises OSError, and then nothing is left.
        """
        try:
            kept = self._kept.pop()
        except IndexError:
            return self.named(name, data, size)
        try:
            self._fill(kept, data, size)
        except OSError as error:
            self.drop(kept)
            if disk.is_full(error) and self.make_space():
                return self.named(name, data, size)
            raise
        return kept

    def named(self, name: str, data: bytes, size: int = 0) -> Draft:
        """A draft under its own name in `drafts/`, where recovery can judge it. Else as `quick`."""
        try:
            return self._named(name, data, size)
        except OSError as error:
            if disk.is_full(error) and self.make_space():
                return self._named(name, data, size)
            raise

    def _named(self, name: str, data: bytes, size: int) -> Draft:
        draft = self._take(self._room.drafts + name)
        try:
            self._fill(draft, data, size)
        except BaseException:
            self.drop(draft)
            raise
        return draft

    def _fill(self, draft: Draft, data: bytes, size: int) -> None:
        if len(data) < draft.size <= BLOCK:
            size = max(size, draft.size)  # blanks cost less than cutting the file
        if size > len(data):
            data = data.ljust(size)
        disk.write_all(draft.fd, data)
        if draft.size > len(data):
            disk.truncate(draft.fd, len(data))
        draft.size = len(data)
        if self._durable:
            disk.sync(draft.fd)

    def _take(self, path: str) -> Draft:
        """An empty or recycled file at `path`."""
        while self._listed or self._look():
            try:
                source = self._free + self._listed.pop()
            except IndexError:
                break  # another thread took the last one
            try:
                disk.rename(source, path)
            except FileNotFoundError:
                continue  # another worker was faster
            try:
                fd = disk.open_file(path)
            except OSError:
                if not disk.is_plain(disk.stat(path), MAX_RECYCLED_BYTES):
                    set_aside(self._root, path, "is not a file that eventq recycled")  # nor followed, nor written to
                    continue
                disk.unlink(path)
                raise
            status = disk.fstat(fd)
            if disk.is_plain(status, MAX_RECYCLED_BYTES):
                return Draft(path, fd, status.st_size)
            disk.close(fd)
            disk.unlink(path)
        return Draft(path, disk.create(path))

    def _look(self) -> bool:
        now = SYSTEM.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + FREE_LOOK
        self._listed = disk.listdir(self._free)[:MAX_FREE]
        return bool(self._listed)

    # ------------------------------------------------------------------ naming

    def publish(self, draft: Draft, folder: str, name: str) -> None:
        """Give a draft its name: from here on it is there, for everybody. The draft stays open.

        Raises StorageError if it did not happen, OutcomeUnknown if only its durability failed.
        """
        try:
            rename_into(draft.path, folder, name, self._durable)
        except OSError as error:
            raise StorageError(f"cannot publish {folder}{name}: {error}") from error
        if self._durable:
            sync_name(folder, draft.fd)

    def drop(self, draft: Draft) -> None:
        """Throw a draft away."""
        disk.close(draft.fd)
        try:
            disk.unlink(draft.path)
        except OSError as error:
            log.warning("a draft stays behind until its worker leaves: %s", error)

    # ------------------------------------------------------------------ recycling

    def wants(self, size: int) -> bool:
        """Whether a finished file of this size would be kept."""
        return len(self._kept) < MAX_KEPT and size <= MAX_RECYCLED_BYTES

    def keep(self, path: str, fd: int, size: int) -> None:
        """Keep a finished claim file, open, as a next draft. Its events are all recorded as settled, so that it holds
        nothing even for who finds it after a crash."""
        self._kept.append(Draft(path, fd, size))

    def give(self, path: str, fd: int) -> None:
        """Recycle a finished file, or remove it; its descriptor is closed either way. Raises FileNotFoundError if
        the file is not there any more."""
        try:
            self._given += 1
            if self._given % 64 == 1:
                self._space = MAX_FREE - len(disk.listdir(self._free))
            if self._space > 0 and disk.is_plain(disk.fstat(fd), MAX_RECYCLED_BYTES):
                self._space -= 1
                try:
                    disk.rename(path, f"{self._free}{self._room.worker}{self._given:x}")
                    return
                except FileNotFoundError:
                    raise
                except OSError:
                    self._space = 0  # a full disk: the folder cannot take a name
            disk.unlink(path)
        finally:
            disk.close(fd)

    def make_space(self) -> bool:
        """Remove every recycled file; whether there were any."""
        found = False
        while self._kept:
            self.drop(self._kept.pop())
            found = True
        self._listed = []
        self._space = 0
        for name in disk.list_if_any(self._free):
            try:
                found |= disk.unlink_if_any(self._free + name)
            except OSError as error:
                log.warning("cannot remove %s: %s", self._free + name, error)
        return found

    def close(self) -> None:
        """Give the kept files to `free/`."""
        while self._kept:
            kept = self._kept.pop()
            try:
                self.give(kept.path, kept.fd)
            except OSError as error:
                log.warning("cannot recycle %s: %s", kept.path, error)

    def abandon(self) -> None:
        """Close the descriptors, and nothing else: in a forked child they are the parent's."""
        while self._kept:
            disk.close(self._kept.pop().fd)


def rename_into(source: str, folder: str, name: str, durable: bool) -> None:
    """Rename a file into a folder that may not exist yet. Raises OSError; FileNotFoundError only if the source is gone.

    Others make the folder, too, and remove it when it is empty: so a rename that fails tells of the source only if
    that is not there while the folder is. Whoever took it for gone would leave it where nobody looks.
    """
    for _ in range(RENAME_TRIES):
        try:
            disk.rename(source, folder + name)
            return
        except FileNotFoundError:
            if disk.exists(folder) and not disk.exists(source):
                raise
        try:
            make_folder(folder, durable)
        except FileNotFoundError:
            continue  # removed again, before it was finished
    raise OSError(errno.EBUSY, "is removed as fast as it is made; try again", folder)


def make_folder(folder: str, durable: bool) -> None:
    """Make a folder and those above it, as far as they are missing, durably if the store is."""
    path = folder.rstrip("/")
    parent = path.rpartition("/")[0]
    try:
        disk.mkdir(path)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_folder(parent, durable)
        try:
            disk.mkdir(path)
        except FileExistsError:
            return
    if durable:
        disk.sync_folder(parent)


def sync_name(folder: str, fd: int) -> None:
    """Make a name durable that has just appeared in a folder. Raises OutcomeUnknown.

    A folder that is gone again was emptied, hence the file claimed, and removed: then the file itself and the folder
    above are synced, which commits the journal (or, on btrfs, the file's names) all the same.
    """
    try:
        try:
            disk.sync_folder(folder)
        except FileNotFoundError:
            disk.sync(fd)
            disk.sync_folder(folder.rstrip("/").rpartition("/")[0])
    except OSError as error:
        raise OutcomeUnknown(
            f"the event is visible, but whether it would survive a power cut is unknown: {error}; "
            "put it again only if being handled twice does no harm"
        ) from error


def make_ballast(path: str) -> None:
    """64 KiB that a worker may give up to join on a full disk."""
    try:
        fd = disk.create(path)
    except FileExistsError:
        return
    try:
        disk.write_all(fd, bytes(BALLAST))
        disk.sync(fd)
    except OSError as error:
        if not disk.is_full(error) and error.errno != errno.EIO:
            raise
        disk.unlink(path)
    finally:
        disk.close(fd)

"""Every call that touches the disk. The rest of the file storage calls these by name, so that tests can make each
of them fail, or die in it, in turn.

Descriptors are opened close-on-exec and never follow a symbolic link in the last step; folders are 0700 and files
0600 whatever the umask says.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat as stat_bits
import sys
from collections.abc import Callable

from filelock import lock_descriptor

from eventq.clock import sleep

if sys.platform != "win32":  # where FileStorage refuses to open, with the reason
    import fcntl

    _EXCLUSIVE = fcntl.LOCK_EX | fcntl.LOCK_NB
    pread: Callable[[int, int, int], bytes] = os.pread
    pwrite: Callable[[int, bytes, int], int] = os.pwrite
    truncate: Callable[[int, int], None] = os.ftruncate

FLAGS: int = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
NONBLOCK: int = getattr(os, "O_NONBLOCK", 0)
log: logging.Logger = logging.getLogger("eventq.storage")

LOCK_TRIES = 30
LOCK_PAUSE = 0.00005

rename: Callable[[str, str], None] = os.rename
link: Callable[[str, str], None] = os.link
unlink: Callable[[str], None] = os.unlink
rmdir: Callable[[str], None] = os.rmdir
listdir: Callable[[str], list[str]] = os.listdir
stat: Callable[[str], os.stat_result] = os.lstat
fstat: Callable[[int], os.stat_result] = os.fstat
read: Callable[[int, int], bytes] = os.read
write: Callable[[int, bytes], int] = os.write


def close(fd: int) -> None:
    """Close a descriptor. It is gone even if the system reports an error, which comes too late to change anything:
    what must be durable was synced before."""
    try:
        os.close(fd)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise
        log.warning("the system reported an error when a file was closed: %s", error)


def open_file(path: str) -> int:
    """Open an existing file to read and write."""
    return os.open(path, os.O_RDWR | FLAGS)


def open_read(path: str) -> int:
    """Open an existing file to read; never waits, whatever kind of file it is."""
    return os.open(path, os.O_RDONLY | NONBLOCK | FLAGS)


def create(path: str) -> int:
    """Make a new file; FileExistsError if there is one."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | FLAGS, 0o600)
    if os.fstat(fd).st_mode & 0o777 != 0o600:  # a strange umask
        os.fchmod(fd, 0o600)
    return fd


def open_or_create(path: str) -> int:
    """Open a file to lock it, making it if need be."""
    return os.open(path, os.O_RDWR | os.O_CREAT | FLAGS, 0o600)


def mkdir(path: str) -> None:
    """Make a folder, private to its owner."""
    os.mkdir(path, 0o700)
    os.chmod(path, 0o700)


def make_fifo(path: str) -> None:
    """Make a FIFO; one that exists is fine."""
    try:
        os.mkfifo(path, 0o600)
    except FileExistsError:
        if not stat_bits.S_ISFIFO(os.lstat(path).st_mode):
            raise


def open_fifo(path: str) -> int:
    """Open a FIFO to wait on. Read-write: read-only would be readable for ever once a writer has closed."""
    return os.open(path, os.O_RDWR | NONBLOCK | FLAGS)


def open_fifo_writer(path: str) -> int:
    """Open a FIFO to wake its reader; OSError (ENXIO) at once if nobody waits there."""
    return os.open(path, os.O_WRONLY | NONBLOCK | FLAGS)


def exists(path: str) -> bool:
    """Whether a name is there. Not by `stat`, which reads the times: since Linux 6.13 (multigrain timestamps) that
    makes the next write dirty the inode, and the `fdatasync` after it dearer."""
    return os.access(path, os.F_OK)


def sync(fd: int) -> None:
    """Make a file's data durable. Never repeat a failed one on the same file: the kernel may have dropped the data
    and would answer yes (Rebello et al., "Can Applications Recover from fsync Failures?", ATC 2020)."""
    if sys.platform == "darwin":
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # fsync alone does not flush the drive there
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
            os.fsync(fd)
    else:
        os.fdatasync(fd)


def sync_folder(path: str) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | FLAGS)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def try_lock(fd: int) -> bool:
    """Take the append lock of an event file, without waiting."""
    try:
        fcntl.flock(fd, _EXCLUSIVE)
    except BlockingIOError:
        return False
    return True


def unlock(fd: int) -> None:
    """Give up the append lock of an event file."""
    fcntl.flock(fd, fcntl.LOCK_UN)


def lock_soon(fd: int) -> bool:
    """Take an append lock, trying for about 2 ms: its holder has it for microseconds, unless it was stopped just
    there; then nobody waits for it."""
    for _ in range(LOCK_TRIES):
        if try_lock(fd):
            return True
        sleep(LOCK_PAUSE)
    return try_lock(fd)


def try_hold(fd: int) -> bool:
    """Take a lock that is held until the descriptor closes or the process dies."""
    return lock_descriptor(fd, blocking=False)


def is_plain(status: os.stat_result, limit: int) -> bool:
    """Whether a file is an ordinary one, with one name, of at most `limit` bytes."""
    return stat_bits.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_size <= limit


def write_all(fd: int, data: bytes, at: int = 0) -> None:
    """Write all of it; a short write (full disk, signal) goes on, and the next one raises the reason."""
    written = pwrite(fd, data, at)
    while written < len(data):
        more = pwrite(fd, data[written:], at + written)
        if more == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += more


def read_all(fd: int, limit: int) -> bytes:
    """The content of an open file, at most `limit` bytes."""
    return read_bytes(fd, min(fstat(fd).st_size, limit))


def read_bytes(fd: int, size: int) -> bytes:
    """The first `size` bytes of an open file, or as many as there are."""
    data = pread(fd, size, 0)
    while len(data) < size:
        more = pread(fd, size - len(data), len(data))
        if not more:
            break
        data += more
    return data


def read_file(path: str, limit: int) -> bytes:
    """The content of a regular file by its name. Raises OSError (EINVAL) for anything else."""
    fd = open_read(path)
    try:
        if not stat_bits.S_ISREG(fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        return read_all(fd, limit)
    finally:
        close(fd)


def list_if_any(path: str) -> list[str]:
    """The names in a folder; none if there is no such folder. Sorted."""
    try:
        return sorted(listdir(path))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        if error.errno == errno.ELOOP:
            return []
        raise


def is_wrong_kind(error: OSError) -> bool:
    """Whether an error of `read_file` says that there is something, and that it is no regular file."""
    return error.errno in (errno.EINVAL, errno.ELOOP, errno.ENXIO, errno.ENOTDIR, errno.EMLINK)


def unlink_if_any(path: str) -> bool:
    """Remove a file; False if it was gone."""
    try:
        unlink(path)
    except FileNotFoundError:
        return False
    return True


def is_full(error: OSError) -> bool:
    """Whether an error says that there is no space left (or no quota)."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def pipe() -> tuple[int, int]:
    """A pipe within this process, never blocking."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    return reader, writer


def set_blocking(fd: int) -> None:
    """Let reads of a FIFO wait."""
    os.set_blocking(fd, True)


def is_held(path: str) -> bool:
    """Whether somebody holds the lock of a file, by trying it."""
    try:
        fd = open_file(path)
    except OSError:
        return False
    try:
        return not try_hold(fd)
    finally:
        close(fd)


def remove_tree(path: str) -> None:
    """Remove a folder with everything in it."""
    shutil.rmtree(path)

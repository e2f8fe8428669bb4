"""What this machine and file system really do with what a file store rests on. `eventq doctor` prints it.

Nothing is assumed from names: each promise is tried in a temporary folder in the store. What cannot be tried (a
power cut, a reboot) is judged by the kind of file system.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import msgspec

from eventq import clock
from eventq.storage.file.layout import FORMAT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gfs2", "glusterfs", "gpfs", "lustre",
    "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs", "fuse.vmhgfs-fuse",
}  # fmt: skip
EPHEMERAL = {"ramfs", "tmpfs"}
LAYERED = {"aufs", "overlay", "overlayfs"}

FREE_BYTES = 100 << 20
FREE_FILES = 10_000
SLOW_SYNC = 0.020
DEATH_LIMIT = 0.5
CLOCK_SKEW = 2.0
YEAR_2024 = 1_704_067_200.0

HOLDER = """\
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(fd, fcntl.LOCK_EX)
sys.stdout.write("held\\n")
sys.stdout.flush()
sys.stdin.read()
"""
"""Holds a lock until it is killed; ends by itself when its parent goes."""


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at: `level` is `"ok"`, `"warning"` or `"error"`."""

    name: str
    level: str
    detail: str
    advice: str = ""


def is_store(path: str) -> bool:
    """Whether there is a file store at a path; looks at its FORMAT and makes nothing."""
    return os.path.isfile(os.path.join(path, "FORMAT"))


def examine(path: str) -> list[Check]:
    """Every check of a store, or of the place where it would be made.

    Writes only into a temporary folder of its own, removed at the end; takes well under a second on a local disk.
    """
    place = _nearest_folder(path)
    checks = [*_store(path), *_file_system(place), *_space(place), *_clock(place)]
    if not os.access(place, os.W_OK | os.X_OK):
        missing = Check("write", "error", f"{place} is not writable by this user", "change its owner or mode")
        return [*checks, missing]
    try:
        folder = tempfile.mkdtemp(prefix=".eventq-doctor-", dir=place)
    except OSError as error:
        return [
            *checks,
            Check("write", "error", f"cannot make a folder in {place}: {error}", "free space, or fix it"),
        ]
    try:
        for name, probe in PROBES.items():
            checks.append(_tried(name, probe, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return checks


def _tried(name: str, probe: Callable[[str], Check], folder: str) -> Check:
    own = os.path.join(folder, name)
    try:
        os.mkdir(own, 0o700)
        return probe(own)
    except (OSError, subprocess.SubprocessError) as error:
        return Check(name, "error", f"failed: {error}", "a file store does not work here; use another file system")


def _nearest_folder(path: str) -> str:
    place = os.path.abspath(path)
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    return place


# ---- what is looked at


def _store(path: str) -> Iterator[Check]:
    if not is_store(path):
        yield Check("store", "warning", f"there is no store at {path} yet", "'eventq put' makes one")
        return
    try:
        with open(os.path.join(path, "FORMAT"), encoding="utf-8", errors="replace") as file:
            text = file.read(1000)
    except OSError as error:
        yield Check("store", "error", f"cannot read FORMAT: {error}", "open it as the user who made it")
        return
    lines = text.split("\n")
    if lines[0] != FORMAT:
        yield Check(
            "store",
            "error",
            f"its format is {lines[0][:60]!r}, this eventq reads {FORMAT!r}",
            "upgrade eventq",
        )
    else:
        yield Check("store", "ok", " ".join(text.split()))
    status = os.stat(path)
    if status.st_uid != os.geteuid() and os.geteuid() != 0:
        yield Check("owner", "error", f"belongs to user {status.st_uid}, you are {os.geteuid()}", "work as its owner")
    mode = status.st_mode & 0o777
    if mode & 0o077:
        yield Check("mode", "warning", f"others may look in (mode {mode:04o})", f"chmod 700 {path}")
    else:
        yield Check("mode", "ok", f"private (mode {mode:04o})")


def _file_system(place: str) -> Iterator[Check]:
    found = file_system(place)
    if found is None:
        yield Check("file system", "warning", "its type is unknown here", "make sure that it is a local disk")
        return
    kind, mount = found
    detail = f"{kind} on {mount}"
    if kind in NETWORK or kind.startswith("nfs"):
        advice = "locks and deaths of other machines are not seen reliably; use a local disk, or give queues a lease"
        yield Check("file system", "warning", f"{detail}: a network file system", advice)
    elif kind in EPHEMERAL:
        yield Check("file system", "warning", f"{detail}: in memory, gone with a reboot", "use a disk to keep events")
    elif kind in LAYERED:
        advice = "mount a volume for the store"
        yield Check("file system", "warning", f"{detail}: a container's layer, gone with the container", advice)
    elif kind.startswith("fuse"):
        advice = "trust the probes below, not more; a power cut was not tried"
        yield Check("file system", "warning", f"{detail}: a program stands between you and the disk", advice)
    else:
        yield Check("file system", "ok", detail)
    if os.path.realpath(place).startswith(("/tmp/", "/private/tmp/")):  # noqa: S108 - looked at, not written to
        yield Check("place", "warning", "under /tmp, which many systems empty", "move the store, e.g. to /var/lib")


def file_system(place: str, mounts: str = "/proc/mounts") -> tuple[str, str] | None:
    """Type and mount point of the file system of a folder; None where the system does not tell (no /proc)."""
    real = os.path.realpath(place)
    best: tuple[str, str] | None = None
    try:
        with open(mounts, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except OSError:
        return None
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        mount = _unescaped(fields[1])
        inside = real == mount or real.startswith(mount.rstrip("/") + "/")
        if inside and (best is None or len(mount) >= len(best[1])):  # a later mount on the same point hides the earlier
            best = fields[2], mount
    return best


def _unescaped(field: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field


def _space(place: str) -> Iterator[Check]:
    found = os.statvfs(place)
    free, files = found.f_bavail * found.f_frsize, found.f_favail
    detail = f"{free / (1 << 30):.1f} GiB free"
    if found.f_files:
        detail += f", {files:,} more files"
    if free < FREE_BYTES or (found.f_files and files < FREE_FILES):
        yield Check("space", "warning", detail, "free some: a full disk refuses puts (it can still be drained)")
    else:
        yield Check("space", "ok", detail)


def _clock(place: str) -> Iterator[Check]:
    now = clock.SYSTEM.now()
    shown = clock.aware(now).strftime("%Y-%m-%d %H:%M:%SZ")
    if now < YEAR_2024:
        yield Check("clock", "error", f"it says {shown}", "set it: delays, expiry and retention follow it")
        return
    try:
        fd, name = tempfile.mkstemp(prefix=".eventq-doctor-", dir=place)
    except OSError:
        yield Check("clock", "ok", shown)  # the probes will say that nothing can be written here
        return
    try:
        skew = os.fstat(fd).st_mtime - clock.SYSTEM.now()
    finally:
        os.close(fd)
        os.unlink(name)
    if abs(skew) > CLOCK_SKEW:
        advice = "run a time service on both; delays follow this machine's clock"
        yield Check("clock", "warning", f"{shown}; the file system's clock is {skew:+.1f} s off", advice)
    else:
        yield Check("clock", "ok", shown)


# ---- what is tried


def _rename(folder: str) -> Check:
    drafts, ready = os.path.join(folder, "drafts"), os.path.join(folder, "ready")
    os.mkdir(drafts)
    os.mkdir(ready)
    for text in (b"first", b"second"):
        _write(os.path.join(drafts, "event"), text)
        os.rename(os.path.join(drafts, "event"), os.path.join(ready, "event"))
        with open(os.path.join(ready, "event"), "rb") as file:
            if file.read() != text:
                return Check("rename", "error", "a renamed file has the wrong content", "use another file system")
    if os.listdir(drafts):
        return Check("rename", "error", "a renamed file kept its old name", "use another file system")
    try:
        os.rename(os.path.join(drafts, "event"), os.path.join(ready, "event"))
    except FileNotFoundError:
        return Check("rename", "ok", "atomic replacement between folders; the loser of a race learns it")
    return Check("rename", "error", "a file could be renamed twice", "claims are not exclusive here")


def _link(folder: str) -> Check:
    source, target = os.path.join(folder, "marker"), os.path.join(folder, "key")
    _write(source, b"x")
    os.link(source, target)
    try:
        os.link(source, target)
    except FileExistsError:
        return Check("link", "ok", "the second taker of a key learns it")
    return Check("link", "error", "a name could be taken twice", "unique keys do not work here")


def _lock(folder: str) -> Check:
    path = os.path.join(folder, "lock")
    _write(path, b"")
    holder = subprocess.Popen(  # noqa: S603 - our own constant
        [sys.executable, "-I", "-S", "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != b"held\n":
            return Check("lock", "error", "another process could not lock a file", "workers cannot be told from dead")
        if _try_lock(fd):
            return Check("lock", "error", "two processes hold the same lock", "living workers would look dead here")
        holder.send_signal(signal.SIGKILL)
        freed = _time_until(lambda: _try_lock(fd), 5.0)
    finally:
        holder.kill()
        holder.wait()
        for stream in (holder.stdin, holder.stdout):
            if stream is not None:
                stream.close()
        os.close(fd)
    if freed is None or freed > DEATH_LIMIT:
        took = "not within 5 s" if freed is None else f"only after {freed:.1f} s"
        return Check("lock", "error", f"a killed process's lock is freed {took}", "give queues a lease")
    return Check("lock", "ok", f"exclusive; free {freed * 1000:.1f} ms after kill -9 of its holder")


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _time_until(fact: Callable[[], bool], limit: float) -> float | None:
    started = clock.perf_counter()
    while (waited := clock.perf_counter() - started) < limit:
        if fact():
            return waited
        clock.sleep(0.0005)
    return None


def _sync(folder: str) -> Check:
    times = []
    for number in range(7):
        name = os.path.join(folder, str(number))
        fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        started = clock.perf_counter()
        try:
            os.write(fd, b"x" * 512)
            os.fsync(fd)
        finally:
            os.close(fd)
        parent = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
        times.append(clock.perf_counter() - started)
    median = statistics.median(times)
    detail = f"a new file and its name are on the disk after {median * 1000:.2f} ms (median of {len(times)})"
    if median > SLOW_SYNC:
        return Check("fsync", "warning", detail, "durable puts are that slow; put many at once, or use sync=False")
    return Check("fsync", "ok", detail)


def _fifo(folder: str) -> Check:
    path = os.path.join(folder, "wake")
    os.mkfifo(path, 0o600)
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        return Check("fifo", "warning", "a FIFO without a reader can be opened to write", "wakes may be lost: slower")
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    reader = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        writer = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(writer, b"\n")
        finally:
            os.close(writer)
        woken = bool(select.select([reader], [], [], 1.0)[0]) and os.read(reader, 1) == b"\n"
    finally:
        os.close(reader)
    if not woken:
        return Check("fifo", "warning", "a FIFO does not wake its reader", "events are found at the next look: 0.25 s")
    return Check("fifo", "ok", "an idle worker is woken at once")


def _permissions(folder: str) -> Check:
    path = os.path.join(folder, "private")
    _write(path, b"x")
    os.chmod(path, 0o600)
    mode = os.stat(path).st_mode & 0o777
    if mode != 0o600:
        advice = "everybody on this machine may be able to read the events"
        return Check("permissions", "warning", f"a mode of 0600 becomes {mode:04o}", advice)
    return Check("permissions", "ok", "files can be private")


def _names(folder: str) -> Check:
    """A store's names hold nothing special but `~`, `+`, `=`, and dots in front."""
    for name in (".hidden", "a~-100~b+", "x=y", "n" * 200):
        _write(os.path.join(folder, name), b"")
    if sorted(os.listdir(folder)) != sorted([".hidden", "a~-100~b+", "x=y", "n" * 200]):
        return Check("names", "error", "file names come back changed", "use another file system")
    return Check("names", "ok", "kept as they are")


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


PROBES: dict[str, Callable[[str], Check]] = {
    "rename": _rename,
    "link": _link,
    "lock": _lock,
    "fsync": _sync,
    "fifo": _fifo,
    "permissions": _permissions,
    "names": _names,
}

"""What the processes of `test_processes` do, and the process that forks them, since starting Python takes longer
than most of what they do.

Each writes what it does into its own log, a line at a time and before the next step, so that the log outlives a kill.
Beside it appear `<log>.stopped` and `<log>.ended`, and to tell it something its test makes `<log>.go`.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import traceback
from collections.abc import Callable

import msgspec

from eventq.clock import SYSTEM, sleep
from eventq.errors import EventqError, StorageError
from eventq.model import Claimed, Completed, PutOptions
from eventq.storage.file import FileStorage, disk

OPTIONS = PutOptions()


class Log:
    """Lines that stay when the process is killed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, *words: object) -> None:
        os.write(self._fd, " ".join(str(word) for word in words).encode() + b"\n")

    def wait_for_go(self) -> None:
        while not os.path.exists(self.path + ".go"):
            sleep(0.002)


def payload_of(claimed: Claimed) -> str:
    payload: str = msgspec.json.decode(claimed.payload)
    return payload


def put(store: FileStorage, log: Log, payload: str, options: PutOptions = OPTIONS) -> str:
    log("try", payload)
    id = store.put("q", [msgspec.json.encode(payload)], options)[0]
    log("ok", payload, id)
    return id


def work(store: FileStorage, log: Log, limit: int = 1) -> int:
    """Claim, log, settle."""
    found = store.claim("q", limit)
    for claimed in found:
        log("got", payload_of(claimed))
    for claimed in found:
        store.settle(claimed, Completed())
        log("done", payload_of(claimed))
    return len(found)


# ---------------------------------------------------------------------------- roles


def producer(path: str, log: Log, name: str, count: str) -> None:
    """Put, singly and in batches, until killed or done."""
    with FileStorage(path) as store:
        for number in range(int(count)):
            if number % 50 == 49:
                payloads = [f"{name}-{number}-{part}" for part in range(10)]
                for payload in payloads:
                    log("try", payload)
                ids = store.put("q", [msgspec.json.encode(payload) for payload in payloads], OPTIONS)
                for payload, id in zip(payloads, ids, strict=True):
                    log("ok", payload, id)
            else:
                put(store, log, f"{name}-{number}")


def claimer(path: str, log: Log, limit: str) -> None:
    """Work until killed."""
    with FileStorage(path) as store:
        while True:
            if not work(store, log, int(limit)):
                store.recover()
                sleep(0.002)


def drainer(path: str, log: Log, limit: str) -> None:
    """Work until the queue has been empty for a while."""
    with FileStorage(path) as store:
        idle_since = SYSTEM.monotonic()
        while SYSTEM.monotonic() - idle_since < 1.0:
            if work(store, log, int(limit)):
                idle_since = SYSTEM.monotonic()
            else:
                store.recover()
                stats = store.stats("q")
                if stats.ready == stats.claimed == stats.delayed == 0:
                    return
                sleep(0.002)


def hold(path: str, log: Log) -> None:
    """Claim one event, wait until told to go on, complete it."""
    with FileStorage(path) as store:
        (claimed,) = store.claim("q")
        log("got", payload_of(claimed))
        log.wait_for_go()
        store.settle(claimed, Completed(b'"late"'))
        log("done", payload_of(claimed))


def exclusive(path: str, log: Log) -> None:
    """Work until the queue has been empty for a while; nobody else may be at work meanwhile."""
    busy = os.path.join(os.path.dirname(log.path), "busy")
    with FileStorage(path) as store:
        idle_since = SYSTEM.monotonic()
        while SYSTEM.monotonic() - idle_since < 1.0:
            for claimed in store.claim("q"):
                idle_since = SYSTEM.monotonic()
                log("got", payload_of(claimed))
                os.close(os.open(busy, os.O_CREAT | os.O_EXCL))
                os.unlink(busy)
                store.settle(claimed, Completed())
                log("done", payload_of(claimed))
            store.recover()


def stop_within_put(path: str, log: Log) -> None:
    """Put an event, then stop in the middle of appending the next one, with its lock held."""
    with FileStorage(path) as store:
        put(store, log, "first")
        real: Callable[[int, bytes, int], int] = disk.pwrite

        def pwrite(fd: int, data: bytes, offset: int) -> int:
            disk.pwrite = real
            log("stopping")
            os.kill(os.getpid(), signal.SIGSTOP)
            return real(fd, data, offset)

        disk.pwrite = pwrite
        put(store, log, "second")


def fork(path: str, log: Log) -> None:
    """Claim an event and fork; the child lives on, and puts when it is told to."""
    store = FileStorage(path)
    (claimed,) = store.claim("q")
    put(store, log, "before")
    worker = store.worker
    log("parent", os.getpid(), worker, payload_of(claimed))
    if os.fork() == 0:
        log("child", os.getpid())
        log.wait_for_go()
        put(store, log, "after")
        assert store.worker != worker
        log("joined", store.worker)
        store.close()
        os._exit(0)
    signal.pause()


def poisoned(path: str, log: Log) -> None:
    """A worker of eight handlers, one of which kills the process."""
    with FileStorage(path) as store:
        store.recover()
        found = store.claim("q", 8)
        for claimed in found:
            log("got", payload_of(claimed))
        for claimed in found:
            if payload_of(claimed) == "poison":
                os.kill(os.getpid(), signal.SIGKILL)
        for claimed in found:
            store.settle(claimed, Completed())
            log("done", payload_of(claimed))


def starved(path: str, log: Log) -> None:
    """Work with hardly any descriptors: every call succeeds, or says StorageError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    refused = succeeded = 0
    with FileStorage(path) as store:
        store.put("q", [b'"warm"'], OPTIONS)
        used = max(int(name) for name in os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))
        for spare in range(8):
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, hard))
            for number in range(4):
                try:
                    put(store, log, f"starved-{spare}-{number}", PutOptions(priority=number))
                    for claimed in store.claim("q", 2):
                        if payload_of(claimed) == "warm":
                            log("got", "warm")
                        store.settle(claimed, Completed(b"1"))
                        log("settled", payload_of(claimed))
                    succeeded += 1
                except StorageError:
                    refused += 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        log("refused", refused)
        log("succeeded", succeeded)


def reader(path: str, log: Log) -> None:
    """Look at a store that cannot be written to, and try to write."""
    with FileStorage(path) as store:
        log("ready", store.stats("q").ready)
        for doing in (lambda: store.put("q", [b"1"], OPTIONS), lambda: store.claim("q"), store.recover):
            try:
                doing()
            except EventqError as error:
                log("refused", type(error).__name__)


ROLES: dict[str, Callable[..., None]] = {
    role.__name__: role
    for role in (producer, claimer, drainer, hold, exclusive, stop_within_put, fork, poisoned, starved, reader)
}


def serve() -> None:
    """Fork an actor for each line of standard input (`<log> <role> <store> ...`), and say its process id."""
    logs: dict[int, str] = {}
    rest = b""
    while True:
        reap(logs)
        if not select.select([0], [], [], 0.005)[0]:
            continue
        if not (data := os.read(0, 65536)):
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            path, role, store, *args = line.decode().split()
            pid = os.fork()
            if pid == 0:
                act(role, store, Log(path), args)
            logs[pid] = path
            print(pid, flush=True)


def reap(logs: dict[int, str]) -> None:
    """Leave a file for each actor that was stopped or has ended."""
    while logs:
        pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        if pid == 0:
            return
        if os.WIFSTOPPED(status):
            Log(logs[pid] + ".stopped")
        else:
            path = logs.pop(pid)
            Log(path + ".ending")(os.waitstatus_to_exitcode(status))
            os.rename(path + ".ending", path + ".ended")


def act(role: str, store: str, log: Log, args: list[str]) -> None:
    """Play a role and end the process."""
    code = 1
    try:
        ROLES[role](store, log, *args)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve()

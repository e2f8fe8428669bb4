"""Redis: connections that are lost, replies that never come, servers that go and come back; who is then dead, who not.

These run in real time: what they are about is sockets and signals.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import redis
from redis_proxy import Proxy
from redis_server import DURABLE, private, redis_store, shared_url, until

from eventq.clock import SYSTEM, sleep
from eventq.errors import ClaimLost, ConfigError, OutcomeUnknown, StorageClosed, StorageError
from eventq.model import (
    Completed,
    PutOptions,
    State,
)
from eventq.storage.redis import RedisStorage
from eventq.storage.redis import looks as looking
from eventq.storage.redis.connection import Link
from eventq.testing.conformance.scene import fires

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from eventq.model import Claimed
    from eventq.storage.redis.url import Address

pytestmark = pytest.mark.server

PLAIN = PutOptions()


@pytest.fixture
def url() -> Iterator[str]:
    with redis_store() as url:
        yield url


@pytest.fixture
def open_storage() -> Iterator[Callable[[str], RedisStorage]]:
    opened: list[RedisStorage] = []

    def open_one(url: str) -> RedisStorage:
        opened.append(RedisStorage(url))
        return opened[-1]

    yield open_one
    for storage in opened:
        storage._server.patience = 0.0  # its server may have gone with the test
        storage.close()


def claimed_again(storage: RedisStorage, seconds: float = 20.0) -> Claimed:
    """What comes back to a queue, found as a worker does."""

    def look() -> list[Claimed]:
        storage.recover()
        return storage.claim("q")

    return until(look, seconds)[0]


def put(storage: RedisStorage, *payloads: bytes) -> list[str]:
    return storage.put("q", list(payloads) or [b"1"], PLAIN)


# ---------------------------------------------------------------- connections


def test_a_worker_that_loses_its_connections_keeps_its_claims(
    url: str, open_storage: Callable[[str], RedisStorage]
) -> None:
    other = open_storage(url)
    with Proxy(url) as proxy:
        worker = open_storage(proxy.url)
        put(worker)
        (claimed,) = worker.claim("q")
        for _ in range(8):
            proxy.cut_all()
            deadline = SYSTEM.monotonic() + 0.3
            while SYSTEM.monotonic() < deadline:
                other.recover()
                sleep(0.02)
        assert other.stats("q").claimed == 1
        worker.settle(claimed, Completed(b"1"))
        worker.close()


def test_a_worker_hears_again_after_its_connections_were_cut(
    url: str, open_storage: Callable[[str], RedisStorage]
) -> None:
    other = open_storage(url)
    with Proxy(url) as proxy:
        worker = open_storage(proxy.url)
        watch = worker.watch("q")
        try:
            proxy.cut_all()
            assert fires(watch, 5.0)  # something may have been missed
            while fires(watch):
                watch.clear()
            put(other)
            assert fires(watch, 5.0)
        finally:
            watch.close()
            worker.close()


def test_the_log_tells_of_a_lost_connection_once(
    tmp_path: Path, open_storage: Callable[[str], RedisStorage], caplog: pytest.LogCaptureFixture
) -> None:
    with private(tmp_path, *DURABLE) as server, caplog.at_level(logging.INFO, "eventq.storage"):
        storage = open_storage(server.url)
        put(storage)
        server.kill()
        back = threading.Timer(0.7, server.start)
        back.start()
        put(storage)
        back.join()
        levels = [record.levelname for record in caplog.records]
        assert levels == ["WARNING", "INFO"]
        assert storage.stats("q").ready == 2


def test_a_worker_may_join_while_the_server_is_away(
    tmp_path: Path, open_storage: Callable[[str], RedisStorage]
) -> None:
    with private(tmp_path, *DURABLE) as server:
        storage = open_storage(server.url)
        put(storage)
        server.kill()
        back = threading.Timer(0.5, server.start)
        back.start()
        assert len(storage.claim("q")) == 1
        back.join()


def test_after_the_patience_it_says_so(tmp_path: Path, open_storage: Callable[[str], RedisStorage]) -> None:
    with private(tmp_path) as server:
        storage = open_storage(f"{server.url}?patience=0.3")
        put(storage)
        server.kill()
        before = SYSTEM.monotonic()
        with pytest.raises(OutcomeUnknown, match="patience"):
            put(storage)
        with pytest.raises(StorageError, match="no Redis answers"):
            put(storage)
        assert SYSTEM.monotonic() - before < 3.0
        server.start()
        put(storage)
        assert storage.stats("q").ready == 1


# ---------------------------------------------------------------- what is refused


def test_a_closed_port_is_named_at_once() -> None:
    before = SYSTEM.monotonic()
    with pytest.raises(StorageError, match=r"redis://:\*\*\*@127\.0\.0\.1:1.*start it"):
        RedisStorage("redis://:secret@127.0.0.1:1")
    assert SYSTEM.monotonic() - before < 2.0


def test_wrong_credentials_are_named_at_once_without_the_password(tmp_path: Path) -> None:
    with private(tmp_path, "--requirepass", "secret") as server:
        for given in ("", ":wrong@", "eve:wrong@"):
            with pytest.raises(StorageError, match="user") as refused:
                RedisStorage(server.url.replace("redis://", f"redis://{given}"))
            assert "wrong" not in str(refused.value).replace("WRONGPASS", "")
        with RedisStorage(server.url.replace("redis://", "redis://:secret@")) as storage:
            put(storage)


def test_an_unknown_database_is_named_at_once() -> None:
    with pytest.raises(StorageError, match="no such database"):
        RedisStorage(f"{shared_url()}/9999")


def test_tls_to_a_plain_port_is_refused_at_once() -> None:
    with pytest.raises(StorageError, match="TLS"):
        RedisStorage(shared_url().replace("redis://", "rediss://"))


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("redis://h?namespce=x", "namespace"),
        ("redis://h?ssl_ca_certs=x", "rediss"),
        ("redis://h?namespace=a:b", "namespace"),
        ("redis://h?namespace=", "namespace"),
        ("redis://h?patience=long", "patience"),
        ("redis://h?patience=-1", "patience"),
        ("redis://h/shop", "number"),
        ("redis://h:port", "port"),
        ("redis://h?patience=1&patience=2", "twice"),
        ("rediss://h?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
        ("rediss://h?ssl_check_hostname=maybe", "ssl_check_hostname"),
    ],
)
def test_urls_that_cannot_be(url: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        RedisStorage(url)


def test_a_full_server_takes_no_puts_but_settles(tmp_path: Path, open_storage: Callable[[str], RedisStorage]) -> None:
    with private(tmp_path) as server:
        storage = open_storage(server.url)
        put(storage, b"1", b"2")
        one, two = storage.claim("q", 2)
        with redis.Redis(port=server.port) as admin:
            admin.config_set("maxmemory", 1)
        with pytest.raises(StorageError, match="maxmemory"):
            put(storage)
        storage.settle(one, Completed())
        storage.settle(two, Completed(b"1"))
        record = storage.get(two.id)
        assert record is not None
        assert (record.state, record.value) == (State.COMPLETED, b"1")
        assert storage.stats("q").ready == 0


def test_a_replica_takes_no_changes(tmp_path: Path, open_storage: Callable[[str], RedisStorage]) -> None:
    with private(tmp_path) as server:
        storage = open_storage(server.url)
        with redis.Redis(port=server.port) as admin:
            admin.execute_command("REPLICAOF", "127.0.0.1", "1")
        with pytest.raises(StorageError, match="primary"):
            put(storage)
        with redis.Redis(port=server.port) as admin:
            admin.execute_command("REPLICAOF", "NO", "ONE")
        put(storage)


# ---------------------------------------------------------------- servers that come back


def test_claims_survive_a_restart_of_the_server(tmp_path: Path, open_storage: Callable[[str], RedisStorage]) -> None:
    with private(tmp_path, *DURABLE) as server:
        worker, other = open_storage(server.url), open_storage(server.url)
        put(worker, *(b"%d" % n for n in range(20)))
        held = worker.claim("q", 5)
        other.claim("elsewhere")
        for _ in range(3):
            server.kill()
            back = threading.Timer(0.3, server.start)
            back.start()
            put(other, b"meanwhile")
            held += worker.claim("q", 2)
            back.join()
            deadline = SYSTEM.monotonic() + 1.5
            while SYSTEM.monotonic() < deadline:
                other.recover()
                worker.recover()
                sleep(0.05)
        stats = other.stats("q")
        assert (stats.ready, stats.claimed) == (12, 11)
        assert {worker.worker, other.worker} == {found.id for found in other.workers()}
        for claimed in held:
            worker.settle(claimed, Completed())
        found = [claimed.payload for claimed in other.claim("q", 100)]
        assert sorted(found) == sorted([b"%d" % n for n in range(11, 20)] + [b"meanwhile"] * 3)


def test_a_server_that_comes_back_empty_is_joined_anew(
    tmp_path: Path, open_storage: Callable[[str], RedisStorage]
) -> None:
    with private(tmp_path) as server:
        worker = open_storage(server.url)
        put(worker)
        (claimed,) = worker.claim("q")
        watch = worker.watch("q")
        try:
            server.kill()
            server.start()
            with pytest.raises(ClaimLost):
                worker.settle(claimed, Completed())
            until(lambda: [found.id for found in worker.workers()] == [worker.worker])
            put(worker, b"new")
            assert fires(watch, 5.0)
            assert [one.payload for one in worker.claim("q")] == [b"new"]
        finally:
            watch.close()


def test_flushed_data_are_like_an_empty_server(tmp_path: Path, open_storage: Callable[[str], RedisStorage]) -> None:
    with private(tmp_path) as server:
        worker = open_storage(server.url)
        put(worker)
        (claimed,) = worker.claim("q")
        with redis.Redis(port=server.port) as admin:
            admin.flushall()
            admin.script_flush()
        with pytest.raises(ClaimLost):
            worker.note(claimed, "progress", b"1")
        put(worker, b"new")
        assert [one.payload for one in worker.claim("q")] == [b"new"]
        assert [found.id for found in worker.workers()] == [worker.worker]


def test_what_the_server_forgot_to_be_settled_goes_back(url: str, open_storage: Callable[[str], RedisStorage]) -> None:
    """As after a server's crash with appendfsync everysec: the worker lives, and knows nothing of this claim."""
    worker, other = open_storage(url), open_storage(url)
    put(worker)
    (claimed,) = worker.claim("q")
    worker._claims.settled(claimed)
    until(lambda: worker.recover() >= 0 and other.stats("q").claimed == 0)
    (again,) = other.claim("q")
    assert (again.id, again.crashes) == (claimed.id, 0)


# ---------------------------------------------------------------- processes

HOLDER = """
import sys, time
from eventq.storage.redis import RedisStorage
storage = RedisStorage(sys.argv[1])
(claimed,) = storage.claim("q")
slot = storage.take_slot("lock")
print(claimed.id, flush=True)
{then}
"""
SLEEPS = "time.sleep(60)"
SLOW = "import re\nwhile True: re.match(r'(a+)+$', 'a' * 23 + 'b')  # holds the GIL for seconds"


@pytest.fixture
def start_holder() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that claims an event and holds it."""
    started: list[subprocess.Popen[str]] = []

    def start(url: str, then: str = SLEEPS) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER.format(then=then), url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline().strip()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_killed_workers_event_runs_elsewhere_within_two_seconds(
    url: str, open_storage: Callable[[str], RedisStorage], start_holder: Callable[..., subprocess.Popen[str]]
) -> None:
    heir = open_storage(url)
    (id,) = put(heir)
    process = start_holder(url)
    heir.recover()
    process.kill()
    before = SYSTEM.monotonic()
    again = claimed_again(heir, 5.0)
    assert (again.id, again.crashes) == (id, 1)
    assert SYSTEM.monotonic() - before < 2.0
    assert heir.take_slot("lock") is not None


@pytest.mark.parametrize("then", [SLEEPS, SLOW], ids=["stopped", "busy"])
def test_a_worker_that_does_not_answer_keeps_its_claim(
    url: str, open_storage: Callable[[str], RedisStorage], start_holder: Callable[..., subprocess.Popen[str]], then: str
) -> None:
    other = open_storage(url)
    put(other)
    process = start_holder(url, then)
    if then == SLEEPS:
        os.kill(process.pid, signal.SIGSTOP)
    deadline = SYSTEM.monotonic() + 5.0
    while SYSTEM.monotonic() < deadline:
        other.recover()
        assert other.claim("q") == []
        sleep(0.05)
    process.kill()
    assert claimed_again(other, 5.0).crashes == 1


def test_a_worker_that_is_silent_for_long_is_dead_though_connected(
    url: str, open_storage: Callable[[str], RedisStorage], start_holder: Callable[..., subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As if the network between them were cut; for seconds, not a quarter of a minute, so that the test ends."""
    monkeypatch.setattr(looking, "SILENCE", 4.0)
    other = open_storage(url)
    put(other)
    process = start_holder(url)
    os.kill(process.pid, signal.SIGSTOP)
    before = SYSTEM.monotonic()
    assert claimed_again(other, 15.0).crashes == 1
    assert SYSTEM.monotonic() - before >= 3.5
    os.kill(process.pid, signal.SIGCONT)


def test_a_forked_child_is_a_worker_of_its_own(url: str, open_storage: Callable[[str], RedisStorage]) -> None:
    storage = open_storage(url)
    put(storage, b"1", b"2")
    (mine,) = storage.claim("q")
    parent = storage.worker
    child = os.fork()
    if child == 0:
        try:
            (theirs,) = storage.claim("q")
            assert storage.worker != parent
            with pytest.raises(ClaimLost):
                storage.settle(mine, Completed())
            storage.settle(theirs, Completed(b'"child"'))
            storage.close()
        except BaseException:
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert storage.worker == parent
    storage.settle(mine, Completed(b'"parent"'))
    assert storage.stats("q").completed == 2


def test_a_parents_death_is_seen_though_its_child_lives(url: str, open_storage: Callable[[str], RedisStorage]) -> None:
    heir = open_storage(url)
    (id,) = put(heir)
    then = "import os\nif os.fork() == 0: print('forked', flush=True); time.sleep(20); os._exit(0)\ntime.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(then=then), url], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == id
    try:
        assert process.stdout.readline() == "forked\n"
        process.kill()
        process.wait()
        assert claimed_again(heir, 5.0).crashes == 1
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()


# ---------------------------------------------------------------- who is told


def test_a_put_tells_one_waiter_and_passes_over_the_dead(url: str, open_storage: Callable[[str], RedisStorage]) -> None:
    producer, dead, living = (open_storage(url) for _ in range(3))
    dead.watch("q")
    watch = living.watch("q")
    try:
        dead.abandon()
        put(producer)
        assert fires(watch, 5.0)
    finally:
        watch.close()


def test_every_thread_that_waits_is_told(url: str, open_storage: Callable[[str], RedisStorage]) -> None:
    """A put tells a worker but once; it listens on for the others that wait in it."""
    producer, worker = open_storage(url), open_storage(url)
    watches = [worker.watch("q") for _ in range(4)]
    woken = 0
    try:
        for _ in range(4):
            put(producer)
        while woken < 4:
            watch = until(lambda: next((watch for watch in watches if fires(watch)), None), 5.0)
            watch.clear()
            woken += 1
    finally:
        for watch in watches:
            watch.close()


def test_a_busy_worker_is_told_nothing(url: str, open_storage: Callable[[str], RedisStorage]) -> None:
    producer, worker = open_storage(url), open_storage(url)
    watch = worker.watch("q")
    try:
        put(producer, b"1", b"2")
        assert fires(watch, 5.0)
        while fires(watch):
            watch.clear()
        worker.claim("q", 1)  # as much as it asked for: it does not wait
        put(producer)
        assert not fires(watch, 0.1)
        worker.claim("q", 9)  # less: so it waits again
        put(producer)
        assert fires(watch, 5.0)
    finally:
        watch.close()


@pytest.mark.parametrize("what", ["settle", "join"])
def test_a_connection_that_was_opened_while_it_died_does_nothing_more(
    what: str, url: str, open_storage: Callable[[str], RedisStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread opens it just then; or a dead worker would go on by it."""
    storage, other = open_storage(url), open_storage(url)
    put(other)
    claimed = storage.claim("q") if what == "settle" else []
    opening, threads = threading.Event(), threading.active_count()
    errors: list[Exception] = []

    class Slow(Link):
        def __init__(self, address: Address, client: str, name: str = "") -> None:
            super().__init__(address, client, name)
            opening.set()
            until(lambda: storage._server.is_closed)

    def work() -> None:
        try:
            if claimed:
                storage.settle(claimed[0], Completed())
            else:
                storage.claim("q")
        except StorageError as error:
            errors.append(error)

    storage._server._forget_free()
    monkeypatch.setattr("eventq.storage.redis.server.Link", Slow)
    thread = threading.Thread(target=work)
    thread.start()
    assert opening.wait(20)
    storage.abandon()
    thread.join(20)
    assert [type(error) for error in errors] == [StorageClosed]
    for _ in range(2):
        work()
    assert [type(error) for error in errors] == [StorageClosed] * 3
    assert other.stats("q").claimed == len(claimed)
    assert threading.active_count() == threads - len(claimed)  # the listener of the one that had joined


def test_closing_ends_calls_that_wait_for_the_server(tmp_path: Path) -> None:
    with private(tmp_path) as server:
        storage = RedisStorage(f"{server.url}?patience=60")
        errors: list[BaseException] = []

        def call() -> None:
            try:
                put(storage)
            except BaseException as error:
                errors.append(error)

        server.kill()
        caller = threading.Thread(target=call)
        caller.start()
        until(lambda: storage._server._is_lost)
        storage.close()
        caller.join(10.0)
        assert [type(error) for error in errors] == [StorageClosed]

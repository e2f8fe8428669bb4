"""Workers that are processes of their own: killed, stopped, forked. The server sees it at once, and only what is so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from storage.postgresql_server import Namespace, server_url, store  # noqa: F401 - a fixture

from eventq.clock import SYSTEM, sleep
from eventq.model import Completed, PutOptions
from eventq.storage.sql.postgresql import PostgreSQLStorage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eventq.model import Claimed

pytestmark = pytest.mark.server
PATIENCE = 30.0

HAS_FORKED = """
    first = storage.worker
    if os.fork() == 0:
        assert storage.worker != first
        storage.put("q", [b'"of the child"'], PutOptions())
        print("child", os.getpid(), flush=True)
        sys.stdin.readline()  # ends with the test
        os._exit(0)
    time.sleep(60)
"""
CHILD_USES_IT = """
    first = storage.worker
    pid = os.fork()
    if pid == 0:
        claimed = storage.claim("q")
        assert [one.payload for one in claimed] == [b"2"], claimed
        storage.settle(claimed[0], Completed())
        assert storage.worker != first
        storage.put("q", [b"3"], PutOptions())
        storage.close()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert storage.worker == first
    storage.settle(held[0], Completed())
    assert [one.payload for one in storage.claim("q")] == [b"3"]
    assert first in {worker.id for worker in storage.workers()}
    print("fine", flush=True)
"""


@contextmanager
def process(url: str, code: str) -> Iterator[subprocess.Popen[str]]:
    """A worker process that has claimed one event of `q`, and goes on as the code says."""
    program = f"""
import os, sys, time
from eventq.model import Completed, PutOptions
from eventq.storage.sql.postgresql import PostgreSQLStorage

storage = PostgreSQLStorage({url!r})
held = storage.claim("q")
assert len(held) == 1
print("claimed", flush=True)
{textwrap.dedent(code)}
"""
    command = [sys.executable, "-W", "error", "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "claimed\n"
            yield running
        finally:
            running.kill()
            assert running.stdin is not None
            running.stdin.close()


def put(storage: PostgreSQLStorage, *payloads: int) -> list[str]:
    return storage.put("q", [b"%d" % payload for payload in payloads], PutOptions())


def claimed_within(seconds: float, storage: PostgreSQLStorage, payload: bytes) -> Claimed | None:
    """An event with this payload, as soon as this worker finds it."""
    deadline = SYSTEM.monotonic() + seconds
    while SYSTEM.monotonic() < deadline:
        storage.recover()
        for claimed in storage.claim("q"):
            if claimed.payload == payload:
                return claimed
        sleep(0.02)
    return None


def test_the_event_of_a_killed_process_runs_elsewhere_within_two_seconds(store: Namespace) -> None:  # noqa: F811 - it
    with PostgreSQLStorage(store.url) as heir:
        (id,) = put(heir, 1)
        with process(store.url, "time.sleep(60)") as victim:
            assert claimed_within(0.3, heir, b"1") is None
            victim.send_signal(signal.SIGKILL)
            claimed = claimed_within(2.0, heir, b"1")
        assert claimed is not None
        assert (claimed.id, claimed.crashes) == (id, 1)


def test_a_stopped_process_keeps_its_claim(store: Namespace) -> None:  # noqa: F811 - it
    code = """
    sys.stdin.readline()
    storage.settle(held[0], Completed(b"1"))
    print("settled", flush=True)
    """
    with PostgreSQLStorage(store.url) as other:
        (id,) = put(other, 1)
        with process(store.url, code) as stopped:
            stopped.send_signal(signal.SIGSTOP)
            assert claimed_within(2.0, other, b"1") is None
            stopped.send_signal(signal.SIGCONT)
            assert stopped.stdin is not None
            assert stopped.stdout is not None
            stopped.stdin.write("go on\n")
            stopped.stdin.flush()
            assert stopped.stdout.readline() == "settled\n"
        record = other.get(id)
        assert record is not None
        assert (record.value, record.crashes) == (b"1", 0)


def test_a_child_does_not_keep_its_dead_parent_alive(store: Namespace) -> None:  # noqa: F811 - it
    with PostgreSQLStorage(store.url) as heir:
        put(heir, 1)
        with process(store.url, HAS_FORKED) as parent:
            assert parent.stdout is not None
            word, pid = parent.stdout.readline().split()
            assert word == "child"
            parent.send_signal(signal.SIGKILL)
            claimed = claimed_within(2.0, heir, b"1")
            os.kill(int(pid), 0)  # it lives
        assert claimed is not None
        assert claimed.crashes == 1


def test_a_child_is_a_worker_of_its_own_and_leaves_its_parents_connections_alone(store: Namespace) -> None:  # noqa: F811 - it
    with PostgreSQLStorage(store.url) as other:
        put(other, 1)
        put(other, 2)
        with process(store.url, CHILD_USES_IT) as parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "fine\n"


def test_a_put_wakes_a_worker_of_another_process(store: Namespace) -> None:  # noqa: F811 - it
    code = """
    import select
    storage.settle(held[0], Completed())
    watch = storage.watch("q")
    assert storage.claim("q") == []
    print("waits", flush=True)
    assert select.select([watch], [], [], 20)[0]
    print(storage.claim("q")[0].payload.decode(), flush=True)
    """
    with PostgreSQLStorage(store.url) as producer:
        put(producer, 1)
        with process(store.url, code) as waiting:
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == "waits\n"
            put(producer, 2)
            assert waiting.stdout.readline() == "2\n"


def test_who_only_puts_and_reads_joins_nothing(store: Namespace) -> None:  # noqa: F811 - it
    with PostgreSQLStorage(store.url) as producer:
        (id,) = put(producer, 1)
        assert producer.get(id) is not None
        assert producer.workers() == []
        (claimed,) = producer.claim("q")
        assert [worker.id for worker in producer.workers()] == [producer.worker]
        producer.settle(claimed, Completed())


@contextmanager
def held_by_another(store: Namespace, id: str) -> Iterator[psycopg.Connection]:  # noqa: F811 - it
    """Another transaction has changed an event, as who begins to watch it does, and is open."""
    with psycopg.connect(server_url()) as other:
        other.execute(f'UPDATE "{store.name}".events SET awaited = 1 WHERE id = %s', (id,))
        yield other


def test_what_another_transaction_has_for_a_moment_is_claimed_all_the_same(
    store: Namespace,  # noqa: F811 - it
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A claim passes over its row, and must not take the queue for empty."""
    with PostgreSQLStorage(store.url) as storage:
        (id,) = storage.put("q", [b"1"], PutOptions())
        with held_by_another(store, id) as other:
            monkeypatch.setattr("eventq.storage.sql.postgresql.storage.sleep", lambda _: other.commit())
            assert [claimed.id for claimed in storage.claim("q")] == [id]


def test_nobody_waits_for_a_transaction_that_does_not_end(store: Namespace) -> None:  # noqa: F811 - it
    with PostgreSQLStorage(store.url) as storage:
        (id,) = storage.put("q", [b"1"], PutOptions())
        with held_by_another(store, id) as other:
            assert storage.claim("q") == []
            other.rollback()
        assert [claimed.id for claimed in storage.claim("q")] == [id]

"""PostgreSQL that goes away and comes back, connections that are cut, and workers that die: nothing is lost, nor done
twice."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

import psycopg
import pytest
from storage.postgresql_proxy import Proxy
from storage.postgresql_server import private_server  # noqa: F401 - a fixture

from eventq.clock import SYSTEM, sleep
from eventq.errors import StorageClosed, StorageError
from eventq.model import Cancel, Completed, Failure, PutOptions, Rejected, Retried, State
from eventq.storage.sql import migrate
from eventq.storage.sql.ahead import Ahead
from eventq.storage.sql.postgresql import PostgreSQLStorage
from eventq.storage.sql.postgresql.connections import MOST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from storage.postgresql_server import PrivateServer

pytestmark = pytest.mark.server
PATIENCE = 30.0
COMMIT = b"COMMIT\0"
_namespaces = itertools.count(1)


def until(fact: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Wait for a fact."""
    deadline = SYSTEM.monotonic() + seconds
    while not fact():
        assert SYSTEM.monotonic() < deadline, f"did not come true within {seconds} s"
        sleep(0.02)


@pytest.fixture
def server(private_server: PrivateServer) -> Iterator[PrivateServer]:  # noqa: F811 - it
    yield private_server
    private_server.start()


@pytest.fixture
def url(server: PrivateServer) -> str:
    url = f"{server.url()}?namespace=outage_{next(_namespaces)}"
    assert migrate(url) == (0, 1)
    return url


@pytest.fixture
def open_worker(url: str) -> Iterator[Callable[..., PostgreSQLStorage]]:
    opened: list[PostgreSQLStorage] = []

    def open(*options: str) -> PostgreSQLStorage:
        opened.append(PostgreSQLStorage("&".join([url, *options])))
        return opened[-1]

    yield open
    for storage in opened:
        storage.close()


def put(storage: PostgreSQLStorage, *payloads: int, **options: object) -> list[str]:
    return storage.put("q", [b"%d" % payload for payload in payloads], PutOptions(**options))  # type: ignore[arg-type]


def drain(storage: PostgreSQLStorage) -> list[int]:
    payloads = []
    while claimed := storage.claim("q", 10):
        for one in claimed:
            payloads.append(int(one.payload))
            storage.settle(one, Completed())
    return payloads


def look_for(seconds: float, storage: PostgreSQLStorage) -> None:
    """Let a worker look after the others as often as it may, for so long."""
    deadline = SYSTEM.monotonic() + seconds
    while SYSTEM.monotonic() < deadline:
        storage.recover()
        sleep(0.05)


def all_listed(*storages: PostgreSQLStorage) -> bool:
    """Whether each of these workers, which look after the store, is known to be alive."""
    for storage in storages:
        storage.recover()
    return {storage.worker for storage in storages} <= {worker.id for worker in storages[0].workers()}


# ---------------------------------------------------------------- the server goes


def test_live_workers_keep_their_claims_when_the_server_is_killed_and_started_again(
    server: PrivateServer, open_worker: Callable[..., PostgreSQLStorage]
) -> None:
    holder, other = open_worker(), open_worker()
    put(holder, *range(5))
    claimed = holder.claim("q", 3)
    assert other.claim("none") == []
    server.kill()
    server.start()
    until(lambda: all_listed(holder, other))
    look_for(1.5, other)
    assert sorted(int(one.payload) for one in other.claim("q", 10)) == [3, 4]
    for one in claimed:
        holder.settle(one, Completed(b"null"))
    assert holder.stats("q").completed == 3


def test_puts_during_an_outage_are_stored_once_it_is_over(
    server: PrivateServer, open_worker: Callable[..., PostgreSQLStorage]
) -> None:
    storage = open_worker()
    put(storage, 0)
    stored: list[int] = [0]
    going = threading.Event()

    def produce() -> None:
        while not going.is_set():
            put(storage, len(stored))
            stored.append(len(stored))

    producers = threading.Thread(target=produce)
    producers.start()
    until(lambda: len(stored) > 50)
    server.kill()
    before = len(stored)
    server.start()
    until(lambda: len(stored) > before + 50)
    going.set()
    producers.join(PATIENCE)
    assert drain(storage) == stored


def test_two_workers_drain_a_queue_through_an_outage_and_each_event_is_settled_once(
    server: PrivateServer, open_worker: Callable[..., PostgreSQLStorage]
) -> None:
    workers = [open_worker(), open_worker()]
    put(workers[0], *range(3000))
    found: list[list[int]] = [[], []]

    def work(number: int) -> None:
        while claimed := workers[number].claim("q", 2):
            for one in claimed:
                workers[number].settle(one, Completed())
                found[number].append(int(one.payload))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: len(found[0]) > 100 and len(found[1]) > 100)
    server.kill()
    server.start()
    for thread in threads:
        thread.join(PATIENCE * 2)
    assert sorted(found[0] + found[1]) == list(range(3000))


def test_a_server_that_stays_away_is_a_storage_error_that_names_it(
    server: PrivateServer, open_worker: Callable[..., PostgreSQLStorage], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "eventq")
    storage = open_worker("patience=0.3")
    put(storage, 1)
    server.stop()
    with pytest.raises(StorageError, match=rf"postgresql://postgres@127.0.0.1:{server.port}/.* is the server running"):
        put(storage, 2)
    server.start()
    put(storage, 3)
    assert drain(storage) == [1, 3]
    said = [record.levelname for record in caplog.records if record.name == "eventq.storage.postgresql"]
    assert said == ["WARNING", "INFO"], caplog.text


def test_closing_ends_the_wait_for_a_server(
    server: PrivateServer, open_worker: Callable[..., PostgreSQLStorage]
) -> None:
    storage = open_worker("patience=3600")
    put(storage, 1)
    errors: list[BaseException] = []

    def try_to_put() -> None:
        try:
            put(storage, 2)
        except StorageClosed as error:
            errors.append(error)

    server.stop()
    thread = threading.Thread(target=try_to_put)
    thread.start()
    until(lambda: storage._postgresql._contact.away)
    storage._database.close()
    thread.join(PATIENCE)
    assert len(errors) == 1


# ---------------------------------------------------------------- connections go


def terminate(server: PrivateServer, *, listening: bool) -> int:
    """End connections of all storages: those that listen, or the others; how many."""
    sign = "LIKE" if listening else "NOT LIKE"
    with psycopg.connect(server.url(), autocommit=True) as admin:
        rows = admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'eventq'"
            f" AND query {sign} '%pg_advisory_lock_shared%'".encode()
        ).fetchall()
    return len(rows)


def test_a_worker_whose_connections_are_ended_goes_on(
    server: PrivateServer, open_worker: Callable[..., PostgreSQLStorage]
) -> None:
    holder, other = open_worker(), open_worker()
    put(holder, *range(3))
    claimed = holder.claim("q", 2)
    other.claim("none")
    assert terminate(server, listening=False) >= 2
    put(holder, 3)
    assert terminate(server, listening=True) == 2
    until(lambda: all_listed(holder, other))
    look_for(1.2, other)
    assert sorted(int(one.payload) for one in other.claim("q", 10)) == [2, 3]
    for one in claimed:
        holder.settle(one, Completed())


def test_what_was_missed_while_a_listener_was_away_wakes(
    server: PrivateServer, open_worker: Callable[..., PostgreSQLStorage]
) -> None:
    waiting, other = open_worker(), open_worker()
    waiting.claim("q")
    watch = waiting.watch("q")
    assert terminate(server, listening=True) == 1
    put(other, 1)
    until(lambda: wakes(watch.fileno()))
    watch.close()


def wakes(fd: int) -> bool:
    import select

    return bool(select.select([fd], [], [], 0)[0])


def test_many_threads_share_a_handful_of_connections(
    server: PrivateServer, open_worker: Callable[..., PostgreSQLStorage]
) -> None:
    storage = open_worker()
    put(storage, *range(200))
    taken: list[int] = []
    threads = [threading.Thread(target=lambda: taken.extend(drain(storage))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(taken) == list(range(200))
    with psycopg.connect(server.url()) as admin:
        count = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'eventq'").fetchone()
    assert count is not None
    assert 2 <= count[0] <= MOST + 1


def test_after_the_close_nothing_is_left(server: PrivateServer, open_worker: Callable[..., PostgreSQLStorage]) -> None:
    threads = threading.active_count()
    storage = open_worker()
    put(storage, 1)
    storage.claim("q")
    assert threading.active_count() == threads + 1
    storage.close()
    assert threading.active_count() == threads
    with psycopg.connect(server.url(), autocommit=True) as admin:
        left = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'eventq'"
        until(lambda: not admin.execute(left).fetchall())


# ---------------------------------------------------------------- replies go


@pytest.fixture
def proxy(server: PrivateServer) -> Iterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def far(server: PrivateServer, proxy: Proxy, url: str) -> Iterator[PostgreSQLStorage]:
    """A worker behind the proxy; it says each statement in full, so that the proxy knows it."""
    with PostgreSQLStorage(url.replace(str(server.port), str(proxy.port)) + "&prepare=no") as storage:
        storage.put("q", [b"0"], PutOptions())
        drain(storage)
        yield storage


def test_a_put_whose_reply_is_lost_is_stored_once(far: PostgreSQLStorage, proxy: Proxy) -> None:
    proxy.cut_after(b"INSERT INTO")
    ids = put(far, 1)
    proxy.cut_after(b"INSERT INTO")
    ids += put(far, 2, 3)
    assert proxy.cuts == 2
    assert [record.id for record in far.claim("q", 10)] == ids


@pytest.mark.parametrize("options", [{}, {"debounce": 0.0}])
def test_a_put_with_a_key_whose_reply_is_lost_is_stored_once(
    far: PostgreSQLStorage, proxy: Proxy, options: dict[str, float]
) -> None:
    proxy.cut_after(COMMIT)
    id, new = far.put_key("q", b"1", PutOptions(key="k", **options))  # type: ignore[arg-type]
    assert (proxy.cuts, new) == (1, True)
    assert [claimed.id for claimed in far.claim("q", 10)] == [id]
    assert far.stats("q").cancelled == 0


@pytest.mark.parametrize(("options", "marker"), [({}, b"UPDATE"), ({"limits": {"l": 9}}, COMMIT)])
def test_a_claim_whose_reply_is_lost_is_the_same_claim(
    far: PostgreSQLStorage, proxy: Proxy, options: dict[str, object], marker: bytes
) -> None:
    ids = put(far, *range(6), **options)
    proxy.cut_after(marker)
    claimed = far.claim("q", 2)
    assert proxy.cuts == 1
    assert [one.id for one in claimed] == ids[:2]
    assert [one.id for one in far.claim("q", 10)] == ids[2:]
    for one in claimed:
        far.settle(one, Completed())


@pytest.mark.parametrize("marker", [b"LIMIT $", b"started IS NULL RETURNING"], ids=["fetch", "start"])
def test_a_fetch_or_a_start_whose_reply_is_lost_is_the_same_one(
    far: PostgreSQLStorage, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, marker: bytes
) -> None:
    monkeypatch.setattr(Ahead, "wanted", lambda self, now: 4)
    monkeypatch.setattr(Ahead, "is_stale", lambda self, now: False)
    ids = put(far, *range(6))
    proxy.cut_after(marker)
    (claimed,) = far.claim("q")
    assert (proxy.cuts, claimed.id) == (1, ids[0])
    assert (far.stats("q").ready, far.stats("q").claimed) == (5, 1)
    assert [far.claim("q")[0].id for _ in ids[1:]] == ids[1:]
    record = far.get(ids[0])
    assert record is not None
    assert len(record.attempts) == 1
    far.settle(claimed, Completed())


@pytest.mark.parametrize(
    ("outcome", "marker", "state"),
    [
        (Completed(), b"DELETE FROM", None),
        (Completed(b"1"), COMMIT, State.COMPLETED),
        (Retried(), COMMIT, State.READY),
        (Retried(9.0), COMMIT, State.DELAYED),
        (Rejected(Failure("E")), COMMIT, State.DEAD),
    ],
    ids=["completed", "value", "retried", "delayed", "rejected"],
)
def test_an_end_whose_reply_is_lost_is_counted_once(
    far: PostgreSQLStorage, proxy: Proxy, outcome: Completed, marker: bytes, state: State | None
) -> None:
    put(far, 1)
    (claimed,) = far.claim("q")
    proxy.cut_after(marker)
    far.settle(claimed, outcome)
    assert proxy.cuts == 1
    record = far.get(claimed.id)
    assert (record and record.state) == state
    if record is not None:
        assert len(record.attempts) == 1
        assert record.failures == (0 if state is State.COMPLETED else 1)


def test_other_changes_whose_reply_is_lost_are_made_once(far: PostgreSQLStorage, proxy: Proxy) -> None:
    (id,) = put(far, 1)
    proxy.cut_after(COMMIT)
    taken, new = far.take_name("name", b"1")
    assert (taken.worker, new) == (far.worker, True)
    proxy.cut_after(COMMIT)
    assert far.edit("q", [id], Cancel("no")) in (["cancelled"], ["too late"])
    proxy.cut_after(COMMIT)
    assert far.configure("q", {"max_attempts": 3}).max_attempts == 3
    assert proxy.cuts == 3
    record = far.get(id)
    assert record is not None
    assert record.state is State.CANCELLED


def test_a_statement_that_still_runs_is_waited_for(
    far: PostgreSQLStorage, proxy: Proxy, server: PrivateServer, url: str
) -> None:
    """Its connection is cut while the server works on it: who repeats it at once would not see what it does."""
    ids = put(far, 1, 2)
    namespace = url.rpartition("=")[2]
    with psycopg.connect(server.url()) as admin:
        admin.execute(f'LOCK TABLE "{namespace}".events IN EXCLUSIVE MODE'.encode())
        got: list[str] = []
        thread = threading.Thread(target=lambda: got.extend(one.id for one in far.claim("q")))
        thread.start()
        with psycopg.connect(server.url(), autocommit=True) as other:
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%UPDATE%'"
            until(lambda: other.execute(waiting).fetchall())
            proxy.close()
            proxy.__init__(server.port, proxy.port)  # type: ignore[misc]
            until(lambda: far._postgresql._contact.away)
        admin.rollback()
    thread.join(PATIENCE)
    assert got == ids[:1]
    assert far.stats("q").claimed == 1

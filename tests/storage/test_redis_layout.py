"""Redis: what an operator sees, what is left behind (nothing), and what a call costs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import redis
from redis_server import keys_of, private, redis_store, shared_url

from eventq.model import Completed, Delete, Filter, Move, PutOptions, Rejected, Released, Requeue, Retried, State
from eventq.storage.base import LOOK_INTERVAL
from eventq.storage.redis import RedisStorage
from eventq.storage.redis.scripts import INCLUDE, PROMOTE_STEP, PRUNE_STEP, script
from eventq.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.server

PLAIN = PutOptions()
OPTIONS: dict[str, Any] = {
    "priority": 3, "headers": {"a": 1}, "max_attempts": 4, "max_crashes": 3, "keep": 50.0, "limits": {"c": 1},
    "rates": {"r": (5, 60.0)},
}  # fmt: skip


@pytest.fixture
def url() -> Iterator[str]:
    with redis_store() as url:
        yield url


@pytest.fixture
def open_worker(url: str, clock: FakeClock) -> Iterator[Callable[[], RedisStorage]]:
    opened: list[RedisStorage] = []

    def open_one() -> RedisStorage:
        opened.append(RedisStorage(url, clock=clock))
        return opened[-1]

    yield open_one
    for storage in opened:
        storage.close()


def use_everything(storage: RedisStorage, clock: FakeClock) -> None:
    """Put, claim and end events of all kinds; in the end nothing is open, and nothing is kept."""
    storage.configure("q", {"keep": 100.0, "keep_dead": 100.0, "lease": 1000.0})
    storage.put("q", [b"1", b"2", b"3"], PutOptions(**OPTIONS))
    storage.put("q", [b"4"], PutOptions(due=clock.now() + 1, expires=clock.now() + 2))
    storage.put("q", [b"5"], PutOptions(limits={"d": 1}, expires=clock.now() + 1))
    for unique in ("open", "waiting", 5.0):
        storage.put_key("q", b"6", PutOptions(key=f"key {unique}", unique=unique))
    for _ in range(2):
        storage.put_key("q", b"7", PutOptions(key="debounced", debounce=1.0))
    storage.watch("q").close()
    outcomes = [Retried(0.5), Released(), Rejected(), Completed(b"1"), Completed()]
    for _ in range(40):
        for claimed in storage.claim("q", 3):
            watch = storage.watch(id=claimed.id)
            storage.note(claimed, "progress", b"1")
            storage.settle(claimed, outcomes.pop() if outcomes else Completed())
            watch.close()
        clock.advance(0.5)
        storage.recover()
    for state in (State.DEAD, State.EXPIRED):
        page = storage.scan("q", state, Filter())
        storage.edit("q", [record.id for record in page.records], Requeue())
    storage.put("q", [b"8"], PLAIN)
    moved = [record.id for record in storage.scan("q", State.READY, Filter()).records]
    storage.edit("q", moved, Move("other"))
    storage.edit("other", moved, Delete())
    slot = storage.take_slot("slot")
    assert slot is not None
    slot.release()
    storage.replace_name(storage.take_name("name", b"1")[0], b"2")
    storage.release_name("name")
    storage.replace_name(storage.take_name("name", b"3")[0], None)
    clock.advance(1000.0)
    for _ in range(3):
        clock.advance(LOOK_INTERVAL)
        storage.recover()


def test_nothing_is_left_behind(url: str, clock: FakeClock, open_worker: Callable[[], RedisStorage]) -> None:
    storage = open_worker()
    use_everything(storage, clock)
    assert [getattr(storage.stats("q"), str(state)) for state in State] == [0] * 7
    storage.configure("q", {"lease": None})
    storage.close()
    left = {key.split("}:")[1] for key in keys_of(url)}
    assert left <= {"queues", "queue:q", "queue:other", "store", "lapses"}, left
    other = open_worker()
    other.drop("q")
    other.drop("other")
    other.close()
    assert {key.split("}:")[1] for key in keys_of(url)} == {"store"}


def test_the_dead_leave_nothing_behind(url: str, clock: FakeClock, open_worker: Callable[[], RedisStorage]) -> None:
    victim, heir = open_worker(), open_worker()
    victim.put("q", [b"1"], PLAIN)
    victim.claim("q")
    victim.take_slot("slot")
    victim.watch("q")
    dead = victim.worker
    victim.abandon()
    for _ in range(5):
        clock.advance(LOOK_INTERVAL)
        heir.recover()
    heir.settle(heir.claim("q")[0], Completed())
    assert [key for key in keys_of(url) if dead in key or "waiting" in key or "slot" in key] == []
    name = url.partition("?namespace=")[2]
    with redis.Redis.from_url(shared_url(), decode_responses=True) as client:
        hints: list[str] = client.hkeys(f"{{eventq:{name}}}:queue:q")  # type: ignore[assignment]
    assert [hint for hint in hints if hint.startswith("serves")] == [f"serves {heir.worker}"]


def test_every_key_is_of_the_namespace_and_stays_together(tmp_path: Path, clock: FakeClock) -> None:
    """On a server of its own: no key is outside the braces, by which a cluster keeps all on one node."""
    with private(tmp_path) as server, redis.Redis(port=server.port) as admin:
        storage = RedisStorage(f"{server.url}?namespace=shop", clock=clock)
        storage.put("a:b", [b"1"], PutOptions(**OPTIONS))
        storage.put_key("a:b", b"1", PutOptions(key="k", unique=60.0))
        storage.claim("a:b")
        storage.take_slot("s")
        storage.take_name("n", b"1")
        keys = [key.decode() for key in admin.keys("*")]
        assert len(keys) > 15
        assert [key for key in keys if not key.startswith("{eventq:shop}:")] == []
        storage.close()


def test_namespaces_and_databases_are_apart(tmp_path: Path) -> None:
    with private(tmp_path) as server:
        urls = (f"{server.url}/0?namespace=a", f"{server.url}/0?namespace=b", f"{server.url}/1?namespace=a")
        storages = [RedisStorage(url) for url in urls]
        for number, storage in enumerate(storages):
            storage.put("q", [b"%d" % number], PLAIN)
        assert [[one.payload for one in storage.claim("q", 9)] for storage in storages] == [[b"0"], [b"1"], [b"2"]]
        for storage in storages:
            storage.close()


def test_queues_with_colons_do_not_mix(clock: FakeClock, open_worker: Callable[[], RedisStorage]) -> None:
    storage = open_worker()
    names = ("a", "a:b", "ready:a", "ids:ready:a", "", "claimed:a")
    for name in filter(None, names):
        storage.put(name, [name.encode()], PLAIN)
    for name in filter(None, names):
        assert [one.payload for one in storage.claim(name, 9)] == [name.encode()]


def test_an_operator_can_read_an_event(url: str, clock: FakeClock, open_worker: Callable[[], RedisStorage]) -> None:
    storage = open_worker()
    (id,) = storage.put("mail", [b'{"to":"eve"}'], PutOptions(priority=2, headers={"user": "eve"}))
    (claimed,) = storage.claim("mail")
    storage.settle(claimed, Retried(60.0))
    name = url.partition("?namespace=")[2]
    with redis.Redis.from_url(shared_url(), decode_responses=True) as client:
        event: dict[str, str] = client.hgetall(f"{{eventq:{name}}}:event:{id}")  # type: ignore[assignment]
    assert (event["queue"], event["state"], event["payload"]) == ("mail", "delayed", '{"to":"eve"}')
    assert (event["priority"], event["failures"], event["put"]) == ("2", "1", '{"headers":{"user":"eve"}}')
    assert float(event["due"]) == clock.now() + 60.0
    assert '"outcome":"failed"' in event["attempts"]


def test_the_plain_case_is_one_round_trip_each(tmp_path: Path, clock: FakeClock) -> None:
    with private(tmp_path) as server, redis.Redis(port=server.port) as admin:
        storage = RedisStorage(server.url, clock=clock)
        storage.put("q", [b"1"], PLAIN)  # the first call of each script sends its text
        storage.put_key("q", b"1", PutOptions(key="first"))
        for claimed in storage.claim("q", 2):
            storage.settle(claimed, Completed())
        storage.recover()
        clock.advance(LOOK_INTERVAL)

        def calls() -> int:
            stats = admin.info("commandstats")
            return sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))

        def cost(call: Callable[[], Any]) -> int:
            before = calls()
            call()
            return calls() - before

        assert cost(lambda: storage.put("q", [b"1"], PLAIN)) == 1
        assert cost(lambda: storage.put("q", [b"1"] * 5000, PLAIN)) == 1
        assert cost(lambda: storage.put_key("q", b"1", PutOptions(key="k"))) == 1
        held = []
        assert cost(lambda: held.extend(storage.claim("q", 2))) == 1
        assert cost(lambda: storage.settle(held[0], Completed())) == 1
        assert cost(lambda: storage.settle(held[1], Completed(b"1"))) == 1
        assert cost(storage.recover) == 1
        assert cost(lambda: [storage.recover() for _ in range(100)]) == 0
        storage.close()


def test_hints_go_with_what_they_hint_at(clock: FakeClock, tmp_path: Path) -> None:
    """Or claims would be looked into closely for ever."""
    with private(tmp_path) as server, redis.Redis(port=server.port) as admin:
        storage = RedisStorage(server.url, clock=clock)

        def hints() -> set[bytes]:
            found = admin.hkeys("{eventq:default}:queue:q")
            return {hint.partition(b" ")[0] for hint in found}  # type: ignore[union-attr]

        storage.put("q", [b"1"], PutOptions(due=clock.now() + 1))
        assert storage.claim("q") == []
        assert hints() == {b"made", b"delayed", b"serves"}
        clock.advance(1.0)
        (claimed,) = storage.claim("q")
        storage.settle(claimed, Completed())
        assert hints() == {b"made", b"serves"}
        storage.close()
        assert hints() == {b"made"}


def test_what_is_due_in_great_numbers_comes_in_steps_and_in_order(
    clock: FakeClock, open_worker: Callable[[], RedisStorage]
) -> None:
    storage = open_worker()
    storage.put("q", [b"%d" % n for n in range(2 * PROMOTE_STEP + 10)], PutOptions(due=clock.now() + 1))
    clock.advance(2.0)
    assert storage.stats("q").ready == 2 * PROMOTE_STEP + 10
    assert [one.payload for one in storage.claim("q", 5000)] == [b"%d" % n for n in range(5000)]


def test_retention_and_purges_go_in_steps_to_the_end(clock: FakeClock, open_worker: Callable[[], RedisStorage]) -> None:
    storage = open_worker()
    storage.configure("q", {"keep": 10.0})
    count = 2 * PRUNE_STEP + 5
    storage.put("q", [b"1"] * count, PLAIN)
    for claimed in storage.claim("q", count):
        storage.settle(claimed, Completed(b"1"))
    clock.advance(11.0)
    assert storage.prune("q") == count
    storage.put("q", [b"1"] * count, PLAIN)
    assert storage.purge("q", State.READY) == count
    assert storage.stats("q").ready == 0


def test_every_script_says_what_it_takes_and_answers() -> None:
    names = {found for text in _scripts().values() for line in INCLUDE.findall(text) for found in line.split()}
    for name, text in _scripts().items():
        assert text.startswith("-- "), name
        if name not in names:
            assert re.search(r"ARGV|names of all queues|The workers", text.partition("\n\n")[0]), name
            assert len(script(name).digest) == 40


def _scripts() -> dict[str, str]:
    from importlib.resources import files

    folder = files("eventq.storage.redis").joinpath("lua")
    return {file.name.removesuffix(".lua"): file.read_text("utf-8") for file in folder.iterdir()}

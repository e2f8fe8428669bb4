"""`eventq copy`: nothing is lost, nothing runs twice, and what went wrong is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import Run, ended

from eventq.cli import copying
from eventq.cli.compared import GROUPS, copies
from eventq.cli.copying import CopyFailed, Report, copy_store
from eventq.clock import SYSTEM, sleep
from eventq.errors import StorageError
from eventq.inbox import control_of, inbox_of
from eventq.model import (
    Cancel,
    Completed,
    Copy,
    Dropped,
    Failure,
    Filter,
    PutOptions,
    Rejected,
    Retried,
    State,
)
from eventq.storage import Storage, open_storage
from eventq.storage.memory import MemoryStorage

ERROR = Failure("ValueError", "no", "Traceback: ...")
KINDS = ["memory", "file", "sqlite"]


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker of another process has to see the pauses of these tests."""
    monkeypatch.setattr(copying, "SEEN", 0.01)


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    """Opens a store of a kind."""
    stores: list[Storage] = []
    named: set[str] = set()

    def open(kind: str, name: str) -> Storage:
        named.add(f"{tmp_path}/{name}")
        urls = {"memory": f"memory://{tmp_path}/{name}", "file": str(tmp_path / name)}
        stores.append(open_storage(urls.get(kind, f"sqlite:///{tmp_path}/{name}.db")))
        return stores[-1]

    yield open
    for store in stores:
        store.close()
    for name in named:
        MemoryStorage.forget(name)


def put(store: Storage, *payloads: object, queue: str = "q", **options: Any) -> list[str]:
    return store.put(queue, [msgspec.json.encode(payload) for payload in payloads], PutOptions(**options))


def fill(store: Storage) -> None:
    """One of everything that a store can have, but claims."""
    now = SYSTEM.now()
    store.configure("q", {"keep": 9000.0, "retry_delay": 7.0})
    store.configure("held", {"paused": True, "concurrency": 3})
    for outcome in (
        Completed(b'"value"'),
        Rejected(ERROR),
        Dropped(State.CANCELLED, "not needed"),
        Dropped(State.EXPIRED, "too old"),
        Retried(900.0, ERROR),
        Retried(0.0, ERROR),
    ):
        put(store, repr(outcome), headers={"n": [1, 2.5]}, priority=9, max_attempts=7, max_crashes=3)
        (claimed,) = store.claim("q")
        store.note(claimed, "progress", b'{"done": 1}')
        store.note(claimed, "output", b'"text"')
        store.settle(claimed, outcome)
    put(store, "own keep", priority=99, keep=80_000.0)
    store.settle(store.claim("q")[0], Completed(b"1"))
    put(store, *range(30))
    put(store, "high", priority=5)
    put(store, "limited", limits={"a": 2}, rates={"b": (3, 60.0)})
    put(store, "later", due=now + 5000, expires=now + 9000)
    put(store, "fleeting", expires=now + 5000)
    store.put("q", [bytes(range(256)), b""], PutOptions(codec="msgpack"))
    store.put_key("q", b'"k"', PutOptions(key="open"))
    store.put_key("q", b'"w"', PutOptions(key="waiting", unique="waiting"))
    store.put_key("q", b'"t"', PutOptions(key="throttled", unique=5000.0))
    (gone,) = put(store, "cancelled", queue="Häns & Co")
    store.edit("Häns & Co", [gone], Cancel("no"))
    put(store, "here", queue="held")
    put(store, "a call", queue=inbox_of("0123456789abcdef"))
    put(store, "ping", queue=control_of("0123456789abcdef"))
    store.take_name("schedule:daily", b'{"cron": "0 0 * * *"}')
    store.take_name("leader", b"null")


def everything(store: Storage, queues: tuple[str, ...] = ("Häns & Co", "held", "q")) -> list[Copy]:
    return [copy for queue in queues for group in GROUPS for copy in copies(store, queue, group)]


def counts_of(store: Storage, queue: str = "q") -> dict[str, int]:
    stats = store.stats(queue)
    return {state.value: getattr(stats, state) for state in State}


def drain(store: Storage, queue: str = "q") -> list[Any]:
    found = []
    while claimed := store.claim(queue):
        raw = claimed[0].codec != "json"
        found.append(claimed[0].payload if raw else msgspec.json.decode(claimed[0].payload))
        store.settle(claimed[0], Completed())
    return found


# ---------------------------------------------------------------- all of it


@pytest.mark.parametrize("target_kind", KINDS)
@pytest.mark.parametrize("source_kind", KINDS)
def test_everything_is_moved(opened: Callable[..., Storage], source_kind: str, target_kind: str) -> None:
    source, target = opened(source_kind, "source"), opened(target_kind, "target")
    fill(source)
    names = source.names()
    before = everything(source)
    report = copy_store(source, target)
    assert target.queues() == ["Häns & Co", "held", "q"]
    assert [copy.record.id for copy in everything(target)] == [copy.record.id for copy in before]
    assert report.queues["q"] == {"waiting": 41, "completed": 2, "dead": 1, "expired": 1, "cancelled": 1}
    assert report.copied == len(before) == 48
    assert counts_of(target)["delayed"] == 2
    assert len(report.checksum) == 64
    assert report.to_resume == ("Häns & Co", "q")
    copied = {name.name: name for name in target.names()}
    assert [copied.get(name.name) for name in names] == names
    for queue in target.queues():
        settings = msgspec.structs.replace(source.settings(queue), paused=queue == "held")
        assert target.settings(queue) == settings
        assert source.settings(queue).paused
    for key in ("open", "waiting", "throttled"):
        assert target.put_key("q", b"2", PutOptions(key=key))[1] is False
    assert source.claim("q") == []
    assert len(drain(target)) == 39, "all that is not delayed"
    assert target.claim("held") == []


def test_the_order_is_kept(opened: Callable[..., Storage]) -> None:
    source, target = opened("memory", "source"), opened("file", "target")
    for number in range(50):
        put(source, number, priority=number % 3)
    copy_store(source, target)
    assert drain(target) == sorted(range(50), key=lambda number: -(number % 3))


def test_an_empty_store_is_copied(opened: Callable[..., Storage]) -> None:
    source, target = opened("file", "source"), opened("memory", "target")
    report = copy_store(source, target)
    assert (report.queues, report.copied, report.to_resume) == ({}, 0, ())


def test_a_copy_of_a_finished_copy_does_nothing(opened: Callable[..., Storage]) -> None:
    """What has run at the target since must not come back."""
    source, target = opened("file", "source"), opened("memory", "target")
    put(source, 1, 2)
    copy_store(source, target)
    assert drain(target) == [1, 2]
    report = copy_store(source, target)
    assert report.done_before == pytest.approx(SYSTEM.now(), abs=60)
    assert (report.copied, report.since, drain(target)) == (0, 0, [])
    put(source, "late")
    assert copy_store(source, target).since == 1
    assert not target.settings("q").paused
    assert source.settings("q").paused


def test_a_copy_can_be_copied_on(opened: Callable[..., Storage]) -> None:
    first, second, third = opened("memory", "first"), opened("file", "second"), opened("memory", "third")
    fill(first)
    sums = [copy_store(first, second).checksum, copy_store(second, third).checksum]
    assert sums[0] == sums[1]
    assert [name.name for name in third.names() if not name.name.startswith("eventq.copy.")] == [
        "leader",
        "schedule:daily",
    ]


def test_large_payloads_go_in_small_batches(opened: Callable[..., Storage], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = opened("file", "source"), opened("memory", "target")
    for _ in range(3):
        put(source, *("x" * 200_000 for _ in range(100)))
    sizes: list[int] = []
    restore = target.restore
    monkeypatch.setattr(
        target, "restore", lambda copies, names=(): (sizes.append(len(copies)), restore(copies, names))[1]
    )
    assert copy_store(source, target).copied == 300
    assert max(sizes) == 100


# ---------------------------------------------------------------- while others work


def test_producers_may_go_on_and_workers_finish(opened: Callable[..., Storage], tmp_path: Path) -> None:
    """What was put before the end is moved; what a worker had is finished there; nothing is in both."""
    source, target = opened("file", "source"), opened("memory", "target")
    others = opened("file", "source")
    stop, claimed_one = threading.Event(), threading.Event()
    stored: list[str] = []
    finished: list[str] = []

    def produce() -> None:
        while not stop.is_set():
            stored.extend(put(others, len(stored)))
            sleep(0.002)

    def work() -> None:
        (claimed,) = others.claim("q")
        claimed_one.set()
        while not source.settings("q").paused:
            sleep(0.01)
        others.settle(claimed, Completed())
        finished.append(claimed.id)

    put(source, "first")
    threads = [threading.Thread(target=produce), threading.Thread(target=work)]
    threads[1].start()
    assert claimed_one.wait(20)
    threads[0].start()
    try:
        report = copy_store(source, target)
    finally:
        stop.set()
        for thread in threads:
            thread.join(20)
    assert len(finished) == 1
    assert target.get(finished[0]) is None
    waiting = {copy.record.id for copy in copies(source, "q", "waiting")}
    moved = {copy.record.id for copy in copies(target, "q", "waiting")}
    assert moved <= waiting == set(stored)
    assert len(moved) >= report.queues["q"]["waiting"]


def test_what_changes_between_the_passes_is_changed_at_the_target(opened: Callable[..., Storage]) -> None:
    source, target = opened("file", "source"), opened("memory", "target")
    first, second, _ = put(source, 1, 2, 3)
    (dead,) = put(source, "dead", priority=1)
    source.settle(source.claim("q")[0], Rejected(ERROR))
    seen: list[str] = []

    def change(_count: int, doing: str) -> None:
        seen.append(doing)
        if doing == "pass 1":
            source.edit("q", [first], Cancel("meanwhile"))
            put(source, "new", queue="another")

    report = copy_store(source, target, told=change)
    assert report.passes == 3
    assert target.get(first).state is State.CANCELLED  # type: ignore[union-attr]
    assert (target.get(second).state, target.get(dead).state) == (State.READY, State.DEAD)  # type: ignore[union-attr]
    assert drain(target, "another") == ["new"]
    assert source.settings("another").paused


def test_it_waits_no_longer_than_it_is_told(opened: Callable[..., Storage]) -> None:
    source, target = opened("file", "source"), opened("memory", "target")
    (id,) = put(source, 1)
    source.configure("other", {"paused": True})
    (claimed,) = source.claim("q")
    with pytest.raises(CopyFailed, match=f"still run after 0.2 s, {id}"):
        copy_store(source, target, wait=0.2)
    assert (source.settings("q").paused, source.settings("other").paused) == (False, True)
    assert not source.names()[1:], "only the store's own mark is left"
    report = copy_store(source, target, wait=0.2, claimed=True)
    assert report.queues["q"]["waiting"] == 1
    assert target.get(id).state is State.READY  # type: ignore[union-attr]
    source.settle(claimed, Completed())
    assert drain(target) == [1]


def test_two_do_not_copy_at_once(opened: Callable[..., Storage]) -> None:
    source, target = opened("file", "source"), opened("memory", "target")
    put(source, 1)
    errors: list[CopyFailed] = []

    def again(_count: int, _doing: str) -> None:
        with pytest.raises(CopyFailed, match="another process") as caught:
            copy_store(source, target)
        errors.append(caught.value)

    copy_store(source, target, told=again)
    assert errors


# ---------------------------------------------------------------- failures


def test_a_target_with_events_is_refused(opened: Callable[..., Storage]) -> None:
    source, target = opened("file", "source"), opened("memory", "target")
    put(source, 1)
    put(target, 2, queue="free")
    put(target, 3)
    for restart in (False, False, True):
        with pytest.raises(CopyFailed, match="has events in queue 'q' already"):
            copy_store(source, target, restart=restart)
        assert not source.settings("q").paused
    assert (drain(target, "free"), drain(target), drain(source)) == ([2], [3], [1])


def test_the_same_store_by_two_names_is_refused(opened: Callable[..., Storage], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "source")
    source, same = opened("file", "source"), opened("file", "link")
    put(source, 1)
    with pytest.raises(CopyFailed, match="the same store"):
        copy_store(source, same)
    assert drain(source) == [1]


def test_a_name_with_another_holder_fails(opened: Callable[..., Storage]) -> None:
    source, target = opened("file", "source"), opened("memory", "target")
    source.take_name("leader", b"1")
    target.take_name("leader", b"2")
    with pytest.raises(CopyFailed, match="'leader' has another holder"):
        copy_store(source, target)


def test_a_failure_leaves_the_source_as_it_was(opened: Callable[..., Storage], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = opened("file", "source"), opened("memory", "target")
    until = SYSTEM.now() + 5000
    source.configure("timed", {"paused": True, "paused_until": until})
    source.configure("held", {"paused": True})
    put(source, 1, 2)
    restore = target.restore

    def fails(*_: object) -> int:
        raise StorageError("the disk is full")

    monkeypatch.setattr(target, "restore", fails)
    with pytest.raises(StorageError, match="the disk is full"):
        copy_store(source, target)
    assert [source.settings(queue).paused for queue in ("held", "q", "timed")] == [True, False, True]
    assert source.settings("timed").paused_until == until
    assert target.claim("q") == []
    monkeypatch.setattr(target, "restore", restore)
    report = copy_store(source, target)
    assert report.to_resume == ("q",)
    assert target.settings("timed").paused_until == until
    assert drain(target) == [1, 2]


def test_what_ended_after_a_failed_try_does_not_run_again(
    opened: Callable[..., Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = opened("file", "source"), opened("memory", "target")
    put(source, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(source, "names", lambda prefix="": fail_once(prefix, source))
        with pytest.raises(StorageError, match="too slow"):
            copy_store(source, target)
    assert drain(source) == [1, 2]
    put(source, 3)
    with pytest.raises(CopyFailed, match="--restart"):
        copy_store(source, target)
    assert copy_store(source, target, restart=True).copied == 1
    assert drain(target) == [3]


def fail_once(prefix: str, source: Storage) -> Any:
    """The names of a store; all of them are asked for when the events are copied, and cannot be read."""
    if not prefix:
        raise StorageError("too slow")
    return type(source).names(source, prefix)


class Tampered:
    """A target in which somebody changes an event."""

    def __init__(self, storage: Storage, change: Callable[[Copy], Copy]) -> None:
        self._storage = storage
        self._change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def restore(self, copies: list[Copy], names: Any = ()) -> int:
        return self._storage.restore([self._change(copy) for copy in copies], names)


@pytest.mark.parametrize(
    "change",
    [{"payload": b"777"}, {"priority": 3}, {"failures": 5}, {"expires": 5e9}, {"keep": 1.0}, {"headers": {"a": 1}}],
    ids=str,
)
def test_a_tampered_target_is_caught(opened: Callable[..., Storage], change: dict[str, Any]) -> None:
    source, target = opened("memory", "source"), opened("memory", "target")
    ids = put(source, *range(20))

    def tamper(copy: Copy) -> Copy:
        if copy.record.id != ids[7]:
            return copy
        return Copy(msgspec.structs.replace(copy.record, **change), copy.notes)

    with pytest.raises(CopyFailed, match=f"verification failed: .* 1 events still differ, {ids[7]}"):
        copy_store(source, Tampered(target, tamper))  # type: ignore[arg-type]
    assert not source.settings("q").paused
    assert target.claim("q") == []


def test_lost_notes_are_caught(opened: Callable[..., Storage]) -> None:
    source, target = opened("memory", "source"), opened("memory", "target")
    put(source, 1)
    (claimed,) = source.claim("q")
    source.note(claimed, "output", b'"text"')
    source.settle(claimed, Completed(b"1"))
    with pytest.raises(CopyFailed, match="verification failed"):
        copy_store(source, Tampered(target, lambda copy: Copy(copy.record)))  # type: ignore[arg-type]


def test_an_event_put_into_the_target_is_not_removed(opened: Callable[..., Storage]) -> None:
    source, target = opened("memory", "source"), opened("memory", "target")
    put(source, 1)
    mine: list[str] = []

    def intrude(_count: int, doing: str) -> None:
        if doing == "pass 1":
            mine.extend(put(target, "mine"))

    with pytest.raises(CopyFailed, match="1 events that the source lacks"):
        copy_store(source, target, told=intrude)
    assert target.get(mine[0]) is not None


# ---------------------------------------------------------------- killed

KILLED = """
import os, signal, sys
from eventq.cli import copying
from eventq.storage import open_storage
source, target = open_storage(sys.argv[1]), open_storage(sys.argv[2])
at = sys.argv[3]
def told(count, doing):
    if at == doing:
        os.kill(os.getpid(), signal.SIGKILL)
if at in ("restore", "names", "finish"):
    name = {"restore": "restore", "names": "take_name", "finish": "configure"}[at]
    real, calls = getattr(target, name), []
    def kill(*args):
        calls.append(args)
        done = args[0].startswith("eventq.copy.done") if at == "names" else len(calls) == 3
        if done:
            if at == "names":
                real(*args)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)
    setattr(target, name, kill)
copying.SEEN = 0
from eventq.cli import compared
compared.PAGE_BYTES = 5000
copying.copy_store(source, target, told=told)
"""


@pytest.mark.parametrize("at", ["restore", "pass 1", "names", "finish"])
def test_a_copy_that_was_killed_is_repeated(opened: Callable[..., Storage], tmp_path: Path, at: str) -> None:
    source = opened("file", "source")
    source.configure("held", {"paused": True})
    for number in range(5):
        put(source, *(f"{number} {part} {'x' * 100}" for part in range(100)))
    command = [sys.executable, "-c", KILLED, str(tmp_path / "source"), str(tmp_path / "target"), at]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert source.settings("q").paused
    target = opened("file", "target")
    source.recover()
    report: Report = copy_store(source, target)
    assert not target.settings("q").paused
    assert target.settings("held").paused
    assert source.settings("q").paused
    assert report.done_before is not None if at in ("names", "finish") else report.to_resume == ("q",)
    assert len(drain(target)) == 500
    assert copy_store(source, target).copied == 0
    assert drain(target) == []


# ---------------------------------------------------------------- the command


def test_the_command_tells_what_it_did(run: Run, eventq: Run, store: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other place")
    run("put", "q", "--lines", stdin=b"1\n2\n3\n")
    run("put", "held", "1")
    run("pause", "held")
    done = eventq("copy", store, other)
    assert (done.code, done.err) == (0, "")
    assert done.lines[0].split() == ["QUEUE", "WAITING", "COMPLETED", "DEAD", "EXPIRED", "CANCELLED"]
    assert [line.split() for line in done.lines[1:3]] == [
        ["held", "1", "0", "0", "0", "0"],
        ["q", "3", "0", "0", "0", "0"],
    ]
    assert done.lines[3] == "copied 4 events and 0 names, and found both stores alike"
    assert f"  eventq --store {store} resume q" == done.lines[-1]
    assert eventq("--store", other, "status", "--json").json["queues"][1]["ready"] == 3
    again = eventq("copy", store, other)
    assert (again.code, len(again.lines)) == (0, 1)
    assert "nothing was done" in again.out
    run("put", "q", "4")
    late = eventq("copy", store, other)
    assert late.code == 1
    assert "1 events or more" in late.out
    since = late.lines[-1].split(" --since ")[1].split()[0]
    exported = run("export", "--since", since, "--state", "ready", "--state", "delayed")
    assert len(exported.lines) == 1
    assert eventq("--store", other, "import", stdin=exported.out.encode()).code == 0
    assert eventq("--store", other, "status", "--json").json["queues"][1]["ready"] == 4


def test_json_tells_the_same(run: Run, eventq: Run, store: str, tmp_path: Path) -> None:
    run("put", "q", "1")
    done = eventq("copy", store, str(tmp_path / "other"), "--json")
    assert done.code == 0
    assert done.json["queues"] == {"q": {"waiting": 1, "completed": 0, "dead": 0, "expired": 0, "cancelled": 0}}
    assert done.json["checksum"].startswith("sha256:")
    assert (done.json["copied"], done.json["to_resume"], done.json["since"]) == (1, ["q"], 0)


def test_wrong_use_is_said(run: Run, eventq: Run, store: str, tmp_path: Path) -> None:
    run("put", "q", "1")
    other = str(tmp_path / "other")
    for args, code, text in (
        (("copy", store), 2, "required"),
        (("copy", store, store + "/"), 2, "are the same store"),
        (("copy", f"file://{store}", store), 2, "are the same store"),
        (("--store", store, "copy", store, other), 2, "without --store"),
        (("copy", other, store), 1, "there is no store at"),
        (("copy", f"sqlite:///{tmp_path}/new.db", other), 1, "there is no store at"),
        (("copy", f"memory://{tmp_path}", other), 1, "is empty"),
        (("copy", store, "memory://"), 1, "of this process alone"),
        (("copy", store, "nosuch://x"), 2, "no storage for nosuch://"),
    ):
        done = eventq(*args)
        assert (done.code, text in done.err) == (code, True), (args, done)
    assert not os.path.exists(other)
    assert not run("status", "--json").json["queues"][0]["paused"]


def test_a_running_event_ends_the_command(run: Run, eventq: Run, store: str, tmp_path: Path) -> None:
    run("put", "q", "1")
    with open_storage(store) as storage:
        (claimed,) = storage.claim("q")
        done = eventq("copy", store, str(tmp_path / "other"), "--wait", "100ms")
        assert done.code == 1
        assert "1 events of the source still run after 0.1 s" in done.err
        assert not storage.settings("q").paused
        assert eventq("copy", store, str(tmp_path / "other"), "--wait", "0", "--claimed").code == 0
        storage.settle(claimed, Completed())


def test_ctrl_c_leaves_the_source_as_it_was(
    run: Run, start: Callable[..., subprocess.Popen[str]], store: str, tmp_path: Path
) -> None:
    run("put", "q", "1")
    with open_storage(store) as storage:
        (claimed,) = storage.claim("q")
        process = start("copy", store, str(tmp_path / "other"), "--wait", "60s")
        while not storage.settings("q").paused:
            sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert ended(process).code == 130
        assert not storage.settings("q").paused
        storage.settle(claimed, Completed())
        assert storage.scan("q", State.READY, Filter()).records == ()

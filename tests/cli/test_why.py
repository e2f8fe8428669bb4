"""`eventq why`: one finding for each thing that an event can wait for, and for each end."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest

from eventq import App, clock, retry
from eventq.cli import why
from eventq.cli.console import timestamp
from eventq.ids import new_worker_id
from eventq.model import Claimed, Failure, PutOptions, Retried, Skipped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Run

    Ask = Callable[[str], dict[str, str]]


@pytest.fixture(params=["file", "memory"])
def app(request: pytest.FixtureRequest, store: str) -> Iterator[App]:
    with App(store if request.param == "file" else f"memory://{secrets.token_hex(4)}") as app:
        yield app


@pytest.fixture
def other(app: App) -> Iterator[App]:
    """Another worker of the store."""
    with App(app.config.url) as other:
        yield other


@pytest.fixture
def ask(eventq: Run, app: App) -> Ask:
    """The findings about an event, as text by code; text and JSON say the same."""

    def about(id: str) -> dict[str, str]:
        done = eventq("--store", app.config.url, "why", id, "--json")
        findings = done.json["findings"]
        assert done.json["id"] == id
        text = eventq("--store", app.config.url, "why", id)
        assert text.code == done.code == (1 if done.json["state"] is None else 0)
        assert [line.split()[:2] for line in text.lines if line.startswith("  ")] == [
            finding["text"].split()[:2] for finding in findings
        ]
        assert all(finding["code"] in why.COMMANDS["why"].epilog for finding in findings)
        return {finding["code"]: finding["text"] for finding in findings}

    return about


def serve(app: App, *queues: str, tasks: tuple[str, ...] = ()) -> None:
    app.store.storage.introduce(list(queues), list(tasks))


def claimed(app: App, queue: str = "q") -> Claimed:
    (found,) = app.store.storage.claim(queue)
    return found


def test_nothing_stands_in_its_way(app: App, ask: Ask) -> None:
    serve(app, "q")
    assert list(ask(app.queue("q").put(1))) == ["ready", "place"]


def test_its_place(app: App, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(app, "q")
    queue = app.queue("q")
    first, middle, last = queue.put(1), queue.put(2), queue.put(3, priority=-1)
    urgent = queue.put(4, priority=9)
    assert [ask(id)["place"].split()[0] for id in (urgent, first, middle, last)] == ["no", "1", "2", "3"]
    monkeypatch.setattr(why, "MOST", 2)
    assert ask(last)["place"].startswith("at least 2 ready events")


def test_delayed(app: App, ask: Ask) -> None:
    serve(app, "q")
    found = ask(app.queue("q").put(1, delay=600))
    assert list(found) == ["delayed"]
    assert "(in 10m)" in found["delayed"]
    assert clock.aware(clock.SYSTEM.now() + 600).astimezone().strftime("%Y-%m-%d %H:") in found["delayed"]


def test_the_end_of_a_wait_is_in_the_document(app: App, eventq: Run) -> None:
    id = app.queue("q").put(1, delay=600)
    record = app.get(id)
    assert record is not None
    findings = eventq("--store", app.config.url, "why", id, "--json").json["findings"]
    assert findings[0]["until"] == timestamp(record.due)


def test_between_two_attempts(app: App, ask: Ask) -> None:
    serve(app, "q")
    id = app.queue("q").put(1)
    app.store.storage.settle(claimed(app), Retried(600.0, Failure("ValueError", "no such picture")))
    found = ask(id)
    assert list(found) == ["retry", "attempts"]
    assert "attempt 2 is due" in found["retry"]
    assert found["attempts"] == "attempts so far: 1 failed, 0 crashed; the last error: ValueError: no such picture"


def test_paused(app: App, ask: Ask) -> None:
    serve(app, "q")
    id = app.queue("q").put(1)
    app.store.storage.configure("q", {"paused": True})
    assert "until 'eventq resume q'" in ask(id)["paused"]
    app.store.storage.configure("q", {"paused": True, "paused_until": clock.SYSTEM.now() + 600})
    assert "(in 10m)" in ask(id)["paused"]
    app.store.storage.configure("q", {"paused": True, "paused_until": clock.SYSTEM.now() - 1})
    assert "paused" not in ask(id)


def test_its_task_is_switched_off(app: App, ask: Ask) -> None:
    serve(app, "q")
    handle = app.task_named("shop.total", queue="q").enqueue()
    app.disable("shop.other")
    assert "disabled" not in ask(handle.id)
    app.disable("shop.total", "the sums are wrong", by="ada")
    found = ask(handle.id)
    assert found["disabled"].startswith("its task 'shop.total' is switched off ")
    assert found["disabled"].endswith(", by ada (the sums are wrong); 'eventq enable shop.total' ends that")
    assert "ready" not in found
    app.enable("shop.total")
    assert "disabled" not in ask(handle.id)


def test_nobody_serves_its_queue(app: App, ask: Ask) -> None:
    serve(app, "other")
    plain, task = app.queue("q").put(1), app.task_named("shop.total", queue="q").enqueue()
    start = "start one, as with 'eventq work q --exec ...'"
    assert ask(plain)["no_worker"] == f"no live worker serves queue 'q' (1 elsewhere); {start}"
    assert "'eventq worker APP'" in ask(task.id)["no_worker"]
    assert "ready" not in ask(plain)


def test_nobody_knows_its_task(app: App, other: App, ask: Ask) -> None:
    serve(app, "default", tasks=("shop.greet",))
    id = app.task_named("shop.total").enqueue().id
    assert "'shop.total'" in ask(id)["unknown_task"]
    serve(other, "default", tasks=("shop.total",))
    assert "unknown_task" not in ask(id)
    serve(other, "default")
    assert "unknown_task" not in ask(id), "one that does not say may know it"


def test_skipped(app: App, ask: Ask) -> None:
    serve(app, "q")
    id = app.queue("q").put(1)
    app.store.storage.settle(claimed(app), Skipped())
    assert app.store.storage.worker in ask(id)["skipped"]


def test_a_limit(app: App, ask: Ask) -> None:
    serve(app, "q")
    queue = app.queue("q")
    holder = app.queue("elsewhere").put(0, limits={"api": 1})
    claim = claimed(app, "elsewhere")
    waiting, wider = queue.put(1, limits={"api": 1}), queue.put(1, limits={"api": 2})
    worker = app.store.storage.worker
    assert ask(waiting)["limit"] == f"limit 'api': 1 of 1 places are taken, by {holder} (worker {worker})"
    assert "limit" not in ask(wider)
    assert claim.id == holder


def test_the_concurrency_of_its_queue(app: App, ask: Ask) -> None:
    serve(app, "q")
    queue = app.queue("q", concurrency=1)
    queue.put(1)
    claimed(app)
    assert "runs 1 at once, and at most 1" in ask(queue.put(2))["concurrency"]


def test_a_rate(app: App, ask: Ask) -> None:
    serve(app, "q")
    id = app.store.storage.put("q", [b"1"], PutOptions(rates={"api": (5, 60.0)}))[0]
    assert "at most 5 start in 60 s" in ask(id)["rate"]


def test_a_suspect(app: App, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(app, "q")
    monkeypatch.setattr(retry, "SUSPECT_CRASHES", 0)
    assert "started only alone" in ask(app.queue("q").put(1))["suspect"]


def test_it_expires(app: App, ask: Ask) -> None:
    serve(app, "q")
    assert "(in 10m)" in ask(app.queue("q").put(1, expires=600))["expires"]
    late = app.queue("q").put(1, expires=1e-6)
    assert list(ask(late)) == ["expired"]


def test_its_key(app: App, ask: Ask) -> None:
    assert ask(app.queue("q").put(1, key="cat"))["key"] == "it was put with the key 'cat'"


def test_it_runs(app: App, ask: Ask) -> None:
    id = app.queue("q").put(1)
    claimed(app)
    found = ask(id)
    assert list(found) == ["running"]
    assert f"by worker {app.store.storage.worker} (pid " in found["running"]
    assert ", for 0." in found["running"]


def test_its_worker_has_died(app: App, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    id = app.queue("q").put(1)
    claimed(app)
    monkeypatch.setattr(type(app.store.storage), "workers", lambda _: [])
    assert "has died" in ask(id)["orphaned"]


@pytest.mark.parametrize("how", ["completed", "dead", "cancelled"])
def test_how_it_ended(app: App, ask: Ask, how: str) -> None:
    id = app.queue("q").put(1)
    if how == "cancelled":
        app.cancel(id, "not wanted")
    else:
        claim: Any = app.queue("q").claim()
        if how == "dead":
            claim.reject(Failure("ValueError", "no such picture"))
        else:
            claim.complete("done")
    says = {
        "completed": "it was completed",
        "dead": f"ValueError: no such picture; 'eventq retry {id}' runs it again",
        "cancelled": "not wanted",
    }
    found = ask(id)
    assert next(iter(found)) == how
    assert says[how] in found[how]


def test_an_unknown_id(app: App, ask: Ask) -> None:
    id = app.queue("q").put(1)
    assert list(ask(f"{id[:16]}{new_worker_id()}{id[32:]}")) == ["unknown"]


@pytest.mark.parametrize("codec", ["json", "msgpack"])
def test_the_task_of_an_event(codec: str) -> None:
    with App(f"memory://{secrets.token_hex(4)}", codec=codec) as app:
        record = app.get(app.task_named("shop.total").enqueue(1).id)
        assert record is not None
        assert why.task_of(record) == "shop.total"
        record = app.get(app.queue("q").put({"job": 1}))
        assert record is not None
        assert why.task_of(record) is None


def test_it_is_for_one_worker(app: App, other: App, ask: Ask) -> None:
    worker = other.store.storage.worker
    serve(other, "q", tasks=("t",))
    serve(app, "elsewhere", tasks=("t",))
    handle = app.task_named("t", worker=worker).enqueue()
    found = ask(handle.id)
    assert found.keys() == {"addressed", "place"}
    assert f"for worker {worker} alone, which runs nothing now" in found["addressed"]
    other.queue("q").put(1)
    claimed(other)
    assert "which runs 1 event now" in ask(handle.id)["addressed"]
    serve(other)  # as it says when it stops
    assert "has gone: the next look of any worker cancels it" in ask(handle.id)["worker_gone"]

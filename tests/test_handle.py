"""Handles: each way an event can end, and waiting for it."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from eventq import (
    App,
    Claim,
    PayloadError,
    Progress,
    ResultMissing,
    ResultTimeout,
    State,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    UnknownEvent,
)
from eventq.clock import SYSTEM
from eventq.model import Completed
from eventq.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclasses.dataclass
class Order:
    number: int


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def app(url: str, clock: FakeClock) -> Iterator[App]:
    with App(url, clock=clock) as app:
        yield app


def claimed(app: App, queue: str = "q") -> Claim[Any]:
    app.queue(queue).put("x")
    claim = app.queue(queue).claim()
    assert claim is not None
    return claim


def test_progress_is_what_was_said_last(app: App) -> None:
    claim = claimed(app)
    handle = app.handle(claim.id)
    assert handle.progress() is None
    claim.note("mine", {"done": 9})
    assert handle.progress() is None
    claim.progress(1, 4)
    claim.progress(2, 4, "half")
    assert handle.progress() == asyncio.run(handle.aio.progress()) == Progress(2, 4, "half")
    assert handle.notes()[0].value == {"done": 9}


def test_two_handles_of_one_event_are_equal(app: App) -> None:
    one, two = claimed(app).id, claimed(app).id
    assert len({app.handle(one), app.queue("q").handle(one), app.handle(two)}) == 2
    assert app.handle(one) != one


def test_a_value_can_be_read_again_and_again(app: App) -> None:
    claim = claimed(app)
    claim.complete({"total": 3})
    handle = app.handle(claim.id)
    assert handle.id == claim.id
    assert handle.result(timeout=0) == {"total": 3}
    assert handle.result() == {"total": 3}
    assert app.queue("q").handle(claim.id).result() == {"total": 3}
    assert (handle.wait(), handle.ready(), handle.status(), handle.exception()) == (
        True,
        True,
        State.COMPLETED,
        None,
    )


def test_none_is_a_value(app: App) -> None:
    claim = claimed(app)
    claim.settle(Completed(b"null"))
    assert app.handle(claim.id).result(timeout=0) is None
    assert app.handle(claim.id).exception() is None


def test_a_typed_result(app: App) -> None:
    claim = claimed(app)
    claim.settle(Completed(b'{"number":7}'))
    assert app.handle(claim.id, Order).result() == Order(7)
    with pytest.raises(PayloadError, match="int"):
        app.handle(claim.id, int).result()


def test_completed_without_a_value(app: App) -> None:
    claim = claimed(app)
    claim.complete()
    handle = app.handle(claim.id)
    assert handle.wait(timeout=0)
    assert handle.status() is None
    with pytest.raises(ResultMissing, match="completed without a value"):
        handle.result(timeout=5)
    assert isinstance(handle.exception(), ResultMissing)


def test_dead(app: App) -> None:
    claim = claimed(app)
    claim.reject(LookupError("no such customer"))
    handle = app.handle(claim.id)
    with pytest.raises(TaskFailed, match="no such customer") as caught:
        handle.result(timeout=5)
    assert caught.value.id == claim.id
    assert caught.value.failure is not None
    assert caught.value.failure.type == "LookupError"
    assert isinstance(handle.exception(), TaskFailed)
    assert handle.status() is State.DEAD


def test_cancelled(app: App) -> None:
    id = app.queue("q").put("x")
    handle = app.handle(id)
    assert handle.cancel("no need") == "cancelled"
    with pytest.raises(TaskCancelled, match="no need"):
        handle.result(timeout=5)
    assert handle.cancel() == "too late"
    assert handle.status() is State.CANCELLED


def test_cancelling_a_running_one_is_a_request(app: App) -> None:
    claim = claimed(app)
    assert app.handle(claim.id).cancel() == "requested"


def test_expired_without_a_worker(app: App, clock: FakeClock) -> None:
    id = app.queue("q").put("x", expires=10)
    handle = app.handle(id)
    assert not handle.ready()
    clock.advance(10)
    assert handle.ready()
    assert handle.status() is State.EXPIRED
    with pytest.raises(TaskExpired, match=id):
        handle.result(timeout=5)
    assert app.queue("q").claim() is None
    with pytest.raises(TaskExpired):
        handle.result(timeout=5)


def test_an_expiry_ends_the_wait_in_time(url: str) -> None:
    with App(url) as app:
        handle = app.handle(app.queue("q").put("x", expires=0.1))
        start = SYSTEM.monotonic()
        with pytest.raises(TaskExpired):
            handle.result(timeout=30)
        assert SYSTEM.monotonic() - start < 10


def test_not_yet(app: App) -> None:
    handle = app.handle(app.queue("q").put("x"))
    assert not handle.wait(timeout=0)
    assert handle.exception() is None
    with pytest.raises(ResultTimeout, match="still ready"):
        handle.result(timeout=0.05)
    with pytest.raises(TimeoutError):
        handle.result(timeout=0)


def test_an_id_that_is_none(app: App) -> None:
    for id in ("", "42", "../../etc/passwd"):
        with pytest.raises(UnknownEvent):
            app.handle(id)


def test_an_id_of_no_event(app: App) -> None:
    id = app.queue("q").put("x")
    app.queue("q").remove(id)
    handle = app.handle(id)
    assert handle.ready()
    assert handle.cancel() == "unknown"
    with pytest.raises(ResultMissing, match="deleted"):
        handle.result(timeout=5)


def test_a_waiter_is_woken(url: str) -> None:
    with App(url) as mine, App(url) as theirs:
        handle = mine.handle(mine.queue("q").put("x"))
        results: list[Any] = []
        waiting = threading.Event()
        watch = mine.store.storage.watch

        def watched(**what: Any) -> Any:
            made = watch(**what)
            waiting.set()
            return made

        mine.store.storage.watch = watched  # type: ignore[assignment,method-assign]
        thread = threading.Thread(target=lambda: results.append(handle.result(timeout=30)))
        thread.start()
        assert waiting.wait(20)
        claim = theirs.queue("q").claim()
        assert claim is not None
        claim.complete(["done"])
        thread.join(20)
        assert results == [["done"]]


@pytest.fixture
def impatient(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits wonders at once whether somebody is there, and looks every few milliseconds."""
    monkeypatch.setattr("eventq.handle.WARN_AFTER", 0.0)
    monkeypatch.setattr(app.store.storage, "recover", lambda: 0.005)


@pytest.mark.usefixtures("impatient")
def test_nobody_there_is_said_once(app: App, caplog: pytest.LogCaptureFixture) -> None:
    handle = app.handle(app.queue("lonely").put("x"))
    with caplog.at_level(logging.WARNING, "eventq"):
        assert not handle.wait(timeout=0.1)
    assert [entry.name for entry in caplog.records] == ["eventq.handle"]
    assert "no live worker claims from 'lonely'" in caplog.text


@pytest.mark.parametrize(("serves", "said"), [(["lonely", "q"], 0), (["other"], 1)])
def test_an_idle_worker_is_known_by_what_it_says_it_serves(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, serves: list[str], said: int
) -> None:
    monkeypatch.setattr("eventq.handle.WARN_AFTER", 0.0)
    with App(url) as mine, App(url) as theirs, caplog.at_level(logging.WARNING, "eventq"):
        theirs.store.storage.introduce(serves, ["shop.send"])
        handle = mine.handle(mine.queue("lonely").put("x"))
        assert not handle.wait(timeout=0.3)
    assert len(caplog.records) == said


@pytest.mark.usefixtures("impatient")
def test_nothing_is_said_while_it_runs(app: App, caplog: pytest.LogCaptureFixture) -> None:
    claim = claimed(app)
    with caplog.at_level(logging.WARNING, "eventq"):
        assert not app.handle(claim.id).wait(timeout=0.1)
    assert caplog.text == ""


@pytest.mark.usefixtures("impatient")
def test_nothing_is_said_while_a_worker_claims_there(app: App, caplog: pytest.LogCaptureFixture) -> None:
    claim = claimed(app, "busy")
    waiting = app.queue("busy").put("later")
    with caplog.at_level(logging.WARNING, "eventq"):
        assert not app.handle(waiting).wait(timeout=0.1)
    assert caplog.text == ""
    claim.release()

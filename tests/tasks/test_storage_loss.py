"""A storage that fails for a while: the worker goes on when it works again (W19)."""

from __future__ import annotations

from typing import Any, cast

import pytest

from eventq import App, StorageError
from eventq.model import State
from tasks.conftest import OpenApp
from tasks.running import PATIENCE, burst, until, working


class Flaky:
    """A storage of which some methods fail some times."""

    def __init__(self, storage: Any, **failures: int) -> None:
        self._storage = storage
        self.left = failures
        self.failed: list[str] = []
        self.error: BaseException = StorageError("the disk is away")

    def _maybe(self, name: str) -> None:
        if self.left.get(name, 0):
            self.left[name] -= 1
            self.failed.append(name)
            raise self.error

    def claim(self, *args: Any) -> Any:
        self._maybe("claim")
        return self._storage.claim(*args)

    def settle(self, *args: Any) -> Any:
        self._maybe("settle")
        return self._storage.settle(*args)

    def recover(self) -> Any:
        self._maybe("recover")
        return self._storage.recover()

    def watch(self, **about: Any) -> Any:
        self._maybe("watch")
        return self._storage.watch(**about)

    def give_back(self, queue: str) -> Any:
        self._maybe("give_back")
        return self._storage.give_back(queue)

    def note(self, *args: Any) -> Any:
        self._maybe("note")
        return self._storage.note(*args)

    def introduce(self, *args: Any) -> Any:
        self._maybe("introduce")
        return self._storage.introduce(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)


def flaky(app: App, **failures: int) -> Flaky:
    storage = Flaky(app.store.storage, **failures)
    app.store.storage = cast("Any", storage)
    return storage


def define(app: App) -> Any:
    runs: list[int] = []

    @app.task(name="work")
    def work(number: int) -> int:
        runs.append(number)
        return number

    return work, runs


@pytest.mark.parametrize("method", ["claim", "settle", "watch", "recover", "give_back", "introduce"])
def test_it_goes_on_when_the_storage_works_again(app: App, open_app: OpenApp, method: str) -> None:
    work, runs = define(app)
    handles = [work.enqueue(number) for number in range(5)]
    storage = flaky(app, **{method: 2})
    elsewhere = open_app()
    with working(app):
        assert all(elsewhere.handle(handle.id).wait(PATIENCE) for handle in handles)
        if method == "watch":
            until(lambda: storage.failed, "the worker rests")
        later = elsewhere.handle(work.enqueue(5).id)
        assert later.wait(PATIENCE)
    assert sorted(runs) == list(range(6)), "each ran once"
    if method != "introduce":
        assert storage.failed[:1] == [method]


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", ["claim", "settle", "watch"])
def test_a_burst_does_as_well(app: App, method: str) -> None:
    work, runs = define(app)
    handles = [work.enqueue(number) for number in range(5)]
    flaky(app, **{method: 3})
    assert burst(app) == 0
    assert [handle.result(0) for handle in handles] == list(range(5))
    assert sorted(runs) == list(range(5))


def test_the_log_tells_it(app: App, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="eventq")
    work, _ = define(app)
    work.enqueue(1)
    flaky(app, claim=1, settle=1)
    burst(app)
    assert "cannot claim: the disk is away" in caplog.text
    assert "the storage works again" in caplog.text
    assert "cannot be settled: the disk is away" in caplog.text


@pytest.mark.exhaustive
def test_an_async_run_is_settled_later_too(app: App) -> None:
    @app.task(name="work")
    async def work() -> int:
        return 1

    handle = work.enqueue()
    flaky(app, settle=2)
    burst(app)
    assert handle.result(0) == 1


def test_it_can_be_stopped_while_the_storage_fails(app: App, open_app: OpenApp) -> None:
    work, _ = define(app)
    handle = work.enqueue(1)
    storage = flaky(app, claim=10**6, recover=10**6)
    with working(app) as serving:
        until(lambda: storage.failed, "a failure")
        assert serving.stop() == 0
    assert open_app().handle(handle.id).status() is State.READY


def test_output_that_cannot_be_kept_does_not_fail_the_run(app: App) -> None:
    @app.task(name="speaks")
    def speaks() -> int:
        print("something")
        return 1

    handle = speaks.enqueue()
    flaky(app, note=9)
    burst(app)
    assert handle.result(0) == 1


@pytest.mark.parametrize("method", ["claim", "settle"])
def test_another_error_is_not_taken_for_it(app: App, method: str) -> None:
    """A bug in a storage ends the worker with the error, rather than to leave it there without doing anything."""
    work, _ = define(app)
    work.enqueue(1)
    storage = flaky(app, **{method: 10**6})
    storage.error = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError, match="a bug"):
        burst(app, concurrency=1)

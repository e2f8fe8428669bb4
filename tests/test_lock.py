"""Locks and semaphores over several workers of one store. That a killed process frees them is the storages' suite."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from eventq import App, ConfigError, StorageClosed
from eventq.clock import SYSTEM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def open_app(url: str) -> Iterator[Callable[[], App]]:
    apps: list[App] = []

    def open_app() -> App:
        apps.append(App(url))
        return apps[-1]

    yield open_app
    for app in apps:
        app.close()


def test_one_holder(open_app: Callable[[], App]) -> None:
    mine, theirs = open_app().lock("import"), open_app().lock("import")
    with mine:
        assert mine.held
        assert not theirs.acquire(timeout=0)
        assert not theirs.held
    assert not mine.held
    assert theirs.acquire(timeout=0)
    theirs.release()


def test_two_objects_of_one_process_exclude_each_other(open_app: Callable[[], App]) -> None:
    app = open_app()
    with app.lock("x"):
        assert not app.lock("x").acquire(timeout=0)
        assert app.lock("y").acquire(timeout=0)


def test_a_semaphore_has_so_many_places(open_app: Callable[[], App]) -> None:
    one, other = open_app().semaphore("s", 2), open_app().semaphore("s", 2)
    assert one.acquire(0)
    assert other.acquire(0)
    assert not other.acquire(0)
    one.release()
    assert other.acquire(0)
    assert not one.acquire(0)
    other.release()
    other.release()
    assert not other.held


def test_locks_and_semaphores_have_names_of_their_own(open_app: Callable[[], App]) -> None:
    app = open_app()
    with app.lock("x"):
        assert app.semaphore("x", 1).acquire(timeout=0)


def test_a_timeout_is_kept(open_app: Callable[[], App]) -> None:
    mine, theirs = open_app().lock("x"), open_app().lock("x")
    with mine:
        start = SYSTEM.monotonic()
        assert not theirs.acquire(timeout=0.15)
        assert 0.15 <= SYSTEM.monotonic() - start < 5


def test_a_waiter_gets_it(open_app: Callable[[], App]) -> None:
    mine, theirs = open_app().lock("x"), open_app().lock("x")
    got = threading.Event()

    def wait() -> None:
        with theirs:
            got.set()

    with mine:
        thread = threading.Thread(target=wait)
        thread.start()
        assert not got.wait(0.1)
    assert got.wait(20)
    thread.join(20)


def test_threads_may_share_an_object(open_app: Callable[[], App]) -> None:
    lock, counter = open_app().lock("x"), 0
    inside = threading.Lock()

    def work() -> None:
        nonlocal counter
        for _ in range(10):
            with lock:
                assert inside.acquire(blocking=False), "two holders"
                counter += 1
                inside.release()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert counter == 30


def test_closing_frees_it(open_app: Callable[[], App]) -> None:
    app, other = open_app(), open_app()
    app.lock("leader").acquire()
    app.close()
    assert other.lock("leader").acquire(timeout=20)
    with pytest.raises(StorageClosed):
        app.lock("leader").acquire()


def test_wrong_use(open_app: Callable[[], App]) -> None:
    app = open_app()
    with pytest.raises(RuntimeError, match="not held"):
        app.lock("x").release()
    with pytest.raises(ConfigError, match="empty"):
        app.lock("")
    with pytest.raises(TypeError, match="text"):
        app.lock(5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="limit"):
        app.semaphore("x", 0)
    with pytest.raises(ConfigError, match="timeout"):
        app.lock("x").acquire(timeout=-1)

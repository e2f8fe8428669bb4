"""The app: opening, closing, names, and what it says about wrong use."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import eventq
from eventq import App, ConfigError, PayloadError, StorageClosed
from eventq.storage.memory import MemoryStorage
from eventq.testing import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def open_app(url: str) -> Iterator[Callable[[], App]]:
    apps: list[App] = []

    def open_app() -> App:
        apps.append(App(url))
        return apps[-1]

    yield open_app
    for app in apps:
        app.close()


@pytest.fixture
def app(open_app: Callable[[], App]) -> App:
    return open_app()


# ---------------------------------------------------------------- opening and closing


def test_the_environment_is_read_when_an_app_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EVENTQ_URL", f"memory://{tmp_path}")
    with App() as one, App(f"memory://{tmp_path}") as other:
        one.queue("q").put("x")
        assert other.queues() == ["q"]


def test_without_anything_it_is_a_folder_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for value in (None, ""):
        monkeypatch.delenv("EVENTQ_URL", raising=False) if value is None else monkeypatch.setenv("EVENTQ_URL", "")
        with App() as app:
            app.queue("q").put("x")
        assert [path.name for path in tmp_path.iterdir()] == [".eventq"]


def test_paths_are_urls(tmp_path: Path) -> None:
    with App(tmp_path / "store") as app:
        app.queue("q").put("x")
    with App(f"file://{tmp_path}/store") as app:
        assert app.queues() == ["q"]


def test_an_opened_storage() -> None:
    clock = FakeClock()
    storage = MemoryStorage(clock=clock)
    with App(storage=storage, clock=clock) as app:
        app.queue("q").put("x", delay=5)
        assert app.queue("q").claim() is None
        clock.advance(5)
        assert app.queue("q").claim() is not None
    with pytest.raises(StorageClosed):
        storage.queues()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"url": "memory://", "colour": "red"}, TypeError, "no option 'colour'; there are clock, codec"),
        ({"url": "ftp://x"}, ConfigError, "ftp"),
        ({"url": "memory://", "sync": True}, ConfigError, "sync"),
        ({"url": "memory://", "codec": "yaml"}, ConfigError, "json, msgpack"),
        ({"url": "memory://", "codec": 5}, TypeError, "codec"),
        ({"url": 5}, TypeError, "int"),
    ],
)
def test_wrong_options_fail_at_once(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        App(**options)


def test_a_storage_and_a_url_is_one_too_many() -> None:
    with MemoryStorage() as storage:
        with pytest.raises(ConfigError, match="url"):
            App("memory://", storage=storage)
        with pytest.raises(ConfigError, match="sync"):
            App(storage=storage, sync=False)


def test_closing_twice_and_using_after(open_app: Callable[[], App]) -> None:
    app = open_app()
    queue = app.queue("q")
    handle = app.handle(queue.put("x"))
    app.close()
    app.close()
    for call in (
        lambda: queue.put("y"),
        queue.claim,
        lambda: list(queue.claims(timeout=0)),
        handle.result,
        app.queues,
        app.workers,
        lambda: app.claim_name("n"),
        lambda: app.lock("l").acquire(),
        lambda: app.queue("q", keep=1),
    ):
        with pytest.raises(StorageClosed):
            call()


def test_closing_gives_back(open_app: Callable[[], App]) -> None:
    one, other = open_app(), open_app()
    one.queue("q").put("x")
    claim = one.queue("q").claim()
    assert claim is not None
    one.close()
    again = other.queue("q").claim(timeout=20)
    assert again is not None
    assert (again.id, again.event.attempt) == (claim.id, 1)
    again.complete()


# ---------------------------------------------------------------- events


def test_get_and_get_many(app: App) -> None:
    a, b = app.queue("one").put(1), app.queue("two").put(2)
    app.queue("two").remove(b)
    record = app.get(a)
    assert record is not None
    assert (record.id, record.queue, record.payload) == (a, "one", b"1")
    assert app.get_many([b, a]) == [None, record]


def test_cancel(app: App) -> None:
    id = app.queue("q").put("x")
    assert app.cancel(id, "no need") == "cancelled"
    assert app.cancel(id) == "too late"
    assert app.queue("q").claim() is None


def test_queues_and_workers(app: App) -> None:
    assert app.queues() == []
    app.queue("b")
    assert app.queues() == []
    app.queue("b").put(1)
    app.queue("a", keep=5)
    assert app.queues() == ["a", "b"]
    claim = app.queue("b").claim()
    assert claim is not None
    (worker,) = app.workers()
    assert worker.id == app.store.storage.worker
    assert worker.pid == os.getpid()
    assert worker.claims == (claim.id,)
    claim.complete()


@pytest.mark.parametrize(("name", "error"), [("", ConfigError), (5, TypeError), (None, TypeError)])
def test_a_queue_needs_a_name(app: App, name: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="queue"):
        app.queue(name)


SHOP = """
import sys, dataclasses, eventq

@dataclasses.dataclass
class Order:
    number: int

app = eventq.App("memory://")
print(app.queue(Order).name)
"""


def test_a_type_has_one_name_in_every_process(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    names = [
        subprocess.run(
            [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()
        for command in (["shop.py"], ["-m", "shop"], ["-c", "import shop"])
    ]
    assert names == ["shop.Order"] * 3


# ---------------------------------------------------------------- names


def test_a_name_is_taken_once(open_app: Callable[[], App]) -> None:
    apps = [open_app() for _ in range(4)]
    start, results = threading.Barrier(4), []

    def take(app: App) -> None:
        start.wait(20)
        results.append(app.claim_name("report-2026-11", {"by": app.store.storage.worker}))

    threads = [threading.Thread(target=take, args=(app,)) for app in apps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(results) == [False, False, False, True]
    taken = apps[0].get_name("report-2026-11")
    assert taken is not None
    assert taken.data == {"by": taken.worker}
    assert taken.worker in [app.store.storage.worker for app in apps]
    assert taken.at.tzinfo is not None


def test_names_are_found_and_released(app: App) -> None:
    assert app.claim_name("report/b", 2)
    assert app.claim_name("report/a")
    assert app.claim_name("other", [1])
    assert [(taken.name, taken.data) for taken in app.names("report/")] == [("report/a", None), ("report/b", 2)]
    assert len(app.names()) == 3
    assert app.get_name("report") is None
    assert app.release_name("report/a")
    assert not app.release_name("report/a")
    assert app.claim_name("report/a", "again")


def test_a_name_outlives_its_process(open_app: Callable[[], App]) -> None:
    one, other = open_app(), open_app()
    assert one.claim_name("once")
    one.close()
    assert not other.claim_name("once")


def test_wrong_names(app: App) -> None:
    with pytest.raises(ConfigError, match="empty"):
        app.claim_name("")
    with pytest.raises(TypeError):
        app.claim_name(5)  # type: ignore[arg-type]
    with pytest.raises(PayloadError):
        app.claim_name("x", {1, 2})
    assert app.get_name("x") is None


def test_nothing_is_logged_unless_asked() -> None:
    code = "import eventq, logging; logging.getLogger('eventq.claim').error('quiet')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    assert eventq.__version__

"""`eventq result` and `eventq wait`: every way in which an event can end."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest

from eventq import App, clock, handle
from eventq.ids import new_worker_id
from eventq.model import Failure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Ran, Run

ID = "18ea0184bd2f4700714f1543ee2de643000001.00000"


@pytest.fixture(params=["file", "memory"])
def app(request: pytest.FixtureRequest, store: str) -> Iterator[App]:
    with App(store if request.param == "file" else f"memory://{secrets.token_hex(4)}", sync=None) as app:
        yield app


@pytest.fixture
def look(eventq: Run, app: App) -> Run:
    """A command on the app's store."""

    def call(*args: str, stdin: bytes = b"") -> Ran:
        return eventq("--store", app.config.url, *args, stdin=stdin)

    return call


def settled(app: App, how: str) -> str:
    """An event that ended, or has not, in some way; its id."""
    queue: Any = app.queue("q")
    if how == "expired":
        id: str = queue.put(1, expires=1e-6)
        clock.sleep(0.001)
        return id
    id = queue.put(1, delay=600.0 if how == "delayed" else None)
    if how == "cancelled":
        app.cancel(id, "not wanted")
    if how in ("ready", "delayed", "cancelled"):
        return id
    claim = queue.claim()
    assert claim.id == id
    if how == "value":
        claim.complete({"a": ["ü"]})
    elif how == "null":
        claim.complete(None)
    elif how == "dead":
        claim.reject(Failure("ValueError", "no such picture", "Traceback ...\n  line 7\nValueError: no such picture\n"))
    return id


@pytest.mark.parametrize(
    ("how", "code", "out", "says"),
    [
        ("value", 0, '{"a":["ü"]}\n', []),
        ("dead", 1, "", ["  line 7\n", "is a dead letter (ValueError: no such picture)\n"]),
        ("cancelled", 1, "", ["was cancelled: not wanted"]),
        ("expired", 1, "", ["expired before a worker started it"]),
        ("null", 1, "", ["there is no record of event"]),
        ("ready", 124, "", ["is still ready after 0.01 s"]),
        ("delayed", 124, "", ["is still delayed"]),
    ],
)
def test_result(app: App, look: Run, how: str, code: int, out: str, says: list[str]) -> None:
    done = look("result", settled(app, how), "--timeout", "0.01")
    assert (done.code, done.out) == (code, out)
    assert all(each in done.err for each in says), done.err
    assert how == "dead" or len(done.err.splitlines()) <= 1


def test_that_nobody_serves_the_queue_is_said(app: App, look: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    id = settled(app, "ready")
    app.store.storage.introduce(["other"], [])  # or it might be about to serve this one
    monkeypatch.setattr(handle, "WARN_AFTER", 0.0)
    done = look("result", id, "--timeout", "0.5")
    assert done.code == 124
    assert done.err.startswith("eventq: waiting for event")
    assert "no live worker claims from 'q'" in done.err


@pytest.mark.parametrize(
    ("hows", "code"),
    [
        (["value"], 0),
        (["value", "value"], 0),
        (["value", "dead"], 1),
        (["cancelled"], 1),
        (["expired"], 1),
        (["null"], 1),
        (["value", "ready"], 124),
        (["ready", "dead"], 124),
    ],
)
def test_wait(app: App, look: Run, hows: list[str], code: int) -> None:
    hows = sorted(hows, key=lambda how: how == "ready")  # who is left ready must not be claimed for another
    ids = [settled(app, how) for how in hows]
    states = {"value": "completed", "null": None}
    done = look("wait", *ids, "--timeout", "0.01", "--json")
    assert done.code == code
    assert done.json == [{"id": id, "state": states.get(how, how)} for id, how in zip(ids, hows, strict=True)]
    text = look("wait", *ids, "--timeout", "0.01")
    assert text.code == code
    assert [line.split()[0] for line in text.lines] == ids


def test_an_event_that_vanishes_while_it_is_waited_for_is_completed(
    app: App, look: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = settled(app, "ready")
    wait = handle.Handle.wait

    def ends_meanwhile(self: Any, timeout: float | None = None) -> bool:
        claim = app.queue("q").claim()
        assert claim is not None
        claim.complete()
        return wait(self, timeout)

    monkeypatch.setattr(handle.Handle, "wait", ends_meanwhile)
    assert look("wait", id).lines == [f"{id}  completed"]


def test_an_id_that_never_was(app: App, look: Run) -> None:
    app.queue("q").put(1)
    id = ID.replace("714f1543ee2de643", new_worker_id())
    assert look("result", id).code == look("wait", id).code == 1
    assert "never put" in look("wait", id).out


@pytest.mark.parametrize("command", ["result", "wait", "why"])
def test_wrong_use(run: Run, command: str) -> None:
    assert run(command).code == 2
    assert run(command, "no-id").code == 2
    done = run(command, ID)
    assert done.code == 1
    assert done.err.startswith("eventq: there is no store at")

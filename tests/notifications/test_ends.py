"""What users are told of calls and runs that end: put before they are settled, once each."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import eventq
from eventq import App, ConfigError
from eventq.model import Completed, Rejected, Settings, State
from eventq.notifications import record
from eventq.notifications.record import box_of
from eventq.run import RUN_HEADER
from eventq.testing import FakeClock, inline, run_until_empty
from notifications.conftest import OpenApp, work


def only(app: App, user: str = "ada") -> Any:
    [told] = app.notifications.list(user)
    return told


def test_a_call_that_completes(app: App) -> None:
    @app.task(name="shop.add", notify="ada")
    def add(number: int) -> int:
        return number + 1

    handle = add.using(headers={"correlation_id": "order 7"}).enqueue(1)
    work(app)
    told = only(app)
    assert (told.status, told.kind, told.name, told.exit_code) == (State.COMPLETED, "task", "shop.add", 0)
    assert (told.event, told.correlation_id, told.result, told.left_out) == (handle.id, "order 7", 2, "")
    assert (told.message, told.error, told.unread) == ("shop.add was completed", None, True)
    assert handle.result(0) == 2


def test_a_call_that_fails_is_told_once_and_not_for_each_attempt(app: App, clock: FakeClock) -> None:
    @app.task(name="shop.mail", notify="ada", max_attempts=3, retry_delay=1, jitter=False)
    def mail() -> None:
        raise OSError("no route\nto host")

    handle = mail.enqueue()
    for attempt in (1, 2, 3):
        assert app.notifications.count("ada") == 0, attempt
        work(app)
        clock.advance(10)
    told = only(app)
    assert (told.status, told.exit_code, told.event) == (State.DEAD, 1, handle.id)
    assert told.message == "shop.mail has failed: OSError: no route to host"
    assert (told.error.type, told.error.message, told.result) == ("OSError", "no route\nto host", None)
    assert "Traceback" in told.error.traceback
    assert told.correlation_id == handle.id


def test_a_run_that_is_cancelled(app: App) -> None:
    @app.task(name="shop.wait", notify="ada", bind=True)
    def wait(context: eventq.Context) -> None:
        app.cancel(context.id)
        context.check()

    wait.enqueue()
    work(app)
    told = only(app)
    assert (told.status, told.exit_code) == (State.CANCELLED, 130)
    assert told.message == "shop.wait was cancelled: cancelled while it ran"


def test_one_that_takes_too_long_is_aborted(app: App) -> None:
    @app.task(name="shop.slow", notify="ada", max_attempts=1)
    def slow() -> None:
        raise eventq.TaskTimeout("too slow")

    slow.enqueue()
    work(app)
    assert (only(app).status, only(app).exit_code) == (State.DEAD, 130)


def test_coroutines_and_generators(app: App) -> None:
    @app.task(name="w.coroutine", notify="ada")
    async def coroutine() -> str:
        await asyncio.sleep(0)
        return "done"

    @app.task(name="w.generator", notify="ada")
    def generator() -> Any:
        yield 1

    coroutine.enqueue()
    generator.enqueue()
    work(app)
    assert {each.name: each.result for each in app.notifications.list("ada")} == {
        "w.coroutine": "done", "w.generator": None,
    }  # fmt: skip


def test_a_call_that_cannot_be_run_is_told_as_well(app: App) -> None:
    @app.task(name="w", notify="ada")
    def w(number: int) -> None: ...

    app.task_named("other").using(queue="default").enqueue("x")  # nobody knows it, and nobody asked
    app.store.storage.put("default", (b'{"task":"w","args":["x"]}',), record.PutOptions())
    app.store.storage.put("default", (b'"no call"',), record.PutOptions(headers={RUN_HEADER: {"notify": "bob"}}))
    work(app)
    assert only(app).message.startswith("w has failed: ")
    assert only(app, "bob").message.startswith("default has failed: ")


# ---------------------------------------------------------------- who asks


def test_the_call_beats_the_configuration_beats_the_decorator(open_app: OpenApp) -> None:
    app = open_app(tasks={"configured": {"notify": "cyd"}, "silent": {"notify": None}})
    tasks = {name: app.task(name=name, notify="ada")(lambda_of()) for name in ("plain", "configured", "silent")}
    unasked = app.task(name="unasked")(lambda_of())
    for task in (*tasks.values(), unasked):
        task.enqueue()
    tasks["plain"].using(notify="bob").enqueue()
    tasks["plain"].using(notify=None).enqueue()
    unasked.using(notify="bob").enqueue()
    work(app)
    told = {user: sorted(each.name for each in app.notifications.list(user)) for user in ("ada", "bob", "cyd")}
    assert told == {"ada": ["plain"], "bob": ["plain", "unasked"], "cyd": ["configured"]}


def lambda_of() -> Any:
    def function() -> None: ...

    return function


@pytest.mark.parametrize(
    ("user", "error", "text"),
    [("", ConfigError, "is empty"), (7, TypeError, "is a text"), ("a" * 201, ConfigError, "at most 200")],
)
def test_what_is_no_user_is_refused_where_it_is_said(user: Any, error: type[Exception], text: str) -> None:
    with App("memory://") as app:
        with pytest.raises(error, match=text):
            app.task(name="w", notify=user)(lambda_of())
        task = app.task(name="v")(lambda_of())
        with pytest.raises(error, match=text):
            task.using(notify=user)
        flow = app.chain(task)
        with pytest.raises(error, match=text):
            flow.start(notify=user)
        assert app.workflows.runs() == []


def test_a_user_in_a_header_that_is_none_does_no_harm(app: App) -> None:
    @app.task(name="w")
    def w() -> None: ...

    call = b'{"task":"w"}'
    app.store.storage.put("default", (call,), record.PutOptions(headers={RUN_HEADER: {"notify": "x" * 999}}))
    work(app)
    [dead] = app.queue("default").scan("dead").records
    assert dead.failure is not None
    assert "at most 200 characters" in dead.failure.message


def test_runs_of_schedules_tell_as_well(app: App, clock: FakeClock) -> None:
    task = app.task(name="w")(lambda_of())
    app.schedules.add("often", task.using(notify="ada"), every=60)
    clock.advance(61)
    work(app)
    assert only(app).name == "w"


# ---------------------------------------------------------------- what is told


def test_a_large_result_stays_with_its_event(app: App) -> None:
    @app.task(name="w", notify="ada")
    def w(size: int) -> str:
        return "x" * size

    handle = w.enqueue(record.MAX_RESULT)
    work(app)
    assert (only(app).result, only(app).status) == (None, State.COMPLETED)
    assert only(app).left_out == "it has 65538 bytes, and a notification takes 65536; ask the event for it"
    assert len(handle.result(0)) == record.MAX_RESULT


def test_results_are_plain_data_whatever_the_codec(open_app: OpenApp) -> None:
    app = open_app(codec="msgpack")

    @app.task(name="w", notify="ada")
    def w() -> dict[str, bytes]:
        return {"data": b"\x00\x01"}

    w.enqueue()
    work(app)
    assert only(app).result == {"data": b"\x00\x01"}
    assert only(open_app()).result == {"data": b"\x00\x01"}, "an app that writes JSON reads it, too"


def test_no_result_is_told_of_a_task_that_keeps_none(app: App) -> None:
    @app.task(name="w", notify="ada", result=False)
    def w() -> int:
        return 7

    w.enqueue()
    work(app)
    assert (only(app).result, only(app).left_out) == (None, "")


def test_what_cannot_be_told_does_not_keep_an_event_from_its_end(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody has bounded the user's queue."""
    app.queue(box_of("ada"), maxsize=1)
    task = app.task(name="w", notify="ada")(lambda_of())
    handles = [task.enqueue() for _ in range(3)]
    work(app)
    assert [handle.status() for handle in handles] == ["completed"] * 3
    assert app.notifications.count("ada") == 1
    assert caplog.text.count("user 'ada' is not told how task w ") == 2


def test_a_result_that_is_too_much_for_the_users_queue_is_left_out(app: App) -> None:
    app.queue(box_of("ada"), max_bytes=600)

    @app.task(name="w", notify="ada")
    def w() -> str:
        return "x" * 500

    w.enqueue()
    work(app)
    assert only(app).result is None
    assert "600" in only(app).left_out


# ---------------------------------------------------------------- once each


def test_an_end_that_is_told_again_is_one_notification(app: App) -> None:
    """As after a death between the put and the settle: the event runs again."""
    task = app.task(name="w", notify="ada")(lambda_of())
    task.enqueue()
    [claimed] = app.store.storage.claim("default")
    ids = []
    for outcome in (Completed(b"1"), Completed(b"1"), Rejected(), Rejected(), Completed(b"2")):
        record.notify_end(app.store, "ada", "task", "w", claimed, outcome)
        ids.append(only(app).id)
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    assert len(set(ids)) == 3, "what is told last is new"
    assert (only(app).status, only(app).result) == (State.COMPLETED, 2)


def test_a_dead_letter_that_is_tried_again_is_news(app: App) -> None:
    broken = [True]

    @app.task(name="w", notify="ada", max_attempts=1)
    def w() -> str:
        if broken[0]:
            raise ValueError("broken")
        return "mended"

    handle = w.enqueue()
    work(app)
    app.notifications.read("ada", only(app).id)
    app.queue("default").retry(handle.id)
    work(app)
    assert [(each.status, each.unread) for each in app.notifications.list("ada")] == [
        (State.DEAD, True), (State.DEAD, False),
    ]  # fmt: skip
    broken[0] = False
    app.queue("default").retry(handle.id)
    work(app)
    [news] = app.notifications.list("ada", unread=True)
    assert (news.status, news.result) == (State.COMPLETED, "mended"), "it has taken the place of what is no more so"


def test_different_events_are_different_news(app: App) -> None:
    task = app.task(name="w", notify="ada")(lambda_of())
    for _ in range(20):
        task.enqueue()
    work(app)
    assert app.notifications.count("ada") == 20
    assert len({each.event for each in app.notifications.list("ada")}) == 20


# ---------------------------------------------------------------- workflows


def test_a_run_of_a_workflow_tells(app: App) -> None:
    @app.task(name="add")
    def add(number: int) -> int:
        return number + 1

    run = app.chain((add, 1), add, add).start(notify="ada")
    app.chain((add, 1)).start()
    work(app)
    told = only(app)
    assert (told.status, told.kind, told.name, told.event) == (State.COMPLETED, "workflow", "chain", run.id)
    assert (told.result, told.exit_code, told.message) == (4, 0, "chain was completed")


def test_a_run_that_fails_tells_and_once_it_is_mended_tells_again(app: App, clock: FakeClock) -> None:
    broken = [True]

    @app.task(name="fragile", max_attempts=1)
    def fragile() -> str:
        if broken[0]:
            raise ValueError("broken")
        return "mended"

    run = app.chain(fragile).start(notify="ada")
    work(app)
    assert run.status() == "dead"
    assert (
        only(app).message
        == "chain has failed: StepFailed: step 'fragile' of workflow 'chain' is dead (ValueError: broken)"
    )
    broken[0] = False
    assert run.resume()
    work(app)
    assert (only(app).status, only(app).result) == (State.COMPLETED, "mended")


def test_a_run_that_is_cancelled_tells(app: App) -> None:
    run = app.chain(app.task(name="w")(lambda_of())).start(notify="ada")
    assert run.cancel("not needed")
    work(app)
    assert only(app).message == "chain was cancelled: not needed"


def test_a_run_that_ends_while_nobody_can_be_told_ends_later(
    app: App, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage fails at that moment: then the run is not settled either."""
    run = app.chain(app.task(name="w")(lambda_of())).start(notify="ada")
    real, failed = app.store.storage.put_key, []

    def put_key(queue: str, payload: bytes, options: Any) -> tuple[str, bool]:
        if queue == box_of("ada") and not failed:
            failed.append(queue)
            raise eventq.StorageError("out of order")
        return real(queue, payload, options)

    monkeypatch.setattr(app.store.storage, "put_key", put_key)
    work(app)
    assert failed
    assert (run.status(), app.notifications.count("ada")) == ("running", 0)
    clock.advance(11)
    work(app)
    assert (run.status(), app.notifications.count("ada")) == ("completed", 1)


# ---------------------------------------------------------------- without a worker of its own


def test_the_kit_tells_as_workers_do(app: App) -> None:
    @app.task(name="w", notify="ada", max_attempts=2)
    def w(good: bool) -> bool:
        if not good:
            raise ValueError("bad")
        return good

    with inline(app):
        w.enqueue(True)
    assert only(app).result is True
    w.enqueue(False)
    run_until_empty(app)
    assert [each.status for each in app.notifications.list("ada")] == [State.DEAD, State.COMPLETED]


def test_nothing_is_put_for_who_does_not_ask(app: App) -> None:
    app.task(name="w")(lambda_of()).enqueue()
    work(app)
    assert not [queue for queue in app.store.storage.queues() if record.is_box(queue)]
    assert app.store.storage.settings(box_of("ada")) == Settings()

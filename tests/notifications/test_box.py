"""A user's notifications: put, listed, marked, removed, pruned; over every storage."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from eventq import App, ConfigError, PayloadError
from eventq.model import State
from eventq.notifications import MOST_UNREAD, record
from eventq.notifications.record import HEADER, box_of
from eventq.testing import FakeClock
from notifications.conftest import OpenApp, messages, work

DAY = 86400.0
HOSTILE = [
    "Ada",
    "ada",
    "ada.lovelace@example.org",
    "a/../b",
    "ä" * 200,
    "\x1b[2J\n",
    ".",
    "..",
    " ",
    "a" * 81,
    "a_" * 40,
]


def ids(app: App, user: str, **which: Any) -> list[str]:
    return [each.id for each in app.notifications.list(user, **which)]


def test_the_newest_is_first(app: App, clock: FakeClock) -> None:
    put = []
    for number in range(5):
        put.append(app.notifications.put("ada", f"number {number}"))
        clock.advance(1)
    assert ids(app, "ada") == put[::-1]
    assert messages(app, "ada", limit=2) == ["number 4", "number 3"]


def test_what_is_told(app: App, clock: FakeClock) -> None:
    id = app.notifications.put("ada", "the  disk is\nfull", host="a1", free={"bytes": 0})
    [told] = app.notifications.list("ada")
    assert (told.id, told.user, told.message) == (id, "ada", "the disk is full")
    assert told.data == {"host": "a1", "free": {"bytes": 0}}
    assert (told.status, told.kind, told.event) == (None, "", None)
    assert (told.exit_code, told.error, told.result) == (None, None, None)
    assert told.unread
    assert told.read_at is None
    assert abs(told.at.timestamp() - clock.now()) < 0.01


def test_read_and_unread_again(app: App, clock: FakeClock) -> None:
    first, second, third = (app.notifications.put("ada", each) for each in "abc")
    clock.advance(60)
    assert app.notifications.read("ada", first, third) == 2
    assert app.notifications.read("ada", first) == 0, "it was read before"
    assert ids(app, "ada", unread=True) == [second]
    assert ids(app, "ada", unread=False) == [third, first]
    assert ids(app, "ada") == [third, second, first], "its id, and its place, are the same"
    newest = app.notifications.list("ada", limit=1)[0]
    assert newest.read_at is not None
    assert newest.read_at - newest.at > timedelta(seconds=59)
    assert [app.notifications.count("ada", which) for which in (True, False, None)] == [1, 2, 3]
    assert app.notifications.unread("ada", third, second) == 1, "the second was never read"
    assert ids(app, "ada", unread=True) == [third, second]
    assert app.notifications.list("ada", limit=1)[0].read_at is None
    assert app.notifications.read_all("ada") == 2
    assert (app.notifications.count("ada"), app.notifications.count("ada", None)) == (0, 3)
    assert app.notifications.read_all("ada") == 0


def test_an_ordinary_day_goes_on_and_on(app: App) -> None:
    id = app.notifications.put("ada", "a")
    for _ in range(5):
        assert (app.notifications.read("ada", id), app.notifications.unread("ada", id)) == (1, 1)
    assert ids(app, "ada") == [id]


def test_removed_is_gone_read_or_not(app: App) -> None:
    first, second, third = (app.notifications.put("ada", each) for each in "abc")
    app.notifications.read("ada", second)
    assert app.notifications.remove("ada", first, second, first) == 2
    assert ids(app, "ada") == [third]
    assert app.notifications.remove("ada", first) == 0


def test_two_users_are_apart(app: App) -> None:
    adas, bobs = app.notifications.put("ada", "for ada"), app.notifications.put("bob", "for bob")
    app.notifications.read("bob", bobs)
    other = app.queue("other").put(1)
    for change in (app.notifications.read, app.notifications.unread, app.notifications.remove):
        assert change("bob", adas, other, "0" * 38 + ".00000") == 0
        assert change("ada", bobs) == 0
    assert app.notifications.read_all("bob") == 0
    assert (messages(app, "ada"), messages(app, "bob"), messages(app, "cyd")) == (["for ada"], ["for bob"], [])
    assert app.notifications.count("ada") == 1
    assert app.queue("other").stats().ready == 1


def test_any_text_may_be_a_user(app: App) -> None:
    assert len({box_of(user) for user in HOSTILE}) == len(HOSTILE)
    for user in HOSTILE:
        app.notifications.put(user, f"for {user!r}")
    for user in HOSTILE:
        [told] = app.notifications.list(user)
        assert (told.user, told.message) == (user, f"for {user!r}")


def test_wrong_use_is_an_error(app: App) -> None:
    with pytest.raises(ConfigError, match="a user who is notified is empty"):
        app.notifications.put("", "a")
    with pytest.raises(TypeError, match="a user who is notified is a text"):
        app.notifications.list(7)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at most 200 characters"):
        app.notifications.count("a" * 201)
    with pytest.raises(ConfigError, match="not valid Unicode"):
        app.notifications.put("\udcff", "a")
    with pytest.raises(ConfigError, match="message of a notification is empty"):
        app.notifications.put("ada", "")
    with pytest.raises(PayloadError, match="after json"):
        app.notifications.put("ada", "a", data={1, 2})
    with pytest.raises(PayloadError, match="takes 65536 bytes of data"):
        app.notifications.put("ada", "a", data="x" * record.MAX_DATA)
    with pytest.raises(ConfigError, match="limit=0"):
        app.notifications.list("ada", limit=0)
    assert app.notifications.count("ada", None) == 0


def test_a_long_message_is_cut(app: App) -> None:
    app.notifications.put("ada", "x" * 5000)
    assert messages(app, "ada") == ["x" * 999 + "…"]


def test_one_put_by_a_task_names_its_event(app: App) -> None:
    @app.task(name="w")
    def work_and_tell() -> None:
        app.notifications.put("ada", "half way", done=0.5)

    handle = work_and_tell.using(headers={"correlation_id": "order 7"}).enqueue()
    work(app)
    [told] = app.notifications.list("ada")
    assert (told.event, told.correlation_id, told.kind) == (handle.id, "order 7", "")


def test_others_see_what_one_process_changes(open_app: OpenApp) -> None:
    first, second = open_app(), open_app()
    id = first.notifications.put("ada", "a")
    assert second.notifications.read("ada", id) == 1
    assert first.notifications.count("ada") == 0
    assert second.notifications.unread("ada", id) == 1
    assert first.notifications.count("ada") == 1


def test_awaited(app: App) -> None:
    async def main() -> None:
        told = app.notifications.aio
        id = await told.put("ada", "a", n=1)
        assert await told.count("ada") == 1
        assert await told.read("ada", id) == 1
        assert [each.data for each in await told.list("ada", unread=False)] == [{"n": 1}]
        assert await told.unread("ada", id) == 1
        assert await told.read_all("ada") == 1
        assert await told.remove("ada", id) == 1
        assert await told.prune() == 0

    asyncio.run(main())


# ---------------------------------------------------------------- what is no notification


def test_a_queue_of_that_name_may_hold_something_else(app: App, clock: FakeClock) -> None:
    """A program may have called a queue of its own so, long before."""
    mails = app.queue("notifications-email")
    event = mails.put({"to": "ada"})
    assert app.notifications.list("email") == []
    assert app.notifications.remove("email", event) == app.notifications.read("email", event) == 0
    clock.advance(31 * DAY)
    assert (app.notifications.count("email", None), app.notifications.prune("email")) == (0, 0)
    assert mails.stats().ready == 1


def test_one_that_cannot_be_read_does_not_hide_the_others(app: App) -> None:
    app.notifications.put("ada", "a")
    app.queue(box_of("ada")).put({"by": "hand"}, headers={HEADER: True})
    app.notifications.put("ada", "b")
    found = app.notifications.list("ada")
    assert [each.message for each in found] == ["b", "a notification that cannot be read here", "a"]
    assert "`user`" in found[1].left_out


# ---------------------------------------------------------------- retention


def test_an_unread_one_goes_after_its_time(app: App, clock: FakeClock) -> None:
    app.notifications.put("ada", "old")
    clock.advance(29 * DAY)
    app.notifications.put("ada", "young")
    app.notifications.put("bob", "young")
    clock.advance(2 * DAY)
    assert messages(app, "ada") == ["young"], "it is not shown, whether it was pruned or not"
    assert app.notifications.count("ada") == 1
    assert app.store.storage.stats(box_of("ada")).ready == 2
    assert app.notifications.prune("bob") == 0
    assert app.notifications.prune() == 1
    assert app.store.storage.stats(box_of("ada")).ready == 1
    assert messages(app, "bob") == ["young"]


def test_one_that_was_read_goes_two_weeks_after_that(app: App, clock: FakeClock) -> None:
    id = app.notifications.put("ada", "a")
    clock.advance(DAY)
    app.notifications.read("ada", id)
    clock.advance(13 * DAY)
    app.notifications.prune()
    assert messages(app, "ada") == ["a"]
    clock.advance(1.1 * DAY)
    app.notifications.prune()
    assert messages(app, "ada") == []


def test_one_that_was_read_late_goes_with_the_others(app: App, clock: FakeClock) -> None:
    id = app.notifications.put("ada", "a")
    clock.advance(29 * DAY)
    app.notifications.read("ada", id)
    clock.advance(2 * DAY)
    assert messages(app, "ada") == []
    assert app.notifications.prune("ada") == 1
    assert app.notifications.unread("ada", id) == 0


def test_the_time_is_configured(open_app: OpenApp, clock: FakeClock) -> None:
    app = open_app(keep_notifications=60)
    app.notifications.put("ada", "a")
    clock.advance(59)
    assert messages(app, "ada") == ["a"]
    clock.advance(2)
    assert messages(app, "ada") == []
    with pytest.raises(ConfigError, match="keep_notifications"):
        open_app(keep_notifications=-1)


def test_workers_prune(open_app: OpenApp, clock: FakeClock) -> None:
    app = open_app()
    for user in ("ada", "bob"):
        app.notifications.put(user, "a")
    clock.advance(31 * DAY)
    worker = open_app().worker(["default"])
    with worker:
        for user in ("ada", "bob"):
            until_gone(app, user)


def until_gone(app: App, user: str) -> None:
    from tasks.running import until

    until(lambda: not app.store.storage.stats(box_of(user)).ready, f"what {user} was told is pruned")


def test_not_more_than_so_many_unread_ones_stay(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST_UNREAD == 10_000
    monkeypatch.setattr("eventq.notifications.MOST_UNREAD", 3)
    for number in range(5):
        app.notifications.put("ada", str(number))
    assert app.notifications.prune("ada") == 2
    assert messages(app, "ada") == ["4", "3", "2"]


def test_the_queue_is_like_others(app: App) -> None:
    """Whoever looks into the store finds them without this module."""
    id = app.notifications.put("ada", "a")
    found = app.get(id)
    assert found is not None
    assert (found.queue, found.state) == ("notifications-ada", State.READY)

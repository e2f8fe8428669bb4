"""`eventq notifications`: what a user was told, from a shell."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import Run

from eventq import App
from eventq.model import State


@pytest.fixture
def ids(store: str) -> Iterator[list[str]]:
    """Three notifications of ada's, and one of bob's: their ids."""
    with App(store) as app:

        @app.task(name="shop.mail", notify="ada", max_attempts=1)
        def mail() -> None:
            raise OSError("no route")

        put = [app.notifications.put("ada", "first"), app.notifications.put("bob", "\x1b[2Jfor bob", free=0)]
        put.append(app.notifications.put("ada", "x" * 200))
        mail.enqueue()
        app.worker().run(burst=True)
        yield [*put, app.notifications.list("ada")[0].id]


def test_listing(run: Run, ids: list[str]) -> None:
    done = run("notifications", "ada")
    assert (done.code, done.err) == (0, "")
    assert done.lines[0].split() == ["NEW", "AT", "ID", "MESSAGE"]
    assert [line.split()[:1] + line.split()[3:4] for line in done.lines[1:]] == [
        ["*", ids[3]], ["*", ids[2]], ["*", ids[0]],
    ]  # fmt: skip
    assert done.lines[1].endswith("shop.mail has failed: OSError: no route")
    assert done.lines[2].endswith("xxx…")
    assert len(run("notifications", "ada", "--limit", "1").lines) == 2
    assert run("notifications", "cyd").out == "no notifications\n"
    assert run("notifications", "cyd", "--json").json == []


def test_as_json(run: Run, ids: list[str]) -> None:
    failed, _, first = run("notifications", "ada", "--json").json
    assert (failed["id"], failed["status"], failed["kind"], failed["name"]) == (ids[3], "dead", "task", "shop.mail")
    assert (failed["exit_code"], failed["error"]["message"], failed["user"]) == (1, "no route", "ada")
    assert (first["id"], first["message"], first["unread"], first["read_at"]) == (ids[0], "first", True, None)
    assert first["at"].endswith("Z")
    [told] = run("notifications", "bob", "--json").json
    assert (told["message"], told["data"]) == ("\x1b[2Jfor bob", {"free": 0})
    assert "\\x1b[2Jfor bob" in run("notifications", "bob").out


def test_marking_as_read(run: Run, ids: list[str]) -> None:
    done = run("notifications", "ada", "--read", ids[0], ids[2])
    assert (done.code, done.out) == (0, "2 marked as read\n")
    assert [each["id"] for each in run("notifications", "ada", "--unread", "--json").json] == [ids[3]]
    assert [line[:1] for line in run("notifications", "ada").lines[1:]] == ["*", " ", " "]
    assert run("notifications", "ada", "--read-all", "--json").json == {"user": "ada", "read": 1}
    assert run("notifications", "ada", "--unread").out == "no unread notifications\n"
    assert run("notifications", "ada", "--read-all").out == "0 marked as read\n"
    read = run("notifications", "ada", "--json").json
    assert all(each["read_at"] and not each["unread"] for each in read)
    assert len(run("notifications", "bob", "--unread", "--json").json) == 1


def test_anothers_cannot_be_marked(run: Run, ids: list[str]) -> None:
    done = run("notifications", "ada", "--read", ids[1])
    assert (done.code, done.out) == (1, "")
    assert done.err == "eventq: none of these is an unread notification of 'ada'\n"
    assert run("notifications", "bob", "--json").json[0]["unread"] is True


def test_wrong_use(run: Run, ids: list[str]) -> None:
    for args in (
        [], [""], ["ada", "--read"], ["ada", "--read", "no-id"], ["ada", "--limit", "0"],
        ["ada", "--read-all", "--unread"], ["ada", "--read", ids[0], "--read-all"], ["a" * 201],
    ):  # fmt: skip
        assert run("notifications", *args).code == 2, args


def test_what_is_told_is_an_event_like_others(run: Run, ids: list[str]) -> None:
    assert run("show", ids[0], "--json").json["state"] == State.READY

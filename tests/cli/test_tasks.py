"""`eventq disable` and `eventq enable`: switching tasks off and on from a shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eventq import App

if TYPE_CHECKING:
    from conftest import Run


def test_off_and_on(run: Run, store: str) -> None:
    run("put", "q", "1")
    done = run("disable", "shop.mail", "--reason", "the server moves", "--by", "ada")
    assert (done.code, done.out) == (0, "shop.mail is off until 'eventq enable': its calls wait, what runs goes on\n")
    with App(store) as app:
        [about] = app.disabled()
        assert (about.task, about.by, about.reason) == ("shop.mail", "ada", "the server moves")
    assert run("disable", "shop.mail").out == "shop.mail was off before, and stays so\n"
    done = run("enable", "shop.mail")
    assert (done.code, done.out) == (0, "shop.mail is on; the calls that waited come back by themselves\n")
    done = run("enable", "shop.mail")
    assert (done.code, done.out) == (1, "")
    assert done.err == "eventq: the task 'shop.mail' is not off; 'eventq disable' lists those that are\n"


def test_listing(run: Run) -> None:
    run("put", "q", "1")
    assert run("disable").out == "no task is off\n"
    assert run("disable", "--json").json == []
    run("disable", "b.task", "--by", "ada")
    run("disable", "a.task", "--reason", "why\x1b[2J not")
    lines = run("disable").lines
    assert lines[0].split() == ["TASK", "SINCE", "BY", "REASON"]
    assert [line.split()[0] for line in lines[1:]] == ["a.task", "b.task"]
    assert lines[1].endswith("why\\x1b[2J not")
    assert lines[2].split()[-2:] == ["ada", "-"]
    first, second = run("disable", "--json").json
    assert (first["task"], first["reason"]) == ("a.task", "why\x1b[2J not")
    assert (second["task"], second["by"], second["reason"]) == ("b.task", "ada", "")
    assert second["since"].endswith("Z")


def test_as_json(run: Run) -> None:
    run("put", "q", "1")
    assert run("disable", "w", "--json").json == {"task": "w", "disabled": True, "was_disabled": False}
    assert run("disable", "w", "--json").json == {"task": "w", "disabled": True, "was_disabled": True}
    assert run("enable", "w", "--json").json == {"task": "w", "disabled": False}


def test_wrong_use(run: Run) -> None:
    run("put", "q", "1")
    assert run("disable", "--reason", "why").code == 2
    assert run("disable", "").code == 2
    assert run("enable").code == 2

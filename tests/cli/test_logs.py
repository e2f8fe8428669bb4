"""`eventq logs`: the output of an event's runs, afterwards and while it comes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Ran, Run, ended

from eventq import App, Claim
from eventq.cli.logs import Lines, Output
from eventq.model import Completed

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

ID = "18ea0184bd2f4700714f1543ee2de643000001.00000"


@pytest.fixture
def app(store: str) -> Iterator[App]:
    with App(store) as app:
        yield app


def claimed(app: App) -> Claim[Any]:
    app.queue("q").put("x")
    claim = app.queue("q").claim()
    assert claim is not None
    return claim


def write(claim: Claim[Any], text: str, stream: str = "stdout") -> None:
    claim.note("output", {"stream": stream, "text": text})


def test_output_of_an_event(run: Run, app: App) -> None:
    claim = claimed(app)
    write(claim, "one\ntwo\n")
    claim.progress(1, 2)
    write(claim, "WARNING shop: late\n", "log")
    write(claim, "thr")
    write(claim, "oops\n", "stderr")
    write(claim, "ee\nno end")
    assert run("logs", claim.id) == Ran(0, "one\ntwo\nWARNING shop: late\noops\nthree\nno end\n", "")
    claim.settle(Completed(b"null"))
    assert run("logs", claim.id).lines[-1] == "no end"
    assert run("logs", claim.id, "-f").lines[-1] == "no end"


def test_streams_and_times(run: Run, app: App) -> None:
    claim = claimed(app)
    write(claim, "one\n")
    write(claim, "oops\n", "stderr")
    assert run("logs", claim.id, "--stream").lines == ["stdout  one", "stderr  oops"]
    for line, rest in zip(
        run("logs", claim.id, "--times", "--stream").lines, ("stdout  one", "stderr  oops"), strict=True
    ):
        assert re.fullmatch(rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{{3}}  {rest}", line)


def test_json_lines(run: Run, app: App) -> None:
    claim = claimed(app)
    write(claim, "one\ntwo")
    write(claim, "oops\n", "stderr")
    found = [json.loads(line) for line in run("logs", claim.id, "--json").lines]
    assert [(each["stream"], each["text"]) for each in found] == [("stdout", "one\ntwo"), ("stderr", "oops\n")]
    assert all(each["at"].endswith("Z") for each in found)


def test_all_attempts_are_there(run: Run, app: App) -> None:
    claim = claimed(app)
    write(claim, "first\n")
    claim.retry(delay=0)
    again = app.queue("q").claim()
    assert again is not None
    write(again, "second\n")
    assert run("logs", claim.id).lines == ["first", "second"]


def test_what_was_not_kept_is_said(run: Run, app: App) -> None:
    claim = claimed(app)
    for n in range(12):
        write(claim, f"{n} " + "x" * (200 << 10) + "\n")
    done = run("logs", claim.id)
    assert re.fullmatch(r"\d+ notes before this: too many to be kept\n", done.err)
    assert int(done.err.split()[0]) + len(done.lines) == 12
    assert done.lines[-1].startswith("11 ")


def test_an_event_that_wrote_nothing(run: Run, app: App) -> None:
    assert run("logs", app.queue("q").put("x")) == Ran(0, "", "")


def test_an_unknown_event(run: Run, app: App) -> None:
    done = run("logs", ID)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"eventq: no event {ID}: it ended without a record, or was pruned\n"
    assert run("logs", ID, "-f").code == 1
    assert run("logs", "../../etc/passwd").code == 2


def test_following_ends_with_the_event(app: App, start: Callable[..., subprocess.Popen[str]], store: str) -> None:
    claim = claimed(app)
    write(claim, "before\n")
    process = start("logs", claim.id, "-f")
    assert process.stdout is not None
    assert process.stdout.readline() == "before\n"
    write(claim, "while it ")
    write(claim, "runs\n")
    assert process.stdout.readline() == "while it runs\n"
    write(claim, "the last")
    claim.settle(Completed(b"null"))
    assert ended(process) == Ran(0, "the last\n", "")


@pytest.mark.exhaustive
def test_following_one_that_expires_unstarted_ends(run: Run, app: App) -> None:
    id = app.queue("q").put("x", expires=0.3)
    assert run("logs", id, "--follow") == Ran(0, "", "")


def test_output_cannot_steer_the_terminal(run: Run, app: App) -> None:
    claim = claimed(app)
    write(claim, "a\x1b[2J\tb\rc\u202e\r\n")
    write(claim, "d\n", "x\x1b[2J")
    for options in ([], ["--stream"], ["--json"]):
        done = run("logs", claim.id, *options)
        assert done.out.replace("\n", "").isprintable()
    assert run("logs", claim.id).lines[0] == r"a\x1b[2J   b\rc\u202e"


def test_a_note_that_is_no_output(run: Run, app: App) -> None:
    claim = claimed(app)
    claim.note("output", "hello")
    write(claim, "one\n")
    done = run("logs", claim.id)
    assert (done.code, done.out) == (0, "one\n")
    assert "holds none" in done.err


def test_lines_keep_the_time_of_their_beginning() -> None:
    lines = Lines()
    assert list(lines.of(1.0, Output("a", "x"))) == []
    assert list(lines.of(2.0, Output("b", "y\nz"))) == [(2.0, "b", "y")]
    assert list(lines.of(3.0, Output("a", "1\n2\n3"))) == [(1.0, "a", "x1"), (3.0, "a", "2")]
    assert list(lines.rest()) == [(2.0, "b", "z"), (3.0, "a", "3")]
    assert list(lines.rest()) == []

"""The same commands over another kind of store: they know only what every storage promises."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from eventq import App

if TYPE_CHECKING:
    from conftest import Ran, Run


def test_a_day_in_the_life(eventq: Run) -> None:
    url = f"memory://{secrets.token_hex(4)}"
    with App(url) as app:

        def run(*args: str, stdin: bytes = b"") -> Ran:
            return eventq("--store", url, *args, stdin=stdin)

        first = run("put", "q", '{"n": 1}', "--header", "user=ann").out.strip()
        assert run("put", "q", "--lines", stdin=b"2\n3\n4\n").code == 0
        assert run("list", "q", "--limit", "3", "--json").json["cursor"] is not None
        assert run("show", first, "--json").json["headers"] == {"user": "ann"}
        assert run("work", "q", "--exec", "exit 65", "--burst").code == 1
        assert run("status", "--json").json["queues"][0]["dead"] == 4
        assert run("retry", first).out == f"{first}  requeued\n"
        assert run("work", "q", "--exec", "cat", "--result", "json", "--burst").code == 0
        assert app.handle(first).result(timeout=0) == {"n": 1}
        assert run("prune", "--older", "0", "--state", "dead").out == "pruned 3 from q\n"
        assert run("pause", "q").code == run("resume", "q").code == 0
        put = run("put", "q", "5").out.strip()
        assert run("move", put, "--to", "other").out == f"{put}  moved\n"
        assert run("cancel", "--queue", "other").out == "1 cancelled\n"
        assert len(run("export").lines) == 2
        assert run("purge", "other", "--all").out == "1 deleted\n"
        assert run("purge", "q", "--drop").code == 0
        assert "q" not in app.queues()


def test_what_needs_a_directory_says_so(eventq: Run) -> None:
    for command in ("doctor", "fsck", "bench"):
        done = eventq("--store", "memory://", command)
        assert done.code == 2
        assert len(done.err.splitlines()) == 1

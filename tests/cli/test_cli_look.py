"""`eventq status`, `list`, `show`, `workers` and `tail`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from conftest import Run, ended

from eventq import App
from eventq.cli.tail import Follower

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable


def put_lines(run: Run, queue: str, number: int) -> None:
    run("put", queue, "--lines", stdin=b"".join(b"%d\n" % n for n in range(number)))


def test_status_counts_by_state(run: Run, store: str) -> None:
    put_lines(run, "a", 4)
    run("put", "a", "1", "--delay", "1h")
    run("put", "b", "1")
    with App(store) as app:
        queue = app.queue("a")
        first, second = queue.claim(), queue.claim()
        assert first is not None
        assert second is not None
        first.complete("kept")
        second.reject("no good")
        third = queue.claim()
        document = run("status", "--json").json
        table = run("status").lines
        assert third is not None
        third.release()
    a, b = document["queues"]
    assert [a[state] for state in ("ready", "delayed", "claimed", "completed", "dead")] == [1, 1, 1, 1, 1]
    assert (b["queue"], b["ready"], b["expired"], b["cancelled"]) == ("b", 1, 0, 0)
    assert b["oldest_ready"] > 0
    assert table[0].split()[:4] == ["QUEUE", "READY", "DELAYED", "CLAIMED"]
    assert table[1].split()[:6] == ["a", "1", "1", "1", "1", "1"]
    assert any(line.startswith("nobody claims from:") and "b" in line for line in table)


def test_status_of_one_queue_and_of_none(run: Run, store: str) -> None:
    with App(store):
        pass
    assert run("status").out.startswith("no queues in ")
    put_lines(run, "a", 1)
    put_lines(run, "b", 1)
    assert [queue["queue"] for queue in run("status", "b", "--json").json["queues"]] == ["b"]


def test_list_pages_over_states(run: Run, store: str) -> None:
    put_lines(run, "q", 9)
    for n in range(3):
        run("put", "q", f'"late {n}"', "--delay", "1h")
    everything = run("list", "q", "--json").json
    assert everything["cursor"] is None
    assert len(everything["events"]) == 12
    found, cursor, sizes = [], None, []
    while True:
        options = ["--cursor", cursor] if cursor else []
        page = run("list", "q", "--limit", "5", "--json", *options).json
        found += page["events"]
        sizes.append(len(page["events"]))
        cursor = page["cursor"]
        if cursor is None:
            break
    assert found == everything["events"]
    assert sizes in ([5, 5, 2], [5, 5, 2, 0])
    assert (
        f"more: --cursor {run('list', 'q', '--limit', '5', '--json').json['cursor']}"
        in run("list", "q", "--limit", "5").err
    )


def test_list_filters(run: Run) -> None:
    run("put", "q", "1", "--header", "user=ann")
    run("put", "q", "2", "--header", "user=bob", "--delay", "1h")

    def payloads(*options: str) -> list[int]:
        return [event["payload"] for event in run("list", "q", "--json", *options).json["events"]]

    assert payloads() == [1, 2]
    assert payloads("--header", "user=bob") == [2]
    assert payloads("--state", "ready") == [1]
    assert payloads("--state", "delayed", "--state", "ready") == [1, 2]
    assert payloads("--since", "1h") == [1, 2]
    assert payloads("--until", "1h") == []
    assert payloads("--until", "2999-01-01T00:00Z", "--since", "2020-01-01") == [1, 2]
    assert payloads("--worker", "0" * 16) == []


def test_an_empty_list_exits_1(run: Run) -> None:
    run("put", "q", "1")
    done = run("list", "q", "--state", "dead")
    assert (done.code, done.out) == (1, "")
    assert run("list", "q", "--state", "dead", "--json").json == {"events": [], "cursor": None}


def test_wrong_list_options(run: Run) -> None:
    run("put", "q", "1")
    for options in (
        ["--limit", "-1"],
        ["--state", "gone"],
        ["--cursor", "x"],
        ["--cursor", "x:y"],
        ["--since", "never"],
    ):
        assert run("list", "q", *options).code == 2, options


def test_list_shortens_payloads(run: Run) -> None:
    run("put", "q", json.dumps("x" * 1000))
    line = run("list", "q").lines[1]
    assert line.endswith("…")
    assert len(line) < 160


def test_show_tells_the_whole_life(run: Run, store: str) -> None:
    id = run("put", "q", '{"a": [1, 2]}', "--header", "user=ann").out.strip()
    with App(store) as app:
        claim = app.queue("q").claim()
        assert claim is not None
        claim.progress(3, 10, "reading")
        try:
            raise RuntimeError("the disk is on fire")
        except RuntimeError as error:
            claim.retry(delay=0, error=error)
        claim = app.queue("q").claim()
        assert claim is not None
        claim.complete({"total": 3})
    text = run("show", id).out
    for part in (
        '{"a":[1,2]}',
        "completed",
        'user = "ann"',
        '{"total":3}',
        "1 failed",
        "the disk is on fire",
        "Traceback",
    ):
        assert part in text, part
    document = run("show", id, "--json").json
    assert document["value"] == {"total": 3}
    assert [attempt["outcome"] for attempt in document["attempts"]] == ["failed", "completed"]
    assert document["attempts"][0]["error"]["type"] == "RuntimeError"
    assert document["notes"][0]["data"] == {"done": 3, "total": 10, "note": "reading"}
    assert document["created"].endswith("Z")


def test_show_of_an_unknown_event(run: Run) -> None:
    run("put", "q", "1")
    done = run("show", "18ea0184bd2f4700714f1543ee2de643000001.00000")
    assert (done.code, done.out) == (1, "")
    assert run("show", "../../etc/passwd").code == 2


def test_other_codecs_are_shown_as_bytes(run: Run, store: str) -> None:
    with App(store, codec="msgpack") as app:
        id = app.queue("q").put({"a": 1})
    document = run("show", id, "--json").json
    assert document["payload_codec"] == "msgpack"
    assert "msgpack, 4 bytes" in run("show", id).out
    assert "msgpack, 4 bytes" in run("list", "q").out


def test_workers_and_what_they_run(run: Run, store: str) -> None:
    run("put", "q", "1")
    with App(store) as app:
        claim = app.queue("q").claim()
        assert claim is not None
        (worker,) = [worker for worker in run("workers", "--json").json if worker["claims"]]
        assert worker["claims"] == [claim.id]
        assert worker["id"] == app.store.storage.worker
        table = run("workers").out
        assert claim.id in table
        assert worker["id"] in table
        claim.complete()
    assert run("workers").out == "no living workers\n"
    assert run("workers", "--json").json == []


def test_tail_shows_arrivals_and_ends(run: Run, store: str, start: Callable[..., subprocess.Popen[str]]) -> None:
    old = run("put", "q", '"old"').out.strip()
    process = start("tail", "q", "--json", "--count", "5")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("following q")
    with App(store) as app:
        queue = app.queue("q")
        first = queue.claim()
        assert first is not None
        first.complete("done")
        new = queue.put("new")
        second = queue.claim()
        assert second is not None
        second.reject("bad")
        silent = queue.put("silent")
        seen: list[dict[str, str]] = []
        assert process.stdout is not None
        while not any(line["id"] == silent for line in seen):
            seen.append(json.loads(process.stdout.readline()))
        third = queue.claim()
        assert third is not None
        third.complete()
        done = ended(process)
    assert done.code == 0
    seen += [json.loads(line) for line in done.lines]
    changes = {(line["what"], line["id"]) for line in seen}
    assert changes >= {("completed", old), ("put", new), ("dead", new), ("put", silent), ("gone", silent)}


def test_tail_ends_after_its_time(run: Run) -> None:
    run("put", "q", "1")
    done = run("tail", "q", "--for", "0.01")
    assert (done.code, done.out) == (0, "")


def test_tail_takes_no_wake_from_a_worker(run: Run, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A watch takes one wake each; a tail that waited on one would let an idle worker sleep."""
    run("put", "q", "1")
    with App(store) as app:
        storage = app.store.storage

        def watch(*args: object, **options: object) -> None:
            raise AssertionError("a tail waits on the queue's watch")

        monkeypatch.setattr(type(storage), "watch", watch)
        with pytest.raises(AssertionError):
            app.queue("empty").claim(timeout=1)  # the trap works
        follower = Follower(storage, "q")
        id = app.queue("q").put(2)
        assert [(what, changed) for what, changed, _ in follower.look()] == [("put", id)]
        assert list(follower.look()) == []

"""`eventq retry`, `cancel`, `move`, `purge`, `pause`, `resume` and `prune`."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Run

from eventq import App
from eventq.cli import edits

UNKNOWN = "18ea0184bd2f4700714f1543ee2de643000001.00000"


def kill_events(store: str, *payloads: Any, queue: str = "q") -> list[str]:
    """Put events and make them dead letters."""
    with App(store) as app:
        ids = app.queue(queue).put_many(payloads)
        for _ in ids:
            claim = app.queue(queue).claim()
            assert claim is not None
            claim.reject("bad")
    return ids


def counts(run: Run, queue: str = "q") -> dict[str, int]:
    found = run("status", queue, "--json").json["queues"][0]
    return {name: number for name, number in found.items() if isinstance(number, int) and number and name != "paused"}


def test_retry_by_id(run: Run, store: str) -> None:
    first, second = kill_events(store, 1, 2)
    done = run("retry", first)
    assert (done.code, done.out) == (0, f"{first}  requeued\n")
    assert counts(run) == {"ready": 1, "dead": 1}
    assert run("show", second, "--json").json["state"] == "dead"


def test_retry_of_a_whole_queue(run: Run, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edits, "BATCH", 20)
    kill_events(store, *range(120))
    assert run("retry", "--queue", "q", "--dry-run").out == "120 chosen\n"
    assert counts(run) == {"dead": 120}
    assert run("retry", "--queue", "q", "--limit", "30").out == "30 requeued\n"
    assert run("retry", "--queue", "q", "--json").json["counts"] == {"requeued": 90}
    assert counts(run) == {"ready": 120}
    assert run("retry", "--queue", "q").code == 1  # nothing is left


def test_retry_replays_completed_events_as_new_ones(run: Run, store: str) -> None:
    with App(store) as app:
        id = app.queue("q").put("again")
        claim = app.queue("q").claim()
        assert claim is not None
        claim.complete("done")
    (entry,) = run("retry", id, "--json").json["events"]
    assert entry["new_id"] != id
    assert run("show", entry["new_id"], "--json").json["payload"] == "again"
    assert counts(run) == {"ready": 1, "completed": 1}


def test_ids_come_from_stdin(run: Run, store: str) -> None:
    ids = kill_events(store, 1, 2, 3)
    done = run("retry", "-", stdin="\n".join(ids).encode())
    assert done.code == 0
    assert counts(run) == {"ready": 3}


def test_an_unknown_id_exits_1_after_the_others_were_done(run: Run, store: str) -> None:
    (id,) = kill_events(store, 1)
    done = run("retry", UNKNOWN, id)
    assert done.code == 1
    assert f"{UNKNOWN}  unknown" in done.lines
    assert f"{id}  requeued" in done.lines
    assert "1 requeued, 1 unknown" in done.lines
    assert counts(run) == {"ready": 1}


def test_cancel(run: Run, store: str) -> None:
    id = run("put", "q", "1").out.strip()
    assert run("cancel", id, "--reason", "not wanted").out == f"{id}  cancelled\n"
    event = run("show", id, "--json").json
    assert (event["state"], "not wanted" in str(event["failure"])) == ("cancelled", True)
    done = run("cancel", id)
    assert (done.code, done.out) == (1, f"{id}  too late\n")


def test_cancel_asks_the_holder_of_a_claimed_event(run: Run, store: str) -> None:
    with App(store) as app:
        id = app.queue("q").put(1)
        claim = app.queue("q").claim()
        assert claim is not None
        done = run("cancel", "--queue", "q")
        assert (done.code, done.out) == (0, f"{id}  requested\n")
        claim.complete()


def test_move(run: Run) -> None:
    id = run("put", "q", "1").out.strip()
    run("put", "q", "2", "--delay", "1h")
    assert run("move", "--queue", "q", "--to", "other").out == "2 moved\n"
    assert counts(run, "other") == {"ready": 1, "delayed": 1}
    assert run("show", id, "--json").json["queue"] == "other"
    assert run("move", id, "--to", "q").code == 0
    assert counts(run) == {"ready": 1}
    assert run("move", "--queue", "q", "--to", "q").code == 2


def test_filters_choose(run: Run) -> None:
    run("put", "q", "1", "--header", "user=ann")
    run("put", "q", "2", "--header", "user=bob")
    assert run("cancel", "--queue", "q", "--header", "user=bob").out == "1 cancelled\n"
    assert [event["payload"] for event in run("list", "q", "--state", "ready", "--json").json["events"]] == [1]


def test_purge(run: Run, store: str) -> None:
    kill_events(store, 1, 2)
    run("put", "q", "3")
    assert run("purge", "q").code == 2  # everything, or a state: it must be said
    assert run("purge", "q", "--all", "--dry-run").out == "3 chosen\n"
    assert run("purge", "q", "--state", "dead").out == "2 deleted\n"
    assert counts(run) == {"ready": 1}
    assert run("purge", "q", "--all", "--json").json["counts"] == {"deleted": 1}
    assert counts(run) == {}
    assert run("purge", "q", "--all").code == 1


def test_purge_can_drop_the_queue(run: Run, store: str) -> None:
    kill_events(store, 1)
    run("put", "q", "2")
    assert run("purge", "q", "--drop", "--since", "1h").code == 2
    assert run("purge", "q", "--drop", "--dry-run").out == "would drop q with 2 events\n"
    assert run("purge", "q", "--drop").out == "dropped q with 2 events\n"
    assert run("status", "--json").json["queues"] == []


@pytest.mark.parametrize(
    "args",
    [
        ["retry"],
        ["retry", "no-id"],
        ["retry", UNKNOWN, "--queue", "q"],
        ["retry", UNKNOWN, "--state", "dead"],
        ["retry", UNKNOWN, "--limit", "3"],
        ["cancel", UNKNOWN, "--since", "1h"],
        ["move", UNKNOWN],
        ["purge", "q", "--all", "--state", "dead"],
    ],
)
def test_what_cannot_be_meant_is_refused(run: Run, args: list[str]) -> None:
    run("put", "q", "1")
    assert run(*args).code == 2
    assert counts(run) == {"ready": 1}


def test_pause_and_resume(run: Run, store: str) -> None:
    run("put", "q", "1")
    done = run("pause", "q")
    assert (done.code, done.out) == (0, "q is paused until 'eventq resume'; what runs already goes on\n")
    with App(store) as app:
        assert app.queue("q").claim() is None
    assert run("status", "--json").json["queues"][0]["paused"] is True
    assert run("status").lines[1].split()[-1] == "yes"
    assert run("resume", "q", "--json").json == {"queue": "q", "paused": False, "paused_until": None}
    with App(store) as app:
        assert app.queue("q").claim() is not None


def test_a_pause_may_end_by_itself(run: Run) -> None:
    run("put", "q", "1")
    assert run("pause", "q", "--for", "10m").out.startswith("q is paused for 10m;")
    assert "for 10m" in run("status").lines[1]
    assert run("status", "--json").json["queues"][0]["paused_until"].endswith("Z")
    run("pause", "q", "--for", "0")
    assert run("status", "--json").json["queues"][0]["paused"] is False


def test_prune(run: Run, store: str) -> None:
    kill_events(store, *range(3))
    with App(store) as app:
        app.queue("q").put("kept")
        claim = app.queue("q").claim()
        assert claim is not None
        claim.complete("value")
    run("put", "q", "4")
    assert run("prune", "--json").json["pruned"] == {"q": 0}  # nothing is past its retention
    assert run("prune", "q", "--older", "0", "--state", "dead", "--dry-run").out == "would prune 3 from q\n"
    assert run("prune", "q", "--older", "0", "--state", "dead").out == "pruned 3 from q\n"
    assert run("prune", "--older", "0").out == "pruned 1 from q\n"
    assert counts(run) == {"ready": 1}
    assert run("prune", "--state", "ready").code == 2

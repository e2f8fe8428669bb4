"""`eventq export` and `import`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import Run

from eventq import App
from eventq.model import Filter, PutOptions, State
from eventq.storage import open_storage


def test_events_survive_the_journey(run: Run, eventq: Run, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    run("put", "a", '{"n": 1}', "--header", "user=ann", "--priority", "7")
    run("put", "a", '"later"', "--delay", "1h", "--expires", "2h", "--key", "k", "--limit", "c=3", "--rate", "r=9/2m")
    run("put", "b", "--lines", stdin=b"".join(b"%d\n" % n for n in range(20)))
    exported = run("export")
    assert exported.code == 0
    assert exported.err == "exported 22 events\n"
    imported = eventq("--store", other, "import", stdin=exported.out.encode())
    assert (imported.code, imported.out) == (0, "imported 22 events under new ids\n")
    again = eventq("--store", other, "export")

    def kept(line: str) -> dict[str, object]:
        event = json.loads(line)
        return {name: value for name, value in event.items() if name not in ("id", "created")}

    before, after = exported.out.splitlines(), again.out.splitlines()
    assert [kept(line) for line in before] == [kept(line) for line in after]
    assert {json.loads(line)["id"] for line in before}.isdisjoint({json.loads(line)["id"] for line in after})


def test_claimed_events_become_ready_and_ended_ones_stay(run: Run, eventq: Run, store: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    with App(store) as app:
        queue = app.queue("q")
        queue.put_many(["completed", "dead", "claimed"])
        first, second, third = (queue.claim() for _ in range(3))
        assert first is not None
        assert second is not None
        assert third is not None
        first.complete("value")
        second.reject("bad")
        exported = run("export", "q").out
        third.complete()
    assert [json.loads(line)["state"] for line in exported.splitlines()] == ["claimed", "completed", "dead"]
    done = eventq("--store", other, "import", "--json", stdin=exported.encode())
    assert done.json == {"imported": 1, "skipped": 2, "held_keys": 0}
    done = eventq("--store", other, "import", "--state", "dead", "--to", "again", stdin=exported.encode())
    assert done.code == 0
    (event,) = eventq("--store", other, "list", "again", "--json").json["events"]
    assert (event["payload"], event["state"], event["failures"]) == ("dead", "ready", 0)


def test_export_chooses(run: Run) -> None:
    run("put", "a", "1", "--header", "user=ann")
    run("put", "a", "2", "--delay", "1h")
    run("put", "b", "3")

    def payloads(*args: str) -> list[int]:
        return [json.loads(line)["payload"] for line in run("export", *args).lines]

    assert payloads() == [1, 2, 3]
    assert payloads("a") == [1, 2]
    assert payloads("--state", "delayed") == [2]
    assert payloads("--header", "user=ann") == [1]
    assert run("export", "--state", "dead").code == 1


def test_other_codecs_travel(run: Run, eventq: Run, store: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    with App(store, codec="msgpack") as app:
        app.queue("q").put({"when": 1.5, "what": "x"})
    eventq("--store", other, "import", stdin=run("export").out.encode())
    with App(other) as app:
        claim = app.queue("q").claim()
        assert claim is not None
        assert claim.event.payload == {"when": 1.5, "what": "x"}
        claim.complete()


def test_imported_events_wait_for_their_rates(run: Run, eventq: Run, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    run("put", "q", "--lines", "--rate", "r=2/1h", stdin=b"1\n2\n3\n")
    eventq("--store", other, "import", stdin=run("export").out.encode())
    with App(other) as app:
        queue = app.queue("q")
        claims = queue.claim_many(3)
        assert [claim.event.payload for claim in claims] == [1, 2]
        assert queue.claim() is None
        for claim in claims:
            claim.complete()


def test_what_was_said_of_an_event_travels_with_it(run: Run, eventq: Run, store: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    said = PutOptions(key="k", unique="waiting", max_attempts=3, max_crashes=2, keep=7.5)
    with open_storage(store) as storage:
        storage.put_key("q", b"1", said)
    exported = run("export").out
    assert eventq("--store", other, "import", stdin=exported.encode()).code == 0
    with open_storage(other) as storage:
        (record,) = storage.scan("q", State.READY, Filter()).records
        assert (record.key, record.unique, record.max_attempts) == ("k", "waiting", 3)
        assert (record.max_crashes, record.keep) == (2, 7.5)
        assert storage.claim("q")[0].max_attempts == 3
        assert storage.put_key("q", b"2", said)[1]


def test_a_held_key_is_left_out(run: Run) -> None:
    run("put", "q", "1", "--key", "k")
    done = run("import", stdin=run("export").out.encode())
    assert (done.code, done.out) == (1, "imported 0 events under new ids\n")
    assert "left out 1 whose key an open event holds" in done.err


def test_import_reads_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"queue": "q", "payload": 1}\n\n{"queue": "q", "payload": [2]}\n')
    assert run("import", "events.jsonl").out == "imported 2 events under new ids\n"
    done = run("import", "missing.jsonl")
    assert done.code == 1
    assert done.err == "eventq: cannot read missing.jsonl: No such file or directory\n"


@pytest.mark.parametrize(
    "line",
    [
        "oops",
        "[]",
        '{"payload": 1}',
        '{"queue": "q", "payload": 01}',
        '{"queue": "q", "payload": 1, "state": "gone"}',
        '{"queue": "q", "payload_codec": "msgpack", "payload_base64": "*"}',
        '{"queue": "q", "payload": 1, "due": "soon"}',
        '{"queue": "q", "payload": 1, "limits": {"c": 0}}',
        '{"queue": "q", "payload": 1, "rates": {"r": 5}}',
        '{"queue": "q", "payload": 1, "rates": {"r": [0, 60]}}',
        '{"queue": "q", "payload": 1, "rates": {"r": [5, 0]}}',
    ],
)
def test_a_bad_line_is_named(run: Run, line: str) -> None:
    good = '{"queue": "q", "payload": 1}\n'
    done = run("import", stdin=(good + '{"queue": "other", "payload": 1}\n' + line + "\n").encode())
    assert done.code == 2
    assert "line 3 is not an exported event" in done.err
    assert "1 events were imported before" in done.err
    assert len(done.err.splitlines()) == 1

"""`eventq put`."""

from __future__ import annotations

import json

import pytest
from conftest import Run

from eventq import App


def test_put_prints_the_id_of_an_event_that_is_there(run: Run) -> None:
    done = run("put", "orders", '{"id": 42}')
    assert (done.code, done.err) == (0, "")
    event = run("show", done.out.strip(), "--json").json
    assert (event["queue"], event["state"], event["payload"]) == ("orders", "ready", {"id": 42})


def test_put_reads_stdin(run: Run) -> None:
    id = run("put", "q", stdin=b"[1,\n 2]\n").out.strip()
    assert run("show", id, "--json").json["payload"] == [1, 2]


def test_options_reach_the_event(run: Run) -> None:
    options = ["--delay", "10m", "--priority", "-7", "--expires", "2h", "--key", "k", "--header", "user=ann"]
    done = run("put", "q", "1", *options, "--header", "n:=[3]", "--json")
    event = run("show", done.json["id"], "--json").json
    assert (event["state"], event["priority"], event["key"]) == ("delayed", -7, "k")
    assert event["headers"] == {"user": "ann", "n": [3]}
    assert event["due"] < event["expires"]
    shown = run("show", done.json["id"]).out
    assert all(text in shown for text in ("delayed", 'user = "ann"', "(in 10m)", "priority  -7"))


def test_limits_reach_the_event(run: Run) -> None:
    id = run("put", "q", "1", "--limit", "customer:7=1", "--limit", "a=b=20").out.strip()
    assert run("show", id, "--json").json["limits"] == {"a=b": 20, "customer:7": 1}
    assert "limit     customer:7 = 1" in run("show", id).out
    run("put", "q", "--lines", "--limit", "c=1", stdin=b"1\n2\n")
    assert run("export").out.count('"limits":{"c":1}') == 2


@pytest.mark.parametrize("limit", ["c", "=1", "c=", "c=x", "c=-1", "c=0", "c=10001"])
def test_wrong_limits_are_refused(run: Run, limit: str) -> None:
    done = run("put", "q", "1", "--limit", limit)
    assert (done.code, done.out) == (2, "")
    assert run("status").code == 1  # not even a store was made


def test_rates_reach_the_event(run: Run) -> None:
    id = run("put", "q", "1", "--rate", "smtp=10/1m", "--rate", "a/b=c=1/250ms").out.strip()
    assert run("show", id, "--json").json["rates"] == {"a/b=c": [1, 0.25], "smtp": [10, 60.0]}
    shown = run("show", id).out
    assert "rate      smtp = 10 in 60s" in shown
    assert "rate      a/b=c = 1 in 0.25s" in shown
    run("put", "q", "--lines", "--rate", "r=1/90", stdin=b"1\n2\n")
    assert run("export").out.count('"rates":{"r":[1,90.0]}') == 2


@pytest.mark.parametrize(
    "rate", ["r", "=1/60", "r=", "r=1", "r=/60", "r=1/", "r=x/60", "r=0/60", "r=-1/60", "r=10001/60", "r=1/0", "r=1/x",
             "r=1/11000000000"]
)  # fmt: skip
def test_wrong_rates_are_refused(run: Run, rate: str) -> None:
    done = run("put", "q", "1", "--rate", rate)
    assert (done.code, done.out) == (2, "")
    assert "--rate" in done.err
    assert run("status").code == 1  # not even a store was made


def test_a_held_key_gives_the_holder(run: Run) -> None:
    first = run("put", "q", "1", "--key", "k").out
    assert run("put", "q", "2", "--key", "k").out == first
    assert run("status", "--json").json["queues"][0]["ready"] == 1


@pytest.mark.parametrize("payload", ["hello", "", "{", "NaN", "1 2", "[" * 5000, "'a'", '{"a": 1'])
def test_what_is_not_json_is_refused(run: Run, store: str, payload: str) -> None:
    done = run("put", "q", payload)
    assert done.code == 2
    assert "is not JSON" in done.err
    assert "--text" in done.err
    assert len(done.err.splitlines()) == 1
    assert run("status").code == 1  # not even a store was made


def test_text_is_put_as_it_is(run: Run) -> None:
    id = run("put", "q", "--text", stdin="grüße\n".encode()).out.strip()
    assert run("show", id, "--json").json["payload"] == "grüße\n"
    assert run("put", "q", "--text", stdin=b"\xff").code == 2


@pytest.mark.parametrize(
    "payload",
    [
        '"\\u0000\\u001b[2J\\u2028"',
        '{"a": {"a": 1}, "crc": "x", "id": "18ea0184bd2f4700714f1543ee2de643000001.00000"}',
        "12345678901234567890",
        '"' + "x" * 300_000 + '"',
        '"</script>\\n{\\"id\\""',
        "-0.0",
        "null",
    ],
)
def test_strange_payloads_come_back(run: Run, payload: str) -> None:
    id = run("put", "q", stdin=payload.encode()).out.strip()
    assert run("show", id, "--json").json["payload"] == json.loads(payload)
    assert run("list", "q").code == run("show", id).code == 0


def test_lines(run: Run) -> None:
    done = run("put", "q", "--lines", "--priority", "3", stdin=b'{"n": 1}\n\n"two"\r\n3')
    assert (done.code, done.out) == (0, "put 3 events\n")
    events = run("list", "q", "--json").json["events"]
    assert [event["payload"] for event in events] == [{"n": 1}, "two", 3]
    assert {event["priority"] for event in events} == {3}


def test_lines_of_text_keep_empty_ones(run: Run) -> None:
    run("put", "q", "--lines", "--text", stdin=b"one\n\nthree\n")
    assert [event["payload"] for event in run("list", "q", "--json").json["events"]] == ["one", "", "three"]


def test_a_bad_line_is_named_and_its_chunk_is_not_put(run: Run) -> None:
    lines = [b"%d\n" % n for n in range(1500)]
    lines[1200] = b"oops\n"
    done = run("put", "q", "--lines", stdin=b"".join(lines))
    assert done.code == 2
    assert "line 1201 is not JSON: 'oops'" in done.err
    assert "1,000 events were put, from lines 1 to 1000" in done.err
    assert run("status", "--json").json["queues"][0]["ready"] == 1000


def test_many_lines(run: Run) -> None:
    done = run("put", "q", "--lines", "--json", stdin=b"".join(b"%d\n" % n for n in range(2500)))
    assert done.json["put"] == 2500
    events = run("list", "q", "--json", "--limit", "0").json["events"]
    assert [event["payload"] for event in events] == list(range(2500))
    assert (done.json["first"], done.json["last"]) == (events[0]["id"], events[-1]["id"])


@pytest.mark.parametrize(
    "options",
    [
        ["--delay", "soon"],
        ["--delay", "-1"],
        ["--delay", "nan"],
        ["--delay", "1e999"],
        ["--priority", "101"],
        ["--priority", "high"],
        ["--header", "novalue"],
        ["--header", "n:=oops"],
        ["--header", "=x"],
        ["--lines"],
        ["--expires", "0"],
        ["--key", ""],
    ],
)
def test_wrong_options_are_named(run: Run, options: list[str]) -> None:
    done = run("put", "q", "1", *options)
    assert done.code == 2
    assert done.out == ""
    assert options[0].lstrip("-") in done.err


def test_an_empty_queue_name_is_refused(run: Run) -> None:
    assert run("put", "", "1").code == 2


@pytest.mark.parametrize("option", ["key", "throttle", "debounce", "debounce-max"])
def test_lines_and_key_exclude_each_other(run: Run, option: str) -> None:
    assert run("put", "q", "--lines", f"--{option}", "1", stdin=b"1").code == 2


def test_a_throttled_put_gives_the_first(run: Run) -> None:
    first = run("put", "q", "1", "--key", "k", "--throttle", "10m").out
    assert run("put", "q", "2", "--key", "k", "--throttle", "10m").out == first
    assert run("put", "q", "3", "--throttle", "10m").code == 2


def test_a_debounced_put_takes_the_place_of_the_last(run: Run) -> None:
    options = ["--key", "k", "--debounce", "1m", "--debounce-max", "10m"]
    first, second = (run("put", "q", payload, *options).out.strip() for payload in "12")
    assert run("show", first, "--json").json["state"] == "cancelled"
    assert second in run("show", first).out
    assert run("show", second, "--json").json["state"] == "delayed"


@pytest.mark.parametrize("timeout", ["0", "10ms"])
def test_a_full_queue_fails_in_time(run: Run, store: str, timeout: str) -> None:
    with App(store) as app:
        app.queue("q", maxsize=3)
    done = run("put", "q", "--lines", "--timeout", timeout, stdin=b"1\n2\n3\n4\n")
    assert done.code == 1
    assert "maxsize=3" in done.err
    assert "3 events were put, from lines 1 to 3" in done.err
    assert len(done.err.splitlines()) == 1
    assert run("put", "q", "4", "--timeout", timeout).code == 1
    assert run("status", "--json").json["queues"][0]["ready"] == 3

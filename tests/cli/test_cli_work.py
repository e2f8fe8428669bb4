"""`eventq work --exec`: real commands, real signals."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Run, ended

from eventq import App, clock
from eventq.cli import program, work

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

Start = "Callable[..., subprocess.Popen[str]]"


def until(fact: Callable[[], object], what: str, limit: float = 30.0) -> None:
    """Wait for a fact, at most so long."""
    deadline = clock.SYSTEM.monotonic() + limit
    while not fact():
        assert clock.SYSTEM.monotonic() < deadline, f"not within {limit} s: {what}"
        clock.sleep(0.01)


def counts(run: Run) -> dict[str, int]:
    found = run("status", "q", "--json").json["queues"][0]
    states = ("ready", "delayed", "claimed", "completed", "dead")
    return {name: found[name] for name in states if found[name]}


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


def test_the_command_gets_the_event(run: Run, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", str(tmp_path))
    id = run("put", "q", '{"a": "ü"}', "--header", "user=ann").out.strip()
    command = (
        'cat > "$HERE/payload"; '
        'printf "%s|%s|%s|%s|%s" "$EVENTQ_ID" "$EVENTQ_ATTEMPT" "$EVENTQ_QUEUE" "$EVENTQ_HEADERS" "$EVENTQ_URL" '
        '> "$HERE/environment"'
    )
    assert run("work", "q", "--exec", command, "--burst").code == 0
    assert json.loads((tmp_path / "payload").read_text()) == {"a": "ü"}
    assert (tmp_path / "payload").read_text().count("\n") == 1
    assert (tmp_path / "environment").read_text() == f'{id}|1|q|{{"user":"ann"}}|{store}'
    assert counts(run) == {}


def test_raw_text(run: Run, tmp_path: Path) -> None:
    run("put", "q", '"two\\nlines"')
    run("work", "q", "--exec", f"cat > {tmp_path}/text", "--raw", "--burst")
    assert (tmp_path / "text").read_bytes() == b"two\nlines"


@pytest.mark.parametrize(
    ("command", "code", "state", "word"),
    [
        ("exit 0", 0, None, "completed"),
        ("exit 65", 1, "dead", "rejected"),
        ("exit 75", 0, "delayed", "put off"),
        ("exit 1", 1, "delayed", "failed"),
        ("exit 255", 1, "delayed", "failed"),
        ("no-such-command", 1, "delayed", "failed"),
        ("kill -SEGV $$", 1, "delayed", "failed"),
    ],
)
def test_the_exit_code_decides(run: Run, command: str, code: int, state: str | None, word: str) -> None:
    id = run("put", "q", "1").out.strip()
    done = run("work", "q", "--exec", command, "--burst")
    assert done.code == code, done.err
    assert done.err.splitlines()[-1] == f"eventq work: 1 {word}"
    shown = run("show", id, "--json")
    assert (shown.json["state"] if shown.code == 0 else None) == state


def test_a_failure_keeps_what_the_command_said(run: Run) -> None:
    id = run("put", "q", "1").out.strip()
    done = run("work", "q", "--exec", "echo first >&2; echo 'no such customer' >&2; exit 65", "--burst")
    assert "no such customer" in done.err
    failure = run("show", id, "--json").json["failure"]
    assert failure["type"] == "CommandFailed"
    assert failure["message"] == "exit 65"
    assert failure["traceback"] == "first\nno such customer\n"


def test_only_failures_count_attempts(run: Run, store: str) -> None:
    id = run("put", "q", "1").out.strip()
    with App(store) as app:
        app.queue("q", retry_delay=0.0)
    run("work", "q", "--exec", '[ "$EVENTQ_ATTEMPT" = 3 ] && exit 65; exit 1', "--burst")
    event = run("show", id, "--json").json
    assert [attempt["outcome"] for attempt in event["attempts"]] == ["failed", "failed", "dead"]
    other = run("put", "q", "2").out.strip()
    script = 'n=$(cat n 2>/dev/null || echo 0); echo $((n + 1)) > n; [ "$n" = 2 ] || exit 75; echo $EVENTQ_ATTEMPT'
    done = run("work", "q", "--exec", script, "--result", "json", "--burst")
    assert done.err.splitlines()[-1] == "eventq work: 1 completed, 2 put off"
    assert run("show", other, "--json").json["value"] == 1


def test_the_output_can_be_the_result(run: Run, store: str) -> None:
    first = run("put", "q", '"abc"').out.strip()
    run("work", "q", "--exec", "tr a-z A-Z", "--raw", "--result", "text", "--burst")
    second = run("put", "q", "[1, 2]").out.strip()
    run("work", "q", "--exec", "cat", "--result", "json", "--burst")
    with App(store) as app:
        assert app.handle(first).result(timeout=0) == "ABC"
        assert app.handle(second).result(timeout=0) == [1, 2]


def test_output_that_is_no_json_is_a_failure(run: Run) -> None:
    id = run("put", "q", "1").out.strip()
    assert run("work", "q", "--exec", "echo oops", "--result", "json", "--burst").code == 1
    event = run("show", id, "--json").json
    assert (event["state"], event["failure"]["type"]) == ("delayed", "BadResult")


def test_a_command_that_reads_nothing_is_fine(run: Run) -> None:
    run("put", "q", json.dumps("x" * 500_000))
    assert run("work", "q", "--exec", "true", "--burst").code == 0


def test_a_timeout_kills_all_that_the_command_started(run: Run, tmp_path: Path) -> None:
    id = run("put", "q", "1").out.strip()
    command = f"sleep 300 & echo $! > {tmp_path}/pid; sleep 300"
    assert run("work", "q", "--exec", command, "--timeout", "0.5", "--burst").code == 1
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not alive(pid), "the sleeper is gone")
    event = run("show", id, "--json").json
    assert event["failure"]["message"] == "killed after the timeout of 0.5 s"


def test_headers_too_large_for_an_environment_do_not_stop_the_worker(run: Run, store: str) -> None:
    with App(store) as app:
        id = app.queue("q").put(1, headers={"big": "x" * 3_000_000})
    run("put", "q", "2")
    done = run("work", "q", "--exec", "true", "--burst")
    assert done.code == 1
    assert done.err.splitlines()[-1] == "eventq work: 1 completed, 1 rejected"
    assert run("show", id, "--json").json["state"] == "dead"


def test_a_worker_that_cannot_start_commands_gives_the_event_back(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    id = run("put", "q", "1").out.strip()

    def no_pipes() -> tuple[int, int]:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(program.os, "pipe", no_pipes)
    done = run("work", "q", "--exec", "true", "--burst")
    monkeypatch.undo()
    assert (done.code, done.err) == (1, "eventq: [Errno 24] Too many open files\n")
    event = run("show", id, "--json").json
    assert (event["state"], event["failures"], event["crashes"]) == ("ready", 0, 0)


def test_a_stderr_that_nobody_reads_does_not_stop_the_command(run: Run, start: Start) -> None:
    run("put", "q", "1")
    process = start("work", "q", "--exec", "yes | head -c 300000 >&2", "--burst", "--json")
    assert process.stderr is not None
    process.stderr.close()
    process.stderr = None
    assert ended(process).json == {"completed": 1}


def test_concurrency(run: Run, tmp_path: Path) -> None:
    """Each command waits until three run at once: with fewer it would time out."""
    run("put", "q", "--lines", stdin=b"1\n2\n3\n")
    command = f"touch {tmp_path}/at-$EVENTQ_ID; until [ $(ls {tmp_path} | grep -c '^at-') = 3 ]; do sleep 0.01; done"
    done = run("work", "q", "--exec", command, "--concurrency", "3", "--timeout", "20", "--burst")
    assert done.err.splitlines()[-1] == "eventq work: 3 completed"


def test_json_summary(run: Run) -> None:
    run("put", "q", "--lines", stdin=b"1\n2\n")
    assert run("work", "q", "--exec", "true", "--burst", "--json").json == {"completed": 2}


@pytest.mark.parametrize("options", [["--concurrency", "0"], ["--grace", "-1"], ["--result", "xml"], []])
def test_wrong_options(run: Run, options: list[str]) -> None:
    command = ["--exec", "true"] if options else ["--exec", " "]
    assert run("work", "q", *command, *options, "--burst").code == 2


# ---- signals


def started(process: subprocess.Popen[str], number: int = 1) -> list[int]:
    """The process ids that commands `echo $$; exec sleep` print."""
    assert process.stdout is not None
    watchdog = threading.Timer(30, process.kill)  # then the read below ends empty
    watchdog.start()
    try:
        return [int(process.stdout.readline()) for _ in range(number)]
    finally:
        watchdog.cancel()
        watchdog.join()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_the_command_finish(
    run: Run, start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    run("put", "q", "--lines", stdin=b"1\n2\n")
    process = start("work", "q", "--exec", f"echo $$; until [ -e {tmp_path}/go ]; do sleep 0.01; done")
    started(process)
    process.send_signal(number)
    assert process.stderr is not None
    assert process.stderr.readline() == "eventq work: stopping: 1 running, 10 s to finish; a second signal kills\n"
    (tmp_path / "go").touch()
    done = ended(process)
    assert (done.code, done.err) == (0, "eventq work: 1 completed\n")
    assert counts(run) == {"ready": 1}
    assert run("workers", "--json").json == []


def test_a_signal_while_a_command_is_being_started_counts_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nothing is said of it, and after the grace it is killed."""
    announce, announced = work.Work._announce, threading.Event()

    def announce_and_tell(self: work.Work) -> None:
        announce(self)
        announced.set()

    class SlowlyStarted(program.Program):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            os.kill(os.getpid(), signal.SIGTERM)
            assert announced.wait(30)

    monkeypatch.setattr(work.Work, "_announce", announce_and_tell)
    monkeypatch.setattr(work, "Program", SlowlyStarted)
    run("put", "q", "--lines", stdin=b"1\n2\n")
    done = run("work", "q", "--exec", "true", "--burst")
    announcement = "eventq work: stopping: 1 running, 10 s to finish; a second signal kills\n"
    assert (done.code, done.err) == (0, announcement + "eventq work: 1 completed\n")
    assert counts(run) == {"ready": 1}


@pytest.mark.exhaustive
def test_after_the_grace_the_event_is_given_back(run: Run, start: Start) -> None:
    id = run("put", "q", "1").out.strip()
    process = start("work", "q", "--exec", "echo $$; exec sleep 300", "--grace", "0.2")
    (pid,) = started(process)
    process.send_signal(signal.SIGTERM)
    done = ended(process)
    assert done.code == 130
    assert done.err.splitlines()[-1] == "eventq work: 1 released"
    assert not alive(pid)
    event = run("show", id, "--json").json
    assert (event["state"], event["failures"], event["crashes"]) == ("ready", 0, 0)


@pytest.mark.exhaustive
def test_the_second_signal_kills(run: Run, start: Start) -> None:
    run("put", "q", "--lines", stdin=b"1\n2\n3\n")
    process = start("work", "q", "--exec", "echo $$; exec sleep 300", "--concurrency", "2", "--grace", "300")
    pids = started(process, 2)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("eventq work: stopping: 2 running, 300 s")
    process.send_signal(signal.SIGTERM)
    done = ended(process)
    assert done.code == 130
    assert not any(alive(pid) for pid in pids)
    assert counts(run) == {"ready": 3}


def test_an_idle_worker_stops_at_once(run: Run, start: Start) -> None:
    process = start("work", "q", "--exec", "true")
    until(lambda: run("workers", "--json").code == 0 and run("workers", "--json").json, "the worker has joined")
    process.send_signal(signal.SIGTERM)
    done = ended(process)
    assert (done.code, done.err) == (0, "eventq work: nothing to do\n")


def test_a_killed_worker_takes_its_commands_along(run: Run, start: Start, tmp_path: Path) -> None:
    id = run("put", "q", "1").out.strip()
    first = start("work", "q", "--exec", "sleep 300 & echo $!; echo $$; wait")
    pids = started(first, 2)
    second = start("work", "q", "--exec", "echo $$; cat", "--result", "text")
    first.kill()
    until(lambda: not any(alive(pid) for pid in pids), "the commands of the killed worker are gone")
    ended(first)
    until(lambda: run("show", id, "--json").json["state"] == "completed", "another worker has done it")
    second.send_signal(signal.SIGTERM)
    assert ended(second).code == 0
    event = run("show", id, "--json").json
    assert [attempt["outcome"] for attempt in event["attempts"]] == ["crashed", "completed"]


def test_a_command_may_put_follow_ups(run: Run) -> None:
    run("put", "q", "1")
    command = f"{sys.executable} -m eventq put next --text from-$EVENTQ_ID"
    assert run("work", "q", "--exec", command, "--burst").code == 0
    assert run("status", "next", "--json").json["queues"][0]["ready"] == 1

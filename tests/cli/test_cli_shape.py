"""What holds for all commands: help, options, exit codes, pipes, signals, colours."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import Ran, Run, ended

from eventq.cli import COMMANDS, GROUPS, command_parser, load
from eventq.cli.command import exit_code
from eventq.errors import ConfigError, MissingExtra, OutcomeUnknown, UnknownEvent

if TYPE_CHECKING:
    from collections.abc import Callable

ID = "18ea0184bd2f4700714f1543ee2de643000001.00000"
NEEDS_A_STORE = {
    "status": [],
    "list": ["q"],
    "show": [ID],
    "tail": ["q"],
    "workers": [],
    "retry": [ID],
    "cancel": [ID],
    "move": [ID, "--to", "other"],
    "purge": ["q", "--all"],
    "pause": ["q"],
    "resume": ["q"],
    "prune": [],
    "schedules": [],
    "notifications": ["ada"],
    "disable": [],
    "enable": ["shop.mail"],
    "jobs": [],
    "runs": [],
    "fsck": [],
    "export": [],
}


def test_help_lists_every_command_with_its_text(eventq: Run) -> None:
    done = eventq("--help")
    assert done.code == 0
    for name, (_, text) in COMMANDS.items():
        assert any(line.split()[:1] == [name] and text in line for line in done.lines), name
    assert "exit codes:" in done.out
    assert all(f"{title}:" in done.lines for title in GROUPS)


def test_without_arguments_it_prints_help(eventq: Run) -> None:
    assert eventq() == eventq("--help")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(eventq: Run, command: str) -> None:
    done = eventq(command, "--help")
    assert done.code == 0
    assert done.out.startswith(f"usage: eventq {command}")
    assert {"--json", "--store"} <= set(done.out.split())
    assert COMMANDS[command][0]
    parser = command_parser(command, load(command))
    assert parser.description
    for action in parser._actions:
        obvious = not action.option_strings and action.metavar in ("QUEUE", "ID")
        assert action.help or obvious, f"without a help text: {action}"


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_options_are_errors(eventq: Run, command: str) -> None:
    done = eventq(command, *NEEDS_A_STORE.get(command, ()), "--bogus")
    assert done.code == 2
    assert "--bogus" in done.err or "required" in done.err


def test_unknown_options_before_the_command_are_errors(eventq: Run) -> None:
    assert eventq("--bogus", "status").code == 2


def test_abbreviated_options_are_errors(run: Run) -> None:
    assert run("put", "q", "1", "--prio", "3").code == 2


def test_an_unknown_command_suggests_a_known_one(eventq: Run) -> None:
    done = eventq("lsit")
    assert done.code == 2
    assert "did you mean 'list'" in done.err


def test_global_options_stand_before_or_after_the_command(eventq: Run, store: str) -> None:
    put = eventq("--store", store, "put", "q", "1", "--json")
    assert put.json["queue"] == "q"
    before = eventq("--json", "--store", store, "list", "q")
    after = eventq("list", "q", "--store", store, "--json")
    assert before.json == after.json
    assert before.json["events"][0]["id"] == put.json["id"]


def test_the_environment_names_the_store(eventq: Run, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTQ_URL", f"file://{store}")
    assert eventq("put", "q", "1").code == 0
    assert os.path.isfile(os.path.join(store, "FORMAT"))


def test_the_default_store_is_here(eventq: Run, tmp_path: Path) -> None:
    assert eventq("put", "q", "1").code == 0
    assert (tmp_path / ".eventq" / "FORMAT").is_file()


@pytest.mark.parametrize("command", NEEDS_A_STORE)
def test_looking_for_a_store_does_not_make_one(run: Run, store: str, command: str) -> None:
    done = run(command, *NEEDS_A_STORE[command])
    assert done.code == 1
    assert done.err.startswith("eventq: there is no store at")
    assert len(done.err.splitlines()) == 1
    assert not os.path.exists(store)


def test_looking_for_a_database_does_not_make_one(eventq: Run, tmp_path: Path) -> None:
    done = eventq("--store", f"sqlite:///{tmp_path}/jobs.db", "status")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"eventq: there is no store at {tmp_path}/jobs.db; 'eventq put QUEUE PAYLOAD' makes one")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["list", "pause", "resume", "tail", "export", "status", "prune"])
def test_an_unknown_queue_is_not_made(run: Run, command: str) -> None:
    run("put", "known", "1")
    done = run(command, "unknown")
    assert done.code == 1
    assert "no queue named 'unknown'; there are: known" in done.err
    assert run("status", "--json").json["queues"][0]["queue"] == "known"


def test_an_impossible_url_is_wrong_use(eventq: Run) -> None:
    for command in (["put", "q", "1"], ["status"]):
        done = eventq("--store", "nosuch://x", *command)
        assert done.code == 2, done
        assert len(done.err.splitlines()) == 1


def test_a_store_that_fails_exits_3(run: Run, store: str) -> None:
    run("put", "q", "1")
    shutil.rmtree(Path(store, "workers"))
    Path(store, "workers").write_text("not a folder")
    done = run("put", "q", "2")
    assert (done.code, done.out) == (3, "")
    assert len(done.err.splitlines()) == 1


def test_a_store_of_another_version_is_refused_in_one_line(run: Run, store: str) -> None:
    run("put", "q", "1")
    Path(store, "FORMAT").write_text("eventq 99\n")
    done = run("status")
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert "eventq 99" in done.err


def test_every_error_of_eventq_has_an_exit_code() -> None:
    assert exit_code(OutcomeUnknown("x")) == 3
    assert exit_code(ConfigError("x")) == exit_code(MissingExtra("x", "y")) == 2
    assert exit_code(UnknownEvent("x")) == 1


def test_options_may_stand_between_the_arguments(run: Run) -> None:
    id = run("put", "--priority", "3", "q", "--text", "hello").out.strip()
    assert run("show", id, "--json").json["payload"] == "hello"
    assert run("put", "q", "-5").code == 0


def test_a_password_is_not_shown() -> None:
    from eventq.config import masked

    assert masked("redis://me:secret@host:1/2") == "redis://me:***@host:1/2"
    assert masked("./a:b@c") == "./a:b@c"


def test_hostile_names_cannot_steer_the_terminal(run: Run) -> None:
    hostile = "a\x1b[2J\nb\u202e\u009b"
    assert run("put", hostile, '"x\\u001b[2J"', "--key", hostile).code == 0
    id = run("list", hostile, "--json").json["events"][0]["id"]
    for args in (["status"], ["list", hostile], ["show", id], ["workers"], ["list", "no\x1bqueue"], ["export"]):
        for options in ([], ["--json"]):
            done = run(*args, *options)
            text = (done.out + done.err).replace("\n", "")
            assert text.isprintable(), (args, [c for c in text if not c.isprintable()])
    assert run("list", hostile, "--json").json["events"][0]["key"] == hostile
    assert run("status", "--json").json["queues"][0]["queue"] == hostile


def test_names_that_are_no_text_are_refused(run: Run) -> None:
    done = run("put", "\udcff", "1")
    assert done.code == 2
    assert len(done.err.splitlines()) == 1


def test_python_m_is_the_same(start: Callable[..., subprocess.Popen[str]]) -> None:
    done = ended(start("version"))
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("eventq ")


def test_a_reader_that_leaves_is_not_an_error(run: Run, start: Callable[..., subprocess.Popen[str]]) -> None:
    run("put", "q", "--lines", stdin=b'"some text to fill the pipe with"\n' * 1500)
    process = start("list", "q", "--limit", "0")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ID")
    process.stdout.close()
    process.stdout = None
    done = ended(process)
    assert (done.code, done.err) == (141, "")


def test_ctrl_c_ends_without_a_traceback(run: Run, start: Callable[..., subprocess.Popen[str]]) -> None:
    run("put", "q", "1")
    process = start("tail", "q")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("following q")
    process.send_signal(signal.SIGINT)
    assert ended(process) == Ran(130, "", "eventq: interrupted\n")


@pytest.mark.parametrize(("variable", "coloured"), [("OTHER", True), ("NO_COLOR", False)])
def test_colours_are_for_terminals(run: Run, store: str, variable: str, coloured: bool) -> None:
    import pty

    run("put", "q", "1")
    terminal, end = pty.openpty()
    try:
        environment = {**os.environ, "TERM": "xterm", variable: "1"}
        command = [sys.executable, "-m", "eventq", "--store", store, "status"]
        subprocess.run(command, stdout=end, env=environment, check=True, timeout=30)
        text = os.read(terminal, 65536)
    finally:
        os.close(terminal)
        os.close(end)
    assert (b"\x1b[" in text) is coloured
    assert "\x1b" not in run("status").out


def test_a_command_imports_only_what_it_needs(store: str) -> None:
    code = "import sys; from eventq.cli import main\nassert main(sys.argv[1:]) == 0\nprint(*sorted(sys.modules))"
    command = [sys.executable, "-c", code, "--store", store, "put", "q", "1"]
    modules = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    heavy = {"asyncio", "subprocess", "tempfile", "eventq.cli.demo", "eventq.cli.work", "eventq.cli.bench"}
    assert "eventq.cli.put" in modules
    assert not heavy & set(modules)

"""The inside of a child: its notes, its output, the messages that it exchanges with the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from processes_worker import PATIENCE, RUNNER, Heard, run, value

import eventq
from eventq.child import Messages, Noted, Ready, Returned, Said, class_name, message
from eventq.clock import SYSTEM, sleep
from eventq.process import Children, Died, Output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def make() -> Iterator[Callable[..., Children]]:
    made: list[Children] = []

    def make(limit: int = 2, **options: Any) -> Children:
        made.append(Children(limit, **{"runner": RUNNER, **options}))
        return made[-1]

    yield make
    for each in made:
        each.stop(kill=True)


@pytest.fixture(scope="module")
def children() -> Iterator[Children]:
    """For tests that leave it as good as new: starting a child takes longer than most of them."""
    children = Children(2, runner=RUNNER)
    yield children
    children.stop(kill=True)


# ---------------------------------------------------------------- notes and output


def test_notes_come_in_order(children: Children) -> None:
    heard = Heard()
    run(children, "count_up", 300, heard=heard)
    assert heard.notes == [("progress", {"done": number}) for number in range(300)]


def test_notes_of_threads_stay_whole(children: Children) -> None:
    heard = Heard()
    run(children, "count_up_in_threads", 4, 200, heard=heard)
    assert sorted(note["done"] for _, note in heard.notes) == sorted(list(range(200)) * 4)


def test_values_are_yielded(children: Children) -> None:
    heard = Heard()
    answer = run(children, "squares", 4, heard=heard)
    assert isinstance(answer, Returned)
    assert answer.value is None
    assert heard.notes == [("yielded", number) for number in (0, 1, 4, 9)]


def test_nothing_is_noted_after_the_end(make: Callable[..., Children]) -> None:
    children = make(1)
    heard = Heard()
    run(children, "keep_report")
    assert value(run(children, "use_kept_report", heard=heard)) == "ClaimLost"
    assert heard.notes == []


def test_all_output_is_captured_in_order(children: Children) -> None:
    heard = Heard()
    run(children, "print_in_all_ways", heard=heard)
    assert heard.texts["stdout"] == "1 print\n2 os.write\n3 subprocess\n4 print\n5 without an end of line"
    assert heard.texts["stderr"] == "3 error\n5 error\n"


def test_output_of_c_code_belongs_to_its_run(make: Callable[..., Children]) -> None:
    children = make(1)
    first, second = Heard(), Heard()
    run(children, "print_in_c", "from C", heard=first)
    run(children, "print_in_c", "again", heard=second)
    assert (first.texts["stdout"], second.texts["stdout"]) == ("from C", "again")


def test_output_that_is_not_text(children: Children) -> None:
    heard = Heard()
    euro = "€".encode()
    run(children, "print_bytes", [euro[:1].hex(), euro[1:].hex(), "ff", euro[:2].hex()], heard=heard)
    assert heard.texts["stdout"] == "€\ufffd\ufffd"


def test_much_output_is_all_there(children: Children) -> None:
    heard = Heard()
    run(children, "print_much", 20_000, heard=heard)
    lines = heard.texts["stdout"].splitlines()
    assert len(lines) == 20_000
    assert lines[-1].startswith("19999 ")


def test_last_words_are_heard(children: Children) -> None:
    heard = Heard()
    assert run(children, "print_and_die", heard=heard) == Died("killed by SIGKILL")
    assert heard.texts["stdout"] == "last words\n"


def test_a_function_cannot_spoil_the_next_ones_output(make: Callable[..., Children]) -> None:
    children = make(1)
    heard = Heard()
    run(children, "replace_stdout")
    run(children, "print_", "here", heard=heard)
    assert heard.texts["stdout"] == "here\n"


def test_output_between_runs_belongs_to_none(make: Callable[..., Children], tmp_path: Path) -> None:
    children = make(1)
    marker = tmp_path / "marker"
    run(children, "print_later", str(marker))
    marker.touch()
    until = SYSTEM.monotonic() + PATIENCE
    while not marker.with_name("marker.seen").exists():
        assert SYSTEM.monotonic() < until
        sleep(0.005)
    heard = Heard()
    run(children, "print_", "mine", heard=heard)
    assert heard.texts["stdout"] == "mine\n"


# ---------------------------------------------------------------- messages


def test_messages_may_be_cut_anywhere() -> None:
    said: list[Said] = [Ready(), Noted("a", b"1"), Returned(b"xyz", 5)]
    data = b"".join(map(message, said))
    for size in range(1, len(data) + 1):
        messages: Messages[Said] = Messages(msgspec.msgpack.Decoder(Said))
        heard = [each for start in range(0, len(data), size) for each in messages.of(data[start : start + size])]
        assert heard == said


def test_text_may_be_cut_anywhere() -> None:
    heard: list[str] = []
    output = Output(lambda stream, text: heard.append(stream + text))
    for byte in "aé€".encode() + b"\xf0\x9f":
        output.of("+", bytes([byte]))
    output.end()
    assert heard == ["+a", "+é", "+€", "+\ufffd"]


def test_class_names() -> None:
    assert class_name(ValueError) == "builtins.ValueError"
    assert class_name(eventq.Retry) == "eventq.claim.Retry"

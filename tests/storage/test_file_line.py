"""Lines: what was written whole is read, what was not is not there, and neither harms its neighbours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from eventq.model import Completed, Failure, PutOptions, State
from eventq.storage.file import FileStorage, line
from eventq.storage.file.line import RecordLine

if TYPE_CHECKING:
    from pathlib import Path

STEM = "18ea02eba58bb4009f3c51d07ab2e84600002a"
OTHER = "18ea02eba58bb4009f3c51d07ab2e84600002b"

payloads = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
).map(msgspec.json.encode)


def events(*documents: bytes, stem: str = STEM) -> bytes:
    return line.event_lines(stem, documents, "json", b"")


def record(index: int, step: str, **fields: object) -> bytes:
    return line.record_line(RecordLine(f"{STEM}.{index:05x}", step, 1.0, **fields))  # type: ignore[arg-type]


def read(data: bytes) -> dict[int, bytes]:
    """What would be delivered."""
    folded = line.fold(data, STEM)
    return {index: line.payload_of(folded.event(index)) for index in folded.open_indexes()}


@given(st.lists(payloads, min_size=1, max_size=5))
def test_what_was_written_is_read(documents: list[bytes]) -> None:
    assert read(events(*documents)) == dict(enumerate(documents))


@given(st.binary(max_size=200))
def test_any_codec(data: bytes) -> None:
    assert read(line.event_lines(STEM, [data, b""], "own", b"")) == {0: data, 1: b""}


@given(st.binary(max_size=400))
def test_garbage_is_never_delivered_and_never_stops_the_reader(data: bytes) -> None:
    assert read(data) == {}


@given(st.lists(payloads, min_size=2, max_size=5), st.data())
def test_good_lines_survive_damage_beside_them(documents: list[bytes], data: st.DataObject) -> None:
    """Any bytes of one line are overwritten; the others are read as if nothing had happened."""
    raw = events(*documents).split(b"\n")[:-1]
    victim = data.draw(st.integers(0, len(raw) - 1))
    start = data.draw(st.integers(0, len(raw[victim]) - 1))
    damage = data.draw(st.binary(min_size=1, max_size=30))
    damaged = (raw[victim][:start] + damage + raw[victim][start + len(damage) :])[: len(raw[victim])]
    assume(damaged != raw[victim])
    raw[victim] = damaged
    found = read(b"\n".join(raw) + b"\n")
    assert {index: document for index, document in found.items() if index != victim} == {
        index: document for index, document in enumerate(documents) if index != victim
    }
    assert victim not in found


@given(payloads, st.data())
def test_a_flipped_bit_anywhere_is_seen(document: bytes, data: st.DataObject) -> None:
    """Also in the frame around the checksum, which the checksum does not cover."""
    whole = events(document)
    place = data.draw(st.integers(0, len(whole) - 2))
    flipped = bytearray(whole)
    flipped[place] ^= 1 << data.draw(st.integers(0, 7))
    assume(not (whole[place : place + 1].isalpha() and place >= len(whole) - 11))  # a hex digit in the other case
    assert read(bytes(flipped)) == {}


@given(st.lists(payloads, min_size=1, max_size=4), st.data())
def test_a_line_that_was_cut_off_is_not_there(documents: list[bytes], data: st.DataObject) -> None:
    """A file cut anywhere holds the events whose newline is there, and says where to go on."""
    whole = events(*documents)
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    folded = line.fold(cut, STEM)
    assert len(folded.lines) == cut.count(b"\n")
    assert folded.end == cut.rfind(b"\n") + 1
    assert folded.tail == len(cut[folded.end :].rstrip(b" "))  # blanks at the end are in nobody's way
    assert folded.bad == []


@given(st.lists(payloads, min_size=1, max_size=3), st.integers(0, 5000))
def test_padding_is_no_content(documents: list[bytes], blanks: int) -> None:
    whole = events(*documents)
    folded = line.fold(whole + b" " * blanks, STEM)
    assert (folded.tail, folded.end, folded.bad) == (0, len(whole), [])
    assert read(whole + b" " * blanks + b"\n" + whole) == dict(enumerate(documents))


@given(payloads, payloads)
def test_lines_of_another_file_are_not_there(mine: bytes, old: bytes) -> None:
    """What a recycled file held before; it is not damage either."""
    completed = line.seal(line.head_of(OTHER) + b"00000" + line.completed_step(b"1.000"))
    rest = events(old, old, stem=OTHER) + completed
    assert line.fold(events(mine) + rest, STEM).bad == []
    assert read(events(mine) + rest) == {0: mine}


@pytest.mark.parametrize(
    "odd",
    [
        b'zzzzz","is":"started"',
        b'00000","is":7',
        b'00000","is":"started","of":"x"',
        b'*","is":"moved","of":7',
        b'zzzzz","payload":1',
        b"",
        b'0"',
    ],
)
def test_a_sealed_line_that_says_nothing_is_unreadable_not_fatal(odd: bytes) -> None:
    data = events(b"1") + line.seal(line.head_of(STEM) + odd)
    folded = line.fold(data, STEM)
    assert len(folded.bad) == 1
    assert read(data) == {0: b"1"}


def test_an_event_that_says_nothing_does_not_hide_the_others_once_it_was_started() -> None:
    data = events(b"1", b"{bad", b"3") + record(1, "started", worker="w")
    folded = line.fold(data, STEM)
    assert folded.open_indexes() == [0, 2]
    assert len(folded.bad) == 1


def test_records_of_no_event_are_ignored() -> None:
    assert read(events(b"1") + record(7, "settled", outcome="dead")) == {0: b"1"}


def test_a_life() -> None:
    data = events(b"1", b"2") + b"".join([
        record(0, "started", worker="a"), record(0, "failed", error=Failure("E", "x")),
        record(0, "started", worker="b"), record(0, "started", worker="c"), record(0, "skipped", worker="c"),
        record(1, "settled", outcome="completed"),
    ])  # fmt: skip
    folded = line.fold(data, STEM)
    past = folded.past(0)
    assert (past.failures, past.crashes, past.skipped_by, past.running) == (1, 1, {"c"}, None)
    assert [(attempt.worker, attempt.outcome) for attempt in past.attempts] == [
        ("a", "failed"),
        ("b", "crashed"),
        ("c", "skipped"),
    ]
    assert folded.open_indexes() == [0]
    folded = line.fold(data + record(0, "settled", outcome="dead") + record(0, "requeued"), STEM)
    assert folded.open_indexes() == [0]
    assert (folded.past(0).failures, folded.past(0).crashes) == (0, 0)


def test_a_move_takes_an_event_away_whatever_was_said_of_it() -> None:
    moved = line.moved_record(STEM, [0, 2], "queues/q/ready/0/x", 1.0)
    assert read(events(b"1", b"2", b"3") + record(0, "started") + moved) == {1: b"2"}


@given(payloads, st.text(max_size=10))
def test_a_moved_event_keeps_all_that_it_was_put_with(document: bytes, text: str) -> None:
    options = PutOptions(headers={text: text}, priority=-3, expires=5.0, key=text, unique=9.0, max_attempts=2, keep=1.0)
    whole = line.event_lines(STEM, [document], "json", line.event_options(options))
    event = line.decode_event(whole[:-1])
    before = {name: getattr(event, name) for name in event.__struct_fields__ if name not in ("id", "born")}
    past = line.Past(event)
    past.failures = 4
    text_of = line.moved_line(event, f"{OTHER}.00000", f"{STEM}.00000", past)
    again = line.fold(text_of, OTHER).event(0)
    after = {name: getattr(again, name) for name in again.__struct_fields__ if name not in ("id", "born")}
    assert after == {**before, "failures": 4}
    assert (again.id, again.born) == (f"{OTHER}.00000", f"{STEM}.00000")


def test_a_failure_is_clipped_to_its_end() -> None:
    clipped = line.clip(Failure("E", "m" * 100_000, "first\n" + "x" * 100_000 + "\nlast"))
    assert clipped is not None
    assert clipped.traceback.endswith("last")
    assert len(msgspec.json.encode(clipped)) < 32 << 10


def test_a_document_of_several_lines_is_not_lost(tmp_path: Path) -> None:
    """Pretty-printed JSON is JSON; in a file of lines its newlines would cut the event in pieces."""
    document = b'{\n  "text": "one\\ntwo"\n}\n'
    with FileStorage(tmp_path / "store", sync=False) as storage:
        (id,) = storage.put("q", [document], PutOptions())
        storage.put("q", [document, document], PutOptions())
        claims = storage.claim("q", 3)
        assert [msgspec.json.decode(claimed.payload) for claimed in claims] == [{"text": "one\ntwo"}] * 3
        storage.note(claims[0], "progress", document)
        assert [msgspec.json.decode(note.data) for note in storage.notes(id)] == [{"text": "one\ntwo"}]
        storage.settle(claims[0], Completed(document))
        record = storage.get(id)
        assert record is not None
        assert record.state is State.COMPLETED
        assert record.value is not None
        assert msgspec.json.decode(record.value) == {"text": "one\ntwo"}

"""Streams: the values of generator tasks in order, each once, while they come and afterwards; gaps are told."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from eventq import (
    App,
    Claim,
    PayloadError,
    ResultMissing,
    ResultTimeout,
    TaskCancelled,
    TaskFailed,
    UnknownEvent,
)
from eventq.clock import SYSTEM
from eventq.codec import JSON
from eventq.handle import Patience
from eventq.model import Completed, Note
from eventq.stream import MAX_VALUE, NoteFeed, Reading, Stream, StreamHandle, end_note, yielded_note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@dataclasses.dataclass
class Price:
    sku: int


@pytest.fixture
def app(url: str) -> Iterator[App]:
    with App(url) as app:
        yield app


def claimed(app: App) -> Claim[Any]:
    claim = app.queue("q").claim()
    assert claim is not None
    return claim


def started(app: App) -> Claim[Any]:
    app.queue("q").put("x")
    return claimed(app)


def give(claim: Claim[Any], values: Iterable[Any], start: int = 0) -> int:
    """Note values as a run does; the index after them."""
    number = start
    for number, value in enumerate(values, start):
        claim.note("yielded", yielded_note(claim.store.codec, claim.event.attempt, number, value))
    return number + 1


def finish(claim: Claim[Any], count: int) -> None:
    claim.note("yielded", end_note(claim.event.attempt, count))
    claim.settle(Completed(b"null"))


def stream(app: App, claim: Claim[Any], type: Any = Any, **options: Any) -> Stream[Any]:
    return Stream(app.store, claim.id, type, **{"timeout": 30, **options})


def read_until(error: type[Exception], values: Iterable[Any], match: str | None = None) -> list[Any]:
    """What was given before the stream raised."""
    given: list[Any] = []
    with pytest.raises(error, match=match):
        given.extend(values)  # extend keeps what came before the error
    return given


class Reader:
    """Reads a stream in a thread; a test waits for what it has got."""

    def __init__(self, values: Iterable[Any]) -> None:
        self.given: list[Any] = []
        self.error: BaseException | None = None
        self._changed = threading.Condition()
        self._values = values
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for value in self._values:
                with self._changed:
                    self.given.append(value)
                    self._changed.notify_all()
        except Exception as error:
            self.error = error

    def has(self, values: list[Any]) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.given == values, 20)

    def over(self) -> bool:
        self._thread.join(20)
        return not self._thread.is_alive()


# ---------------------------------------------------------------- in order, as they come


def test_values_are_read_after_the_end_and_again(app: App) -> None:
    claim = started(app)
    finish(claim, give(claim, ["a", None, {"b": [1, 2]}]))
    values = stream(app, claim)
    assert list(values) == ["a", None, {"b": [1, 2]}]
    assert list(values) == ["a", None, {"b": [1, 2]}]
    assert list(stream(app, claim, start=1)) == [None, {"b": [1, 2]}]
    assert list(stream(app, claim, start=7)) == []


def test_two_iterations_are_independent(app: App) -> None:
    claim = started(app)
    finish(claim, give(claim, range(4)))
    values = stream(app, claim)
    first, second = iter(values), iter(values)
    assert [next(first), next(first), next(second), next(first), next(second)] == [0, 1, 0, 2, 1]


def test_values_come_while_it_runs(url: str) -> None:
    with App(url) as theirs, App(url) as mine:
        claim = started(theirs)
        reader = Reader(stream(mine, claim))
        give(claim, ["a"])
        assert reader.has(["a"])
        give(claim, ["b", "c"], start=1)
        assert reader.has(["a", "b", "c"])
        finish(claim, 3)
        assert reader.over()
        assert (reader.given, reader.error) == (["a", "b", "c"], None)


def test_a_stream_that_yields_nothing_ends(app: App) -> None:
    claim = started(app)
    reader = Reader(stream(app, claim))
    finish(claim, 0)
    assert reader.over()
    assert (reader.given, reader.error) == ([], None)


def test_the_reader_may_come_before_the_worker(app: App) -> None:
    id = app.queue("q").put("x")
    reader = Reader(Stream(app.store, id))
    claim = claimed(app)
    finish(claim, give(claim, [1, 2]))
    assert reader.over()
    assert (reader.given, reader.error) == ([1, 2], None)


def test_other_notes_are_passed_over(app: App) -> None:
    claim = started(app)
    claim.progress(1, 2)
    give(claim, ["a"])
    claim.note("output", {"stream": "stdout", "text": "hello"})
    give(claim, ["b"], start=1)
    claim.settle(Completed(b"null"))
    assert list(stream(app, claim)) == ["a", "b"]


def test_each_look_reads_only_new_notes(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = started(app)
    asked: list[int] = []
    notes = app.store.storage.notes

    def counted(id: str, after: int = 0) -> list[Note]:
        asked.append(after)
        return notes(id, after)

    monkeypatch.setattr(app.store.storage, "notes", counted)
    values = iter(stream(app, claim))
    give(claim, "abc")
    assert list(itertools.islice(values, 3)) == ["a", "b", "c"]
    assert asked == [0]
    give(claim, "d", start=3)
    assert next(values) == "d"
    assert asked == [0, 3]


def test_a_wake_is_enough(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but a wake makes this reader look again."""
    claim = started(app)
    storage = app.store.storage
    watch, ready = storage.watch, threading.Event()

    def watched(**what: Any) -> Any:
        made = watch(**what)
        ready.set()
        return made

    monkeypatch.setattr(storage, "watch", watched)
    monkeypatch.setattr(storage, "recover", lambda: 3600.0)
    reader = Reader(stream(app, claim, timeout=None))
    assert ready.wait(20)
    give(claim, ["a"])
    assert reader.has(["a"])
    finish(claim, 1)
    assert reader.over()
    assert (reader.given, reader.error) == (["a"], None)


def test_without_a_wake_the_next_look_finds_it(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = started(app)
    watching = threading.Event()

    class Deaf:
        def __init__(self, **what: Any) -> None:
            self.ends = os.pipe()
            watching.set()

        def fileno(self) -> int:
            return self.ends[0]

        def close(self) -> None:
            for end in self.ends:
                os.close(end)

    monkeypatch.setattr(app.store.storage, "watch", Deaf)
    reader = Reader(stream(app, claim))
    assert watching.wait(20)
    give(claim, ["a"])
    assert reader.has(["a"])
    finish(claim, 1)
    assert reader.over()
    assert (reader.given, reader.error) == (["a"], None)


# ---------------------------------------------------------------- what values are


def test_values_have_a_type(app: App) -> None:
    claim = started(app)
    finish(claim, give(claim, [{"sku": 7}]))
    assert list(stream(app, claim, Price)) == [Price(7)]
    assert read_until(PayloadError, stream(app, claim, int)) == []


def test_a_type_is_checked_where_it_is_yielded(app: App) -> None:
    assert yielded_note(JSON, 2, 5, Price(7), Price) == {"n": 5, "attempt": 2, "value": '{"sku":7}'}
    with pytest.raises(PayloadError, match="int"):
        yielded_note(JSON, 1, 0, "seven", int)
    with pytest.raises(PayloadError, match="tuple"):
        yielded_note(JSON, 1, 0, (1, 2))


def test_other_codecs(url: str) -> None:
    with App(url, codec="msgpack") as theirs, App(url) as mine:
        claim = started(theirs)
        finish(claim, give(claim, [b"\x00\xff", {1: "x"}]))
        assert list(stream(mine, claim)) == [b"\x00\xff", {1: "x"}]


def test_a_value_too_large_is_refused_where_it_is_yielded() -> None:
    assert yielded_note(JSON, 1, 0, "x" * (MAX_VALUE - 2))["n"] == 0
    with pytest.raises(PayloadError, match=r"value 3 .* yield smaller parts"):
        yielded_note(JSON, 1, 3, "x" * (MAX_VALUE - 1))


def test_a_note_that_is_no_value_is_told(app: App) -> None:
    claim = started(app)
    claim.note("yielded", {"total": 3})
    assert read_until(PayloadError, stream(app, claim), "kind of their own") == []


# ---------------------------------------------------------------- how it ends


def test_what_failed_raises_after_its_values(app: App) -> None:
    claim = started(app)
    give(claim, ["a", "b"])
    claim.reject(LookupError("no such customer"))
    assert read_until(TaskFailed, stream(app, claim), "no such customer") == ["a", "b"]


def test_what_was_cancelled_raises(app: App) -> None:
    id = app.queue("q").put("x")
    reader = Reader(Stream(app.store, id))
    app.handle(id).cancel("no need")
    assert reader.over()
    assert isinstance(reader.error, TaskCancelled)


def test_a_record_that_is_gone(app: App) -> None:
    id = app.queue("q").put("x")
    app.queue("q").remove(id)
    assert read_until(ResultMissing, Stream(app.store, id), "no record") == []


@pytest.mark.parametrize("told", [True, False])
def test_an_end_without_a_record_is_known_by_the_notes(app: App, told: bool) -> None:
    """A run whose result is not kept leaves no record, and in some storages no notes: whoever has read them knows."""
    claim = started(app)
    reading: Reading[Any] = Reading(stream(app, claim))
    patient = Patience(app.store, claim.id, 30)
    count = give(claim, ["a", "b"])
    if told:
        claim.note("yielded", end_note(1, count))
    assert reading.look(patient) == 0
    assert [reading.take(), reading.take()] == ["a", "b"]
    assert reading.look(patient) > 0
    claim.complete()
    if told:
        assert reading.look(patient) == 0
        assert not reading.has_value
    else:
        with pytest.raises(ResultMissing, match="no record"):
            reading.look(patient)


def test_a_timeout_is_for_each_value(app: App) -> None:
    claim = started(app)
    give(claim, ["a", "b"])
    start = SYSTEM.monotonic()
    assert read_until(ResultTimeout, stream(app, claim, timeout=0.05), "start=2") == ["a", "b"]
    assert SYSTEM.monotonic() - start < 20
    assert read_until(TimeoutError, stream(app, claim, timeout=0)) == ["a", "b"]
    give(claim, ["c"], start=2)
    assert read_until(ResultTimeout, stream(app, claim, start=2, timeout=0)) == ["c"]


def test_options_that_cannot_be(app: App) -> None:
    claim = started(app)
    for start in (-1, True, 1.0, "0"):
        with pytest.raises((TypeError, ValueError), match="start is"):
            stream(app, claim, start=start)
    with pytest.raises((TypeError, ValueError)):
        stream(app, claim, timeout=-1)


# ---------------------------------------------------------------- repeats


def test_a_retried_run_yields_again_and_nothing_is_given_twice(app: App) -> None:
    claim = started(app)
    reader = Reader(stream(app, claim))
    give(claim, ["a", "b", "c"])
    assert reader.has(["a", "b", "c"])
    claim.retry(delay=0, error="torn")
    claim = claimed(app)
    assert claim.event.attempt == 2
    finish(claim, give(claim, ["a", "b", "c", "d"]))
    assert reader.over()
    assert (reader.given, reader.error) == (["a", "b", "c", "d"], None)
    assert list(stream(app, claim)) == ["a", "b", "c", "d"]


def test_a_released_run_yields_again_under_the_same_attempt(app: App) -> None:
    claim = started(app)
    give(claim, ["a", "b", "c"])
    claim.release()
    claim = claimed(app)
    assert claim.event.attempt == 1
    finish(claim, give(claim, ["A", "B"]))
    assert list(stream(app, claim)) == ["A", "B"], "the last run's values, none of the one before"


def test_values_of_the_run_before_are_not_given_while_the_last_one_goes_on(app: App) -> None:
    claim = started(app)
    give(claim, ["a", "b", "c"])
    claim.release()
    claim = claimed(app)
    give(claim, ["A"])
    assert read_until(ResultTimeout, stream(app, claim, timeout=0), "value 1 ") == ["A"]


def test_a_last_run_that_yields_nothing(app: App) -> None:
    claim = started(app)
    give(claim, ["a", "b"])
    claim.retry(delay=0)
    claim = claimed(app)
    finish(claim, 0)
    assert list(stream(app, claim)) == []


# ---------------------------------------------------------------- gaps


def fill(claim: Claim[Any], kind: str = "output") -> None:
    """More notes than an event keeps."""
    for _ in range(12):
        claim.note(kind, "x" * (100 << 10))


def test_values_that_were_not_kept_are_missed(app: App) -> None:
    claim = started(app)
    parts = ["x" * (200 << 10) + str(n) for n in range(10)]
    finish(claim, give(claim, parts))
    assert read_until(ResultMissing, stream(app, claim), "value 0 ") == []
    with pytest.raises(ResultMissing) as caught:
        list(stream(app, claim))
    first = int(str(caught.value).partition("start=")[2].partition(".")[0])
    assert 0 < first < 10
    assert list(stream(app, claim, start=first)) == parts[first:]


def test_the_first_missing_value_is_named(app: App) -> None:
    claim = started(app)
    claim.note("yielded", yielded_note(JSON, 1, 0, "a"))
    claim.note("yielded", yielded_note(JSON, 1, 3, "d"))
    values = stream(app, claim)
    assert read_until(ResultMissing, values, r"value 1 of event .* start=3") == ["a"]
    claim.settle(Completed(b"null"))
    assert list(stream(app, claim, start=3)) == ["d"]


def test_a_missing_end_is_told(app: App) -> None:
    claim = started(app)
    give(claim, ["a", "b"])
    finish(claim, 4)
    assert read_until(ResultMissing, stream(app, claim), "value 2 ") == ["a", "b"]


def test_output_that_takes_all_the_room(app: App) -> None:
    claim = started(app)
    give(claim, ["a", "b"])
    fill(claim)
    give(claim, ["c"], start=2)
    finish(claim, 3)
    assert read_until(ResultMissing, stream(app, claim), r"value 0 .* start=2") == []
    assert list(stream(app, claim, start=2)) == ["c"]


@pytest.mark.parametrize("value_after", [True, False])
def test_without_the_end_of_the_run_a_hole_at_the_end_is_told(app: App, value_after: bool) -> None:
    claim = started(app)
    give(claim, ["a", "b"])
    fill(claim)
    if value_after:
        give(claim, ["c"], start=2)
    claim.settle(Completed(b"null"))
    if value_after:
        assert list(stream(app, claim, start=2)) == ["c"]
    else:
        assert read_until(ResultMissing, stream(app, claim, start=2), r"value 2 .* nothing after it") == []


def test_a_failure_matters_more_than_what_it_had_not_kept(app: App) -> None:
    claim = started(app)
    fill(claim)
    claim.reject("no good")
    assert read_until(TaskFailed, stream(app, claim), "no good") == []


def test_a_reader_that_keeps_up_misses_nothing_while_the_oldest_go(app: App) -> None:
    claim = started(app)
    values = iter(stream(app, claim))
    for n in range(60):
        give(claim, [f"{n}" + "x" * (100 << 10)], start=n)
        assert next(values).startswith(str(n))
    finish(claim, 60)
    assert list(values) == []


def test_a_feed_counts_what_it_missed(app: App) -> None:
    claim = started(app)
    feed = NoteFeed(app.store.storage, claim.id)
    read = 0
    for n in range(1, 41):
        claim.note("mine", "x" * (60 << 10))
        if n % 4 == 0:
            read += len(feed.new())
            assert feed.missed == 0
    fill(claim)
    fill(claim)
    read += len(feed.new())
    assert feed.missed > 0
    assert read + feed.missed == 64
    assert feed.new() == []
    assert feed.missed == 0


# ---------------------------------------------------------------- handles, and the loop


def test_a_handle_is_iterated(app: App) -> None:
    claim = started(app)
    finish(claim, give(claim, [{"sku": 1}, {"sku": 2}]))
    handle: StreamHandle[Price] = StreamHandle(app.store, claim.id, Any, Price)
    assert list(handle) == [Price(1), Price(2)]
    assert list(handle.stream(1, timeout=5)) == [Price(2)]
    assert handle.result(timeout=0) is None
    with pytest.raises(UnknownEvent):
        StreamHandle(app.store, "42")


def on_loop(main: Callable[[], Any]) -> Any:
    return asyncio.run(asyncio.wait_for(main(), 60), debug=True)


def test_the_loop_reads_as_threads_do(url: str) -> None:
    async def main() -> None:
        with App(url) as theirs, App(url) as mine:
            claim = started(theirs)
            values = aiter(stream(mine, claim).aio)
            waiting = asyncio.ensure_future(anext(values))
            give(claim, ["a", "b"])
            assert await waiting == "a"
            assert await anext(values) == "b"
            waiting = asyncio.ensure_future(anext(values))
            give(claim, ["c"], start=2)
            finish(claim, 3)
            assert await waiting == "c"
            assert [value async for value in values] == []
            assert [value async for value in stream(mine, claim, start=1).aio] == ["b", "c"]

    on_loop(main)


def test_the_loop_gets_the_same_errors(app: App) -> None:
    async def main() -> None:
        claim = started(app)
        give(claim, ["a"])
        given = []
        with pytest.raises(ResultTimeout):
            async for value in stream(app, claim, timeout=0.05).aio:
                given.append(value)  # noqa: PERF401 - keeps what came before the error
        claim.reject("no good")
        with pytest.raises(TaskFailed, match="no good"):
            async for value in stream(app, claim).aio:
                given.append(value)  # noqa: PERF401 - as above
        assert given == ["a", "a"]

    on_loop(main)


def test_a_cancelled_wait_can_be_taken_up_again(app: App) -> None:
    async def main() -> None:
        claim = started(app)
        values = stream(app, claim).aio
        task = asyncio.ensure_future(anext(aiter(values)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        finish(claim, give(claim, ["a"]))
        assert [value async for value in values] == ["a"]

    on_loop(main)

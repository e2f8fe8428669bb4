"""Streams: what a generator task yields, read in order while it runs, or afterwards.

The worker notes each value with its index, from 0 in each run, and at the end of the run how many there were. The
reader gives them by index, each once: what a repeated run yields again is passed over. Notes are bounded (about 1 MiB
an event), and a value that was not kept is an error that names it, never a silent gap.

What is not promised: that a run that is repeated yields the same again. A function whose values depend on more than its
arguments may give a reader the first of one run and the rest of the next.
"""

from __future__ import annotations

import base64
import math
import select
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from eventq.bridge import readable
from eventq.codec import packer
from eventq.config import patience
from eventq.errors import PayloadError, ResultMissing, ResultTimeout
from eventq.handle import Handle, Patience, ended, why_no_value
from eventq.model import State

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from eventq.aio import AsyncStreamHandle
    from eventq.codec import Codec
    from eventq.model import Note, Record
    from eventq.storage.base import Storage
    from eventq.store import Store

Y = TypeVar("Y")

YIELDED = "yielded"
"""The kind of the notes that values are kept in."""

MAX_VALUE = 256 << 10
"""Bytes of one encoded value, at most: it must fit into the notes of its event, with others."""


# ---------------------------------------------------------------- the worker's side


class Yielded(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """The data of a note of the kind `yielded`: a value, or the end of the run that gave them."""

    n: int
    """The index of the value, from 0 in each run; at the end, how many there were."""
    attempt: int = 1
    value: str | None = None
    """The encoded value: JSON as it is, anything else in base64. None at the end."""
    codec: str = "json"

    @property
    def is_end(self) -> bool:
        return self.value is None


def yielded_note(codec: Codec, attempt: int, number: int, value: Any, type: Any = Any) -> dict[str, Any]:
    """The data of the note that keeps a value. Raises PayloadError if it would not come back equal, or is too large."""
    data = packer(codec, type)(value)
    if len(data) > MAX_VALUE:
        raise PayloadError(
            f"the value {number} that was yielded takes {len(data)} bytes, at most {MAX_VALUE}; yield smaller parts, "
            "or where the data is (a path, a key)"
        )
    note: dict[str, Any] = {"n": number, "attempt": attempt}
    if codec.name == "json":
        return {**note, "value": data.decode()}
    return {**note, "value": base64.b64encode(data).decode(), "codec": codec.name}


def end_note(attempt: int, count: int) -> dict[str, Any]:
    """The data of the note that ends a run: without it, a reader cannot know that the last values are not missing."""
    return {"n": count, "attempt": attempt}


# ---------------------------------------------------------------- the reader's side


class Stream(Generic[Y]):
    """The values that an event's handler yields, in order, as they come: `for value in stream`.

    Iterating waits for each value for up to `timeout` seconds (None: for ever), and ends when the event has ended. It
    may be done any number of times, by any process, while the event is kept; each time begins with the value `start`.

    Raises, after the values that there were, what `Handle.result` raises of an event that failed; ResultTimeout if a
    value does not come in time (iterate again with `start=` to go on); ResultMissing if a value was not kept, and at
    the end, if the record is gone and nobody can tell whether there were more.
    """

    __slots__ = ("id", "start", "store", "timeout", "type")

    def __init__(self, store: Store, id: str, type: Any = Any, *, start: int = 0, timeout: float | None = None) -> None:
        if isinstance(start, bool) or not isinstance(start, int):
            raise TypeError(f"start is the index of a value, from 0, not {start!r}")
        if start < 0:
            raise ValueError(f"start is {start}, but values are counted from 0, and their end is not known before")
        self.store: Store = store
        """The opened store that the event belongs to."""
        self.id: str = id
        """The id of the event."""
        self.type: Any = type
        """The type of the values."""
        self.start: int = start
        """The index of the first value that it gives."""
        self.timeout: float | None = patience(timeout)
        """Seconds to wait for each value."""

    def __iter__(self) -> Generator[Y, None, None]:
        reading: Reading[Y] = Reading(self)
        while self._await_value(reading):
            yield reading.take()

    @property
    def aio(self) -> AsyncStream[Y]:
        """The same for `async for`."""
        return AsyncStream(self)

    def __repr__(self) -> str:
        return f"<Stream of {self.id} from {self.start}>"

    def _await_value(self, reading: Reading[Y]) -> bool:
        """Wait for a value; False at the end. Coroutines wait in `AsyncStream`.

        The watch is a new one each time: it has no wakes of values that were read long ago.
        """
        if reading.has_value:
            return True
        patient = Patience(self.store, self.id, self.timeout)
        if reading.look(patient) <= 0:
            return reading.has_value
        watch = self.store.storage.watch(id=self.id)  # before the next look, or a value in between wakes nobody
        try:
            poller = select.poll()
            poller.register(watch.fileno(), select.POLLIN)
            while (pause := reading.look(patient)) > 0:
                if poller.poll(math.ceil(pause * 1000)):
                    watch.clear()
        finally:
            watch.close()
        return reading.has_value


class AsyncStream(Generic[Y]):
    """The awaitable twin of a `Stream`: `async for value in stream.aio`."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream[Y]) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncGenerator[Y, None]:
        reading: Reading[Y] = Reading(self._stream)
        while await self._await_value(reading):
            yield reading.take()

    async def _await_value(self, reading: Reading[Y]) -> bool:
        """`Stream._await_value`, with the loop to wait on."""
        if reading.has_value:
            return True
        stream = self._stream
        bridge = stream.store.bridge
        patient = Patience(stream.store, stream.id, stream.timeout)
        if await bridge.call(reading.look, patient) <= 0:
            return reading.has_value
        watch = await bridge.take(lambda watch: watch.close(), stream.store.storage.watch, id=stream.id)
        try:
            while (pause := await bridge.call(reading.look, patient)) > 0:
                if await readable(watch.fileno(), pause):
                    watch.clear()
        finally:
            watch.close()
        return reading.has_value


class StreamHandle(Handle[None], Generic[Y]):
    """The handle of a generator task's event: `for value in handle` gives what it yields, as it comes."""

    __slots__ = ("_yields",)

    def __init__(self, store: Store, id: str, type: Any = Any, yields: Any = Any) -> None:
        super().__init__(store, id, type)
        self._yields = yields

    @property
    def aio(self) -> AsyncStreamHandle[Y]:
        """The same, awaitable: `async for value in handle.aio`."""
        from eventq.aio import AsyncStreamHandle

        return AsyncStreamHandle(self, self._value)

    def __iter__(self) -> Generator[Y, None, None]:
        return iter(self.stream())

    def stream(self, start: int = 0, timeout: float | None = None) -> Stream[Y]:
        """Its values from the index `start`, waiting `timeout` seconds for each; see `Stream`."""
        return Stream(self.store, self.id, self._yields, start=start, timeout=timeout)


class NoteFeed:
    """Reads the notes of an event in order, each time only those that are new."""

    __slots__ = ("_id", "_number", "_storage", "missed")

    def __init__(self, storage: Storage, id: str) -> None:
        self._storage = storage
        self._id = id
        self._number = 0
        """Of the last note that was read."""
        self.missed: int = 0
        """How many notes before the last new ones were too many to be kept, and never read here."""

    def new(self) -> list[Note]:
        """The notes that came since the last call."""
        notes = self._storage.notes(self._id, self._number)
        self.missed = notes[0].number - self._number - 1 if notes else 0
        if notes:
            self._number = notes[-1].number
        return notes


class Reading(Generic[Y]):
    """One iteration over a stream: what was read of it, and what comes next."""

    __slots__ = ("_count", "_feed", "_next", "_stream", "_uncertain", "_values")

    def __init__(self, stream: Stream[Y]) -> None:
        self._stream = stream
        self._feed = NoteFeed(stream.store.storage, stream.id)
        self._next = stream.start
        self._values: dict[int, Yielded] = {}
        """What was read and not given yet, by index."""
        self._count: int | None = None
        """How many values the last run had, if it came to its end."""
        self._uncertain = False
        """Notes were missed, and no value came since: they may have been the last ones."""

    @property
    def has_value(self) -> bool:
        """Whether `take` has something to give."""
        return self._next in self._values

    def take(self) -> Y:
        """The next value. Raises PayloadError if it does not fit the type."""
        noted = self._values.pop(self._next)
        self._next += 1
        text = noted.value or ""
        data = text.encode() if noted.codec == "json" else base64.b64decode(text)
        value: Y = self._stream.store.load(data, noted.codec, self._stream.type)
        return value

    def look(self, patient: Patience) -> float:
        """Read what is new. The seconds until the next look: 0 if there is a value, or will never be one again.

        Raises what ends the stream otherwise than well.
        """
        record, pause = patient.look()  # before the notes: of an event that has ended they are complete
        notes = self._feed.new()
        self._uncertain = self._uncertain or self._feed.missed > 0
        for note in notes:
            self._read(note)
        if self.has_value:
            return 0.0
        if self._values:
            raise self._missing(f"go on with start={min(self._values)}")
        if ended(record, self._stream.store):
            self._end(record)
            return 0.0
        if pause <= 0:
            raise ResultTimeout(
                f"value {self._next} of event {self._stream.id} has not come after {self._stream.timeout} s; "
                f"it goes on, read again with start={self._next}"
            )
        return pause

    def _read(self, note: Note) -> None:
        if note.kind != YIELDED:
            return
        try:
            noted = msgspec.json.decode(note.data, type=Yielded)
        except msgspec.MsgspecError as error:
            raise PayloadError(
                f"a note of event {self._stream.id} is of the kind {YIELDED!r}, but holds no value ({error}); "
                "handlers' own notes need a kind of their own"
            ) from error
        self._uncertain = False
        if noted.is_end:
            self._count = noted.n
            self._values = {n: value for n, value in self._values.items() if n < noted.n}  # the rest is an older run's
            return
        if noted.n == 0:  # a run begins, maybe again: all that matters of the one before has been given
            self._values.clear()
            self._count = None
        if noted.n >= self._next:
            self._values[noted.n] = noted

    def _end(self, record: Record | None) -> None:
        """Raise what the event's end was, if it was not a good one that all values were read before."""
        lacks = self._uncertain if self._count is None else self._next < self._count
        completed = record is not None and record.state is State.COMPLETED
        if record is None:  # not kept; whoever has read the end of the run knows that it was a good one
            completed = self._count is not None and not lacks
        if not completed:
            error = why_no_value(self._stream.id, record, self._stream.store)
            assert error is not None
            raise error
        if lacks:
            raise self._missing("nothing after it is kept either")

    def _missing(self, advice: str) -> ResultMissing:
        return ResultMissing(
            f"value {self._next} of event {self._stream.id} is missing: of an event's notes about 1 MiB is kept, "
            f"and there were more; {advice}. Read while it runs, or yield less (a path, a key)"
        )

"""Restoring: events of another store, as they were there, with their keys and the named claims."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from eventq.clock import SYSTEM
from eventq.errors import ConfigError, PayloadError
from eventq.ids import Stamps, created_of, event_id, nanoseconds_of, new_worker_id
from eventq.model import (
    Attempt,
    Completed,
    Copy,
    Failure,
    Name,
    Note,
    PutOptions,
    Record,
    Rejected,
    Released,
    Requeue,
    Retried,
    State,
)
from eventq.storage.base import MAX_PUT_EVENTS
from eventq.testing.conformance.scene import fires, in_threads, payload_of, payloads_of, records_of

if TYPE_CHECKING:
    from eventq.testing.conformance.scene import Scene

ELSEWHERE = "0123456789abcdef"
"""A worker of the other store."""


class Origin:
    """The store that the events come from: it makes their ids, and copies by hand."""

    def __init__(self, scene: Scene) -> None:
        self._stamps = Stamps(new_worker_id(), scene.clock or SYSTEM)

    def stem(self, back: float = 0.0) -> str:
        """The stem of a put, so many seconds ago."""
        stem = self._stamps.next()
        return self._stamps.at(nanoseconds_of(stem) - int(back * 1e9)) if back else stem

    def event(self, payload: object = 1, *, back: float = 0.0, id: str = "", **fields: Any) -> Copy:
        """A copy of an event that was put so many seconds ago; ready, unless said otherwise."""
        id = id or event_id(self.stem(back), 0)
        notes = fields.pop("notes", ())
        fields = {"queue": "q", "state": State.READY, "payload": msgspec.json.encode(payload), **fields}
        return Copy(Record(id=id, created=created_of(id), **fields), notes)

    def ended(self, state: State, content: object = 1, *, ago: float = 1.0, **fields: Any) -> Copy:
        """A copy of an event that ended so many seconds ago."""
        record = self.event(content, back=ago + 1.0).record
        settled = record.created + 1.0
        error = None if state is State.COMPLETED else Failure("ValueError", "no")
        attempts = (Attempt(ELSEWHERE, settled - 0.5, settled, str(state), error),)
        value = {"value": b'"done"'} if state is State.COMPLETED else {"failure": error}
        fields = {"attempts": attempts, "settled": settled, **value, **fields}
        return Copy(msgspec.structs.replace(record, state=state, **fields))


def rounded(thing: Any) -> Any:
    """The same as plain data, times to a tenth of a millisecond: some stores keep fewer digits."""
    if isinstance(thing, msgspec.Struct):
        thing = msgspec.structs.asdict(thing)
    if isinstance(thing, dict):
        return {key: rounded(value) for key, value in thing.items()}
    if isinstance(thing, tuple | list):
        return [rounded(value) for value in thing]
    return round(thing, 4) if isinstance(thing, float) else thing


class RestoreRules:
    # ---- as they were

    def test_a_restored_event_is_as_it_was(self, scene: Scene) -> None:
        worker, origin, now = scene.open(), Origin(scene), scene.now()
        error = Failure("ValueError", "no", "Traceback ...")
        copy = origin.event(
            {"a": 1}, headers={"h": [1]}, priority=-7, expires=now + 5000, key="k", unique="waiting", failures=1,
            crashes=1, attempts=(Attempt(ELSEWHERE, now - 9, now - 8, "crashed"),
                                 Attempt(ELSEWHERE, now - 7, now - 6, "failed", error)),
            failure=error, limits={"a": 2}, rates={"b": (3, 60.0)}, max_attempts=8, max_crashes=9, keep=70.0,
        )  # fmt: skip
        assert worker.restore([copy]) == 1
        assert rounded(scene.record(scene.open(), copy.record.id)) == rounded(copy.record)

    @pytest.mark.parametrize("state", [State.COMPLETED, State.DEAD, State.EXPIRED, State.CANCELLED])
    def test_what_has_ended_stays_so(self, scene: Scene, state: State) -> None:
        worker, origin = scene.open(), Origin(scene)
        copy = origin.ended(state, failures=2, crashes=1, headers={"h": 1}, priority=3)
        assert worker.restore([copy]) == 1
        (record,) = records_of(scene.open(), state)
        assert rounded(record) == rounded(copy.record)
        assert worker.claim("q") == []

    def test_a_delayed_event_is_claimable_when_it_is_due(self, scene: Scene) -> None:
        worker, origin = scene.open(), Origin(scene)
        copy = origin.event("later", state=State.DELAYED, due=scene.now() + 0.5)
        worker.restore([copy])
        assert rounded(scene.record(worker, copy.record.id)) == rounded(copy.record)
        assert worker.claim("q") == []
        scene.wait(0.6)
        assert scene.drain(worker) == ["later"]

    def test_every_state_of_several_queues_in_one_call(self, scene: Scene) -> None:
        worker, origin = scene.open(), Origin(scene)
        copies = [
            made
            for queue in ("q", "Other queue")
            for made in (
                origin.event(queue, queue=queue),
                origin.event(queue, queue=queue, state=State.DELAYED, due=scene.now() + 900),
                origin.event(queue, queue=queue, priority=2),
                *(origin.ended(state, queue, queue=queue) for state in list(State)[3:]),
            )
        ]
        assert worker.restore(copies) == len(copies) == 14
        other = scene.open()
        assert other.queues() == ["Other queue", "q"]
        for queue in other.queues():
            stats = other.stats(queue)
            assert [getattr(stats, state) for state in State] == [2, 1, 0, 1, 1, 1, 1]
            assert scene.drain(other, queue) == [queue, queue]

    @pytest.mark.parametrize("data", [b"", b"\n", bytes(range(256)), b'{"id":"', b"\xff" * 20_000])
    def test_binary_payloads_and_values_survive(self, scene: Scene, data: bytes) -> None:
        worker, origin = scene.open(), Origin(scene)
        said: dict[str, Any] = {"payload": data, "codec": "msgpack"}
        ready = Copy(msgspec.structs.replace(origin.event().record, **said))
        ended = origin.ended(State.COMPLETED, value=data, value_codec="msgpack", **said)
        assert worker.restore([ready, ended]) == 2
        claimed = scene.claim(worker)
        assert (claimed.codec, claimed.payload) == ("msgpack", data)
        record = scene.record(worker, ended.record.id)
        assert (record.value_codec, record.value) == ("msgpack", data)
        assert (record.codec, record.payload) == ("msgpack", data)

    def test_a_put_of_many_is_restored_whole(self, scene: Scene) -> None:
        """Ids of one put share all but their index."""
        worker, origin = scene.open(), Origin(scene)
        stem = origin.stem(5.0)
        copies = [origin.event(number, id=event_id(stem, number)) for number in range(300)]
        assert worker.restore(copies[:100]) == 100
        assert worker.restore(copies[50:200]) == 100
        assert worker.restore(copies) == 100
        assert [record.id for record in records_of(worker, State.READY)] == [copy.record.id for copy in copies]
        assert sorted(scene.drain(scene.open())) == list(range(300))

    def test_nothing_is_restored_of_nothing(self, scene: Scene) -> None:
        worker = scene.open()
        assert worker.restore([]) == 0
        assert worker.queues() == []

    # ---- claimed

    def test_what_was_claimed_is_ready_without_its_running_attempt(self, scene: Scene) -> None:
        worker, origin, now = scene.open(), Origin(scene), scene.now()
        before = Attempt(ELSEWHERE, now - 9, now - 8, "failed", Failure("E", "x"))
        copy = origin.event("c", state=State.CLAIMED, worker=ELSEWHERE, failures=1, failure=before.error,
                            attempts=(before, Attempt(ELSEWHERE, now - 1)))  # fmt: skip
        worker.restore([copy])
        record = scene.record(worker, copy.record.id)
        assert (record.state, record.worker, record.failures, record.crashes) == (State.READY, None, 1, 0)
        assert rounded(record.attempts) == rounded((before,))
        claimed = scene.claim(worker)
        assert (payload_of(claimed), claimed.failures, claimed.crashes) == ("c", 1, 0)

    def test_history_goes_on(self, scene: Scene) -> None:
        worker, origin, now = scene.open(), Origin(scene), scene.now()
        attempts = tuple(Attempt(ELSEWHERE, now - 50 + n, now - 49.5 + n, "failed") for n in range(20))
        copy = origin.event(attempts=attempts, failures=22)
        worker.restore([copy])
        claimed = scene.claim(worker)
        assert claimed.failures == 22
        worker.settle(claimed, Retried(5.0, Failure("E", "again")))
        record = scene.record(worker, copy.record.id)
        assert (record.state, record.failures, len(record.attempts)) == (State.DELAYED, 23, 20)
        assert (record.attempts[-1].worker, record.attempts[0].worker) == (worker.worker, ELSEWHERE)

    def test_a_restored_event_lives_like_any_other(self, scene: Scene) -> None:
        worker, origin = scene.open(), Origin(scene)
        copies = [origin.event(number) for number in range(3)]
        worker.restore([*copies, dead := origin.ended(State.DEAD, 3)])
        first, second = worker.claim("q", 2)
        worker.settle(first, Completed(b'"value"'))
        worker.settle(second, Rejected(Failure("E", "x")))
        assert scene.record(worker, first.id).value == b'"value"'
        assert scene.record(worker, second.id).state is State.DEAD
        scene.wait(0.01)
        assert worker.edit(None, [dead.record.id], Requeue()) == [dead.record.id]
        assert scene.drain(scene.open()) == [2, 3]

    def test_the_death_of_who_restored_takes_nothing_along(self, scene: Scene) -> None:
        worker, other, origin = scene.open(), scene.open(), Origin(scene)
        worker.restore([origin.event(number, back=10.0 - number) for number in range(5)])
        scene.kill(worker)
        scene.look(other)
        assert scene.drain(other) == [0, 1, 2, 3, 4]

    # ---- order

    def test_restored_events_stand_where_their_ids_say(self, scene: Scene) -> None:
        worker, origin = scene.open(), Origin(scene)
        scene.put(worker, "now")
        worker.restore([origin.event("5 s ago", back=5.0), origin.event("9 s ago", back=9.0)])
        worker.restore([origin.event("7 s ago", back=7.0), origin.event("high", priority=1)])
        scene.wait(0.01)
        scene.put(worker, "last")
        assert scene.drain(worker) == ["high", "9 s ago", "7 s ago", "5 s ago", "now", "last"]

    def test_who_was_delayed_stands_where_its_due_time_says(self, scene: Scene) -> None:
        worker, origin, now = scene.open(), Origin(scene), scene.now()
        worker.restore([
            origin.event("due 2 s ago", back=90.0, due=now - 2),
            origin.event("3 s ago", back=3.0),
            origin.event("1 s ago", back=1.0),
        ])  # fmt: skip
        assert scene.drain(worker) == ["3 s ago", "due 2 s ago", "1 s ago"]

    # ---- notes

    def test_notes_come_along_with_their_numbers(self, scene: Scene) -> None:
        worker, origin, now = scene.open(), Origin(scene), scene.now()
        notes = tuple(Note(now - 9 + n, "progress", msgspec.Raw(b'{"n": %d}' % n), n) for n in range(5, 8))
        copy, ended = origin.event(notes=notes), origin.ended(State.DEAD)
        worker.restore([copy, Copy(ended.record, notes[:1])])
        assert rounded(worker.notes(copy.record.id)) == rounded(notes)
        assert [note.number for note in worker.notes(copy.record.id, 5)] == [6, 7]
        assert [note.value for note in scene.open().notes(ended.record.id)] == [{"n": 5}]
        worker.note(scene.claim(worker), "output", b'"more"')
        assert [(note.number, note.kind) for note in worker.notes(copy.record.id, 6)] == [
            (7, "progress"),
            (8, "output"),
        ]

    def test_a_megabyte_of_notes_comes_along(self, scene: Scene) -> None:
        worker, origin = scene.open(), Origin(scene)
        text = msgspec.json.encode("x" * 100_000)
        notes = tuple(Note(scene.now(), "output", msgspec.Raw(text), number) for number in range(11, 21))
        copy = origin.event(notes=notes)
        worker.restore([copy])
        assert [note.number for note in worker.notes(copy.record.id)] == list(range(11, 21))
        claimed = scene.claim(worker)
        for _ in range(10):
            worker.note(claimed, "output", text)
        numbers = [note.number for note in worker.notes(claimed.id)]
        assert numbers == list(range(numbers[0], 31))
        assert numbers[0] > 11, "notes are bounded again"

    # ---- keys

    def test_an_open_event_holds_its_key(self, scene: Scene) -> None:
        worker, origin = scene.open(), Origin(scene)
        copy = origin.event(key="k", attempts=(Attempt(ELSEWHERE, 1.0, 2.0, "released"),))
        worker.restore([copy])
        assert scene.put_key(scene.open(), "k") == (copy.record.id, False)
        worker.settle(scene.claim(worker), Completed())
        assert scene.put_key(worker, "k")[1]

    def test_a_key_is_held_until_the_first_start(self, scene: Scene) -> None:
        worker, origin, now = scene.open(), Origin(scene), scene.now()
        fresh = origin.event("fresh", key="fresh", unique="waiting")
        begun = origin.event(
            "begun", key="begun", unique="waiting", attempts=(Attempt(ELSEWHERE, now - 2, now - 1, "failed"),)
        )
        running = origin.event("running", key="running", unique="waiting", state=State.CLAIMED, worker=ELSEWHERE,
                               attempts=(Attempt(ELSEWHERE, now - 1),))  # fmt: skip
        debounced = origin.event("debounced", key="debounced", unique="waiting", state=State.DELAYED, due=now + 900)
        worker.restore([fresh, begun, running, debounced])
        scene.wait(0.01)
        assert scene.put_key(worker, "fresh") == (fresh.record.id, False)
        assert scene.put_key(worker, "debounced") == (debounced.record.id, False)
        assert scene.put_key(worker, "begun")[1]
        assert scene.put_key(worker, "running")[1]
        worker.settle(scene.claim(worker), Released(500.0))
        assert scene.put_key(worker, "fresh")[1]

    def test_a_key_for_a_time_is_held_until_that_is_over(self, scene: Scene) -> None:
        worker, origin = scene.open(), Origin(scene)
        ready = origin.event(key="ready", unique=60.0, back=20.0)
        ended = origin.ended(State.COMPLETED, key="ended", unique=60.0, ago=19.0)
        over = origin.event(key="over", unique=60.0, back=61.0)
        worker.restore([ready, ended, over])
        assert scene.put_key(worker, "ready") == (ready.record.id, False)
        assert scene.put_key(worker, "ended") == (ended.record.id, False)
        assert scene.put_key(worker, "over")[1]
        scene.long_wait(39.0)
        assert scene.put_key(worker, "ready") == (ready.record.id, False)
        scene.long_wait(2.0)
        assert scene.put_key(worker, "ready")[1]
        assert scene.put_key(worker, "ended")[1]

    def test_what_has_ended_holds_no_key(self, scene: Scene) -> None:
        worker, origin = scene.open(), Origin(scene)
        worker.restore([origin.ended(State.DEAD, key="open"), origin.ended(State.DEAD, key="w", unique="waiting")])
        assert scene.put_key(worker, "open")[1]
        assert scene.put_key(worker, "w")[1]

    def test_a_key_that_is_taken_stays_its_holders(self, scene: Scene) -> None:
        worker, origin = scene.open(), Origin(scene)
        holder, _ = scene.put_key(worker, "k", "first")
        copy = origin.event("second", key="k", back=5.0)
        assert worker.restore([copy]) == 1
        assert scene.put_key(worker, "k") == (holder, False)
        assert scene.record(worker, copy.record.id).key == "k"
        claimed = scene.claim(worker)
        assert payload_of(claimed) == "second"
        worker.settle(claimed, Completed())
        assert scene.put_key(worker, "k") == (holder, False)

    # ---- limits, rates, retention

    def test_limits_and_rates_hold(self, scene: Scene) -> None:
        worker, origin = scene.open(), Origin(scene)
        worker.restore([origin.event(number, limits={"one": 1}) for number in range(2)])
        worker.restore([origin.event(number, queue="r", rates={"two": (2, 3600.0)}) for number in range(3)])
        (first,) = worker.claim("q", 10)
        assert payloads_of(worker.claim("r", 10)) == [0, 1]
        worker.settle(first, Completed())
        assert payloads_of(scene.until(lambda: worker.claim("q", 10), worker)) == [1]

    def test_records_are_kept_from_their_end_on(self, scene: Scene) -> None:
        worker, origin = scene.open(), Origin(scene)
        worker.configure("q", {"keep": 2000.0, "keep_dead": 3000.0})
        made = {
            "early end, late put": origin.ended(State.COMPLETED, ago=1500.0),
            "own": origin.ended(State.COMPLETED, keep=400.0, ago=100.0),
            "long": origin.ended(State.COMPLETED, keep=9000.0, ago=100.0),
            "dead": origin.ended(State.DEAD, ago=1500.0),
            "late end": origin.ended(State.COMPLETED, ago=10.0),
        }
        worker.restore(list(made.values()))

        def left() -> set[str]:
            worker.prune("q")
            return {name for name, copy in made.items() if worker.get(copy.record.id) is not None}

        assert left() == set(made)
        scene.long_wait(350.0)
        assert left() == set(made) - {"own"}
        scene.long_wait(300.0)
        assert left() == {"long", "dead", "late end"}
        scene.long_wait(1000.0)
        assert left() == {"long", "late end"}
        scene.long_wait(400.0)
        assert left() == {"long"}

    def test_no_bound_refuses_what_is_restored(self, scene: Scene) -> None:
        worker, origin = scene.open(), Origin(scene)
        worker.configure("q", {"maxsize": 1, "max_bytes": 10, "paused": True})
        assert worker.restore([origin.event("x" * 100) for _ in range(3)]) == 3
        assert worker.claim("q") == []
        assert worker.stats("q").ready == 3

    def test_retention_refuses_nothing_either(self, scene: Scene) -> None:
        """It is stored and counted; at some later look it goes, as everywhere."""
        worker, origin = scene.open(), Origin(scene)
        worker.configure("q", {"keep": 5.0, "keep_dead": 0.0})
        assert worker.restore([origin.ended(State.COMPLETED, ago=900.0), origin.ended(State.DEAD, ago=900.0)]) == 2
        worker.prune("q")
        assert (worker.stats("q").completed, worker.stats("q").dead) == (0, 0)

    # ---- again

    def test_restoring_again_changes_nothing(self, scene: Scene) -> None:
        worker, other, origin, now = scene.open(), scene.open(), Origin(scene), scene.now()
        notes = (Note(now, "progress", msgspec.Raw(b"1"), 1),)
        copies = [
            origin.event(1, key="k", notes=notes), origin.event(2, state=State.DELAYED, due=now + 900),
            *(origin.ended(state) for state in list(State)[3:]),
        ]  # fmt: skip
        names = [Name("n", ELSEWHERE, now - 5, msgspec.Raw(b"1"))]
        assert worker.restore(copies, names) == 6
        before = [worker.get(copy.record.id) for copy in copies]
        assert (worker.restore(copies, names), other.restore(copies[::-1], names)) == (0, 0)
        assert [other.get(copy.record.id) for copy in copies] == before
        assert rounded(worker.notes(copies[0].record.id)) == rounded(notes)
        assert scene.put_key(worker, "k") == (copies[0].record.id, False)
        assert scene.drain(worker) == [1]

    def test_an_event_that_is_here_is_left_alone(self, scene: Scene) -> None:
        worker, origin = scene.open(), Origin(scene)
        copies = [origin.event(number, back=9.0 - number) for number in range(5)]
        worker.restore(copies)
        completed, held, retried, dead = worker.claim("q", 4)
        worker.settle(completed, Completed(b"1"))
        worker.settle(retried, Retried(900.0))
        worker.settle(dead, Rejected())
        assert scene.open().restore([*copies, new := origin.event("new")]) == 1
        states = [scene.record(worker, copy.record.id).state for copy in copies]
        assert states == [State.COMPLETED, State.CLAIMED, State.DELAYED, State.DEAD, State.READY]
        assert scene.record(worker, held.id).worker == worker.worker
        worker.settle(held, Completed())
        assert scene.drain(scene.open()) == [4, "new"]
        assert scene.open().restore([new]) == 1, "of what ended without a record nothing is known"

    def test_an_event_that_moved_in_company_is_left_alone(self, scene: Scene) -> None:
        """Events of one put that were fetched together, and given back."""
        worker, other, origin = scene.open(), scene.open(), Origin(scene)
        stem = origin.stem(5.0)
        copies = [origin.event(number, id=event_id(stem, number)) for number in range(6)]
        worker.restore(copies)
        held = scene.claim(worker)
        worker.give_back("q")
        assert other.restore(copies) == 0
        again = scene.claim(other)
        other.give_back("q")
        assert worker.restore(copies) == 0
        worker.settle(held, Completed())
        other.settle(again, Completed())
        assert sorted(scene.drain(worker)) == [2, 3, 4, 5]

    def test_two_restore_the_same_at_once(self, scene: Scene) -> None:
        workers, origin = [scene.open(), scene.open()], Origin(scene)
        copies = [origin.event(number, back=60.0 - number) for number in range(50)]
        new: list[int] = []
        in_threads(4, lambda number: new.append(workers[number % 2].restore(copies)))
        assert sum(new) == 50
        assert scene.drain(scene.open()) == list(range(50))

    # ---- names

    def test_names_keep_their_holders(self, scene: Scene) -> None:
        worker, other, now = scene.open(), scene.open(), scene.now()
        mine, _ = worker.take_name("mine", b'"here"')
        theirs = Name("theirs", ELSEWHERE, now - 500.0, msgspec.Raw(b'{"by": 1}'))
        assert worker.restore([], [theirs, Name("mine", ELSEWHERE, now - 500.0)]) == 0
        assert rounded(other.names()) == rounded([mine, theirs])
        held, taken = other.take_name("theirs", b"2")
        assert (rounded(held), taken) == (rounded(theirs), False)
        assert other.release_name("theirs")
        assert other.take_name("theirs", b"2")[1]

    # ---- waking, and what cannot be

    def test_it_wakes_a_claimer_of_each_queue(self, scene: Scene) -> None:
        worker, other, origin = scene.open(), scene.open(), Origin(scene)
        watches = {queue: other.watch(queue) for queue in ("a", "b")}
        try:
            worker.restore([origin.event(1, queue="a"), origin.event(2, queue="b")])
            assert [fires(watch, 5.0) for watch in watches.values()] == [True, True]
        finally:
            for watch in watches.values():
                watch.close()

    def test_what_no_store_has_is_refused(self, scene: Scene) -> None:
        worker, origin = scene.open(), Origin(scene)
        good = origin.event()
        for change, error in (({"id": "../../x"}, ValueError), ({"queue": "x" * 300}, ConfigError)):
            bad = Copy(msgspec.structs.replace(good.record, **change))
            with pytest.raises(error):
                worker.restore([good, bad])
        with pytest.raises(PayloadError):
            worker.restore([good] * (MAX_PUT_EVENTS + 1))
        assert worker.queues() == []

    def test_a_key_put_later_is_found_with_its_event(self, scene: Scene) -> None:
        """Keys of restored events are those of their queue, and of no other."""
        worker, origin = scene.open(), Origin(scene)
        worker.restore([origin.event(key="k", queue="other")])
        assert scene.put_key(worker, "k")[1]
        assert not worker.put_key("other", b"1", PutOptions(key="k"))[1]

"""Putting: what is stored, in which order it comes out, when, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from eventq.errors import ConfigError, PayloadError, QueueFull
from eventq.ids import is_event_id
from eventq.model import Completed, Failure, Move, PutOptions, Rejected, Released, Requeue, Retried, State
from eventq.storage.base import MAX_PUT_BYTES, MAX_PUT_EVENTS
from eventq.testing.conformance.scene import in_threads, payload_of, payloads_of

if TYPE_CHECKING:
    from eventq.storage.base import Storage
    from eventq.testing.conformance.scene import Scene

HOSTILE_NAMES = (
    "../x", "..", ".", "/", "a/b", "a", "A", "a.b", "a_b", "a__b", "a b", "~a", "-", "ä", "队列", "🐝", "a\nb", "a\0b",
    "con", "%41", "*", "q~5~0",
)  # fmt: skip
HOSTILE_TEXTS = (
    "", " ", "line\nbreak", "\r\n\t", 'quo"te', "back\\slash", "\0", "\x7f\x1b[31m", "ü 队列 🐝", "\u2028\u2029",
    "a" * 5000, '"}\n{"id":"0', "null",
)  # fmt: skip


class PutRules:
    def test_put_returns_one_id_per_payload(self, scene: Scene) -> None:
        worker = scene.open()
        ids = scene.put(worker, "a", "b", "c")
        assert len(set(ids)) == 3
        assert all(is_event_id(id) for id in ids)
        assert [scene.record(worker, id).payload for id in ids] == [b'"a"', b'"b"', b'"c"']

    def test_what_was_put_is_what_is_claimed(self, scene: Scene) -> None:
        worker = scene.open()
        options = PutOptions(priority=7, headers={"user": "eve", "trace": [1, {"a": None}]}, max_attempts=9, keep=5.0)
        (id,) = worker.put("mail", [b'{"to": "eve"}'], options)
        claimed = scene.claim(worker, "mail")
        assert (claimed.id, claimed.queue, claimed.priority) == (id, "mail", 7)
        assert msgspec.json.decode(claimed.payload) == {"to": "eve"}
        assert claimed.codec == "json"
        assert claimed.headers == {"user": "eve", "trace": [1, {"a": None}]}
        assert (claimed.failures, claimed.crashes, claimed.cancelled) == (0, 0, False)
        assert (claimed.max_attempts, claimed.keep) == (9, 5.0)

    def test_putting_nothing_stores_nothing(self, scene: Scene) -> None:
        worker = scene.open()
        assert worker.put("q", [], PutOptions()) == []
        assert worker.claim("q") == []

    def test_another_worker_sees_what_was_put(self, scene: Scene) -> None:
        producer, claimer = scene.open(), scene.open()
        scene.put(producer, 1, 2, 3)
        scene.put(producer, 4)
        assert scene.drain(claimer) == [1, 2, 3, 4]

    def test_events_outlive_their_producer(self, scene: Scene) -> None:
        producer = scene.open()
        scene.put(producer, 1)
        producer.close()
        assert scene.drain(scene.open()) == [1]

    # ---- ids

    def test_ids_rise(self, scene: Scene) -> None:
        worker = scene.open()
        ids = [id for number in range(100) for id in scene.put(worker, *range(number % 4 + 1))]
        assert ids == sorted(set(ids))

    def test_ids_rise_over_queues_and_priorities(self, scene: Scene) -> None:
        worker = scene.open()
        ids = [scene.put(worker, n, queue=f"q{n % 3}", priority=n % 5)[0] for n in range(50)]
        assert ids == sorted(set(ids))

    def test_ids_rise_when_the_clock_steps_back(self, scene: Scene) -> None:
        if scene.clock is None:
            pytest.skip("needs a FakeClock")
        worker = scene.open()
        before = scene.put_each(worker, 1, 2)
        scene.clock.step_wall(-3600)
        after = scene.put_each(worker, 3, 4)
        assert before + after == sorted({*before, *after})
        assert scene.drain(worker) == [1, 2, 3, 4]

    def test_ids_of_two_workers_differ(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        ids = [id for _ in range(50) for worker in (one, two) for id in scene.put(worker, 1)]
        assert len(set(ids)) == 100

    # ---- order

    def test_first_in_first_out(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put_each(worker, *range(100))
        assert scene.drain(worker) == list(range(100))

    def test_batches_keep_their_order(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, *range(40))
        scene.put(worker, 40)
        scene.put(worker, *range(41, 80))
        assert scene.drain(worker) == list(range(80))

    @pytest.mark.parametrize("priorities", [(1, 3, 5), (5, 1, 3), (-5, 0, 5), (0, -1, -100), (100, 9, 10)])
    def test_higher_priority_comes_first(self, scene: Scene, priorities: tuple[int, ...]) -> None:
        worker = scene.open()
        for priority in priorities:
            scene.put(worker, priority, priority=priority)
        assert scene.drain(worker) == sorted(priorities, reverse=True)

    def test_a_higher_priority_that_comes_later_overtakes(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1, 2, 3)
        first = scene.claim(worker)
        worker.settle(first, Completed())
        scene.put(worker, 0, priority=1)
        worker.give_back("q")
        assert scene.drain(worker) == [0, 2, 3]

    def test_first_in_first_out_within_a_priority(self, scene: Scene) -> None:
        worker = scene.open()
        for number in range(30):
            scene.put(worker, number, priority=number % 2)
        assert scene.drain(worker) == [*range(1, 30, 2), *range(0, 30, 2)]

    # ---- time

    def test_a_delayed_event_waits(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1, due=scene.now() + 0.5)
        assert worker.claim("q") == []
        assert scene.record(worker, id).state is State.DELAYED
        assert worker.stats("q").delayed == 1
        scene.wait(0.5)
        assert scene.claim(worker).id == id

    def test_a_delayed_event_is_not_early(self, scene: Scene) -> None:
        if scene.clock is None:
            pytest.skip("needs a FakeClock")
        worker = scene.open()
        scene.put(worker, 1, due=scene.clock.now() + 200)
        for step in (0.1, 100, 99.8):
            scene.clock.advance(step)
            assert worker.claim("q") == []
        scene.clock.advance(0.2)
        assert scene.drain(worker) == [1]

    def test_delayed_events_come_in_due_order(self, scene: Scene) -> None:
        worker = scene.open()
        for delay in (0.3, 0.1, 0.2):
            scene.put(worker, delay, due=scene.now() + delay)
        scene.wait(0.4)
        assert scene.drain(worker) == [0.1, 0.2, 0.3]

    def test_due_events_come_by_priority(self, scene: Scene) -> None:
        worker = scene.open()
        due = scene.now() + 0.1
        for priority in (1, 5, 3):
            scene.put(worker, priority, due=due, priority=priority)
        scene.put(worker, 4, priority=4)
        scene.wait(0.2)
        assert scene.drain(worker) == [5, 4, 3, 1]

    def test_a_due_time_in_the_past_is_now(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1, due=scene.now() - 100)
        assert scene.drain(worker) == [1]

    def test_a_batch_may_be_delayed(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1, 2, 3, due=scene.now() + 0.2)
        assert worker.claim("q", 10) == []
        scene.wait(0.3)
        assert scene.drain(worker) == [1, 2, 3]

    def test_an_event_that_was_not_started_in_time_expires(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1, expires=scene.now() + 0.2)
        scene.put(worker, 2)
        scene.wait(0.3)
        assert scene.drain(worker) == [2]
        record = scene.record(worker, id)
        assert record.state is State.EXPIRED
        assert record.failure == Failure("expired", "not started before its expiry")
        assert record.attempts == ()
        assert msgspec.json.decode(record.payload) == 1

    def test_expiry_is_for_the_start_only(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1, expires=scene.now() + 0.2)
        claimed = scene.claim(worker)
        scene.wait(0.3)
        scene.look(worker)
        worker.settle(claimed, Completed(b'"done"'))
        assert scene.record(worker, claimed.id).state is State.COMPLETED

    def test_an_event_expires_between_two_attempts(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1, expires=scene.now() + 0.2)
        claimed = scene.claim(worker)
        worker.settle(claimed, Released())
        scene.wait(0.3)
        assert worker.claim("q") == []
        assert scene.record(worker, claimed.id).state is State.EXPIRED

    # ---- all or nothing

    def test_too_many_events_are_refused_whole(self, scene: Scene) -> None:
        worker = scene.open()
        with pytest.raises(PayloadError, match=str(MAX_PUT_EVENTS)):
            worker.put("q", [b"1"] * (MAX_PUT_EVENTS + 1), PutOptions())
        assert worker.claim("q") == []

    def test_too_many_bytes_are_refused_whole(self, scene: Scene) -> None:
        worker = scene.open()
        megabyte = b'"' + b"x" * ((1 << 20) - 2) + b'"'
        with pytest.raises(PayloadError):
            worker.put("q", [megabyte] * (MAX_PUT_BYTES // len(megabyte) + 1), PutOptions())
        assert worker.claim("q") == []

    def test_a_batch_with_one_large_payload_is_refused_whole(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"max_bytes": 100})
        with pytest.raises(PayloadError, match="100"):
            scene.put(worker, "small", "x" * 100, "small")
        with pytest.raises(PayloadError):
            scene.put_key(worker, "key", "x" * 100)
        assert worker.claim("q") == []
        scene.put(worker, "x" * 98)
        assert scene.drain(worker) == ["x" * 98]

    # ---- at most so many

    def test_a_full_queue_takes_no_more(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"maxsize": 3})
        scene.put_each(worker, 1, 2)
        scene.put(worker, 3, due=scene.now() + 0.2)
        with pytest.raises(QueueFull, match=r"'q'.*maxsize=3"):
            scene.put(worker, 4)
        with pytest.raises(QueueFull):
            scene.put_key(worker, "key")
        assert (worker.stats("q").ready, worker.stats("q").delayed) == (2, 1)
        claimed = scene.claim(worker)
        scene.put(worker, 4)
        with pytest.raises(QueueFull):
            scene.put(worker, 5)
        worker.settle(claimed, Completed())
        scene.wait(0.3)
        assert sorted(scene.drain(worker)) == [2, 3, 4]
        assert scene.put_key(worker, "key")[1]

    def test_a_batch_that_does_not_fit_is_refused_whole(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"maxsize": 4})
        scene.put(worker, 1, 2)
        with pytest.raises(QueueFull) as full:
            scene.put(worker, 3, 4, 5)
        assert not full.value.never
        with pytest.raises(QueueFull) as full:
            scene.put(worker, *range(5))
        assert full.value.never
        scene.put(worker, 3, 4)
        assert scene.drain(worker) == [1, 2, 3, 4]

    def test_a_held_key_is_no_question_of_room(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"maxsize": 2})
        held = scene.put_key(worker, "key")[0]
        first = scene.put_key(worker, "debounced", debounce=1.0)[0]
        assert scene.put_key(worker, "key") == (held, False)
        second, new = scene.put_key(worker, "debounced", debounce=1.0)
        assert new
        assert scene.record(worker, first).state is State.CANCELLED
        assert scene.put_key(worker, "debounced") == (second, False)
        with pytest.raises(QueueFull):
            scene.put_key(worker, "another", debounce=1.0)
        assert (worker.stats("q").ready, worker.stats("q").delayed) == (1, 1)

    def test_only_puts_are_refused(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"maxsize": 1})
        (completed,) = scene.put(worker, 1)
        worker.settle(scene.claim(worker), Completed(b"1"))
        (dead,) = scene.put(worker, 2)
        worker.settle(scene.claim(worker), Rejected())
        scene.put(worker, 3)
        claimed = scene.claim(worker)
        scene.put(worker, 4)
        worker.settle(claimed, Retried())
        assert worker.edit("q", [dead], Requeue()) == [dead]
        assert worker.edit("q", [completed], Requeue()) != ["too late"]
        (moved,) = scene.put(worker, 5, queue="other")
        assert worker.edit("other", [moved], Move("q")) == ["moved"]
        assert worker.stats("q").ready == 5
        with pytest.raises(QueueFull):
            scene.put(worker, 6)
        assert sorted(scene.drain(worker)) == [1, 2, 3, 4, 5]

    def test_a_bound_may_be_changed(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1)
        worker.configure("q", {"maxsize": 1})
        scene.look(worker)
        with pytest.raises(QueueFull):
            scene.put(worker, 2)
        worker.configure("q", {"maxsize": None})
        scene.look(worker)
        scene.put(worker, 2, 3)
        assert scene.drain(worker) == [1, 2, 3]

    def test_another_workers_events_count(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        one.configure("q", {"maxsize": 2})
        scene.put(one, 1)
        scene.put(two, 2)
        scene.look(one, two)
        for worker in (one, two):
            with pytest.raises(QueueFull):
                scene.put(worker, 3)

    @pytest.mark.parametrize("keyed", [False, True])
    def test_threads_fill_a_queue_exactly(self, scene: Scene, keyed: bool) -> None:
        worker = scene.open()
        worker.configure("q", {"maxsize": 50})
        stored: list[int] = []

        def put(number: int) -> None:
            for turn in range(20):
                try:
                    if keyed and turn % 2:
                        scene.put_key(worker, f"key {number} {turn}")
                    else:
                        scene.put(worker, *range(1 + turn % 3))
                except QueueFull:
                    continue
                stored.append(1 if keyed and turn % 2 else 1 + turn % 3)

        in_threads(8, put)
        assert sum(stored) == worker.stats("q").ready == 50

    # ---- whatever the content

    def test_a_megabyte_survives(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, "before")
        scene.put(worker, "ü" * (1 << 19))
        scene.put(worker, "after")
        assert scene.drain(worker) == ["before", "ü" * (1 << 19), "after"]

    @pytest.mark.parametrize("data", [b"", b"\n", b"\0\n\0", bytes(range(256)), b'{"id":"', b"\xff" * 20_000])
    def test_binary_payloads_survive(self, scene: Scene, data: bytes) -> None:
        worker = scene.open()
        ids = worker.put("q", [data, b"\n" + data], PutOptions(codec="msgpack"))
        records = [scene.record(worker, id) for id in ids]
        assert [(record.codec, record.payload) for record in records] == [("msgpack", data), ("msgpack", b"\n" + data)]
        claimed = [scene.claim(worker), scene.claim(worker)]
        assert [(one.codec, one.payload) for one in claimed] == [("msgpack", data), ("msgpack", b"\n" + data)]

    @pytest.mark.parametrize("text", HOSTILE_TEXTS)
    def test_hostile_texts_survive(self, scene: Scene, text: str) -> None:
        worker = scene.open()
        headers = {"text": text, text: [text]}
        (id,) = scene.put(worker, text, headers=headers)
        assert scene.record(worker, id).headers == headers
        claimed = scene.claim(worker)
        assert payload_of(claimed) == text
        assert claimed.headers == headers

    def test_headers_are_the_events_own(self, scene: Scene) -> None:
        worker = scene.open()
        headers: dict[str, Any] = {"tags": ["a"]}
        (id,) = scene.put(worker, 1, headers=headers)
        headers["tags"].append("b")
        claimed = scene.claim(worker)
        assert claimed.headers == {"tags": ["a"]}
        claimed.headers["tags"].append("c")
        scene.record(worker, id).headers["tags"].append("d")
        worker.settle(claimed, Released())
        assert scene.claim(worker).headers == {"tags": ["a"]}

    def test_headers_that_cannot_be_stored_are_refused(self, scene: Scene) -> None:
        worker = scene.open()
        with pytest.raises((PayloadError, TypeError)):
            scene.put(worker, 1, headers={"thing": object()})
        assert worker.claim("q") == []

    # ---- names

    def test_hostile_queue_names_never_mix(self, scene: Scene) -> None:
        worker = scene.open()
        for name in HOSTILE_NAMES:
            scene.put(worker, name, queue=name)
        assert worker.queues() == sorted(HOSTILE_NAMES)
        other: Storage = scene.open()
        for name in HOSTILE_NAMES:
            claimed = scene.claim(other, name)
            assert (claimed.queue, payload_of(claimed)) == (name, name)
            other.settle(claimed, Released())
        assert [scene.drain(other, name) for name in HOSTILE_NAMES] == [[name] for name in HOSTILE_NAMES]

    @pytest.mark.parametrize("name", ["", "x" * 300, "ü" * 100, "\ud800"])
    def test_impossible_queue_names_are_refused(self, scene: Scene, name: str) -> None:
        worker = scene.open()
        for call in (
            lambda: scene.put(worker, 1, queue=name),
            lambda: worker.put_key(name, b"1", PutOptions(key="k")),
            lambda: worker.claim(name),
            lambda: worker.configure(name, {"paused": True}),
        ):
            with pytest.raises(ConfigError):
                call()
        assert worker.queues() == []

    # ---- many

    def test_a_burst_through_two_workers(self, scene: Scene) -> None:
        producer, one, two = scene.open(), scene.open(), scene.open()
        expected = list(range(2000))
        for start in range(0, 2000, 100):
            scene.put(producer, *expected[start : start + 50])
            scene.put_each(producer, *expected[start + 50 : start + 100])
        found: list[int] = []
        while len(found) < 2000:
            for worker in (one, two):
                claimed = worker.claim("q", 7)
                found += payloads_of(claimed)
                for one_claim in claimed:
                    worker.settle(one_claim, Completed())
                if not claimed:
                    scene.look(worker)
        assert sorted(found) == expected
        assert one.claim("q") == two.claim("q") == []

"""Settling: each outcome, what it counts, what it keeps, and that a claim is settled once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from eventq.errors import ClaimLost
from eventq.model import (
    Completed,
    Dropped,
    Failure,
    Move,
    Outcome,
    Rejected,
    Released,
    Requeue,
    Retried,
    Skipped,
    State,
)
from eventq.testing.conformance.scene import fires, payload_of, payloads_of, records_of

if TYPE_CHECKING:
    from eventq.testing.conformance.scene import Scene

BROKEN = Failure("ValueError", "it broke\non two lines", 'Traceback:\n  "here"')
OUTCOMES: tuple[Outcome, ...] = (
    Completed(), Completed(b"1"), Retried(), Retried(60.0, BROKEN), Released(), Released(60.0), Rejected(BROKEN),
    Dropped(State.CANCELLED, "enough"), Dropped(State.EXPIRED, "late"),
)  # fmt: skip


class SettleRules:
    @pytest.mark.parametrize("first", OUTCOMES, ids=repr)
    def test_a_claim_is_settled_once(self, scene: Scene, first: Outcome) -> None:
        worker = scene.open()
        scene.put(worker, 1)
        claimed = scene.claim(worker)
        worker.settle(claimed, first)
        for second in (Completed(b"2"), Released(), Rejected()):
            with pytest.raises(ClaimLost):
                worker.settle(claimed, second)
        with pytest.raises(ClaimLost):
            worker.note(claimed, "progress", b"1")
        assert worker.stats("q").claimed == 0

    def test_an_old_claim_cannot_settle_a_new_one(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1)
        old = scene.claim(worker)
        worker.settle(old, Released())
        new = scene.claim(worker)
        with pytest.raises(ClaimLost):
            worker.settle(old, Completed())
        worker.settle(new, Completed())

    # ---- completed

    def test_completed_without_a_value_leaves_nothing(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1)
        claimed = scene.claim(worker)
        worker.settle(claimed, Completed())
        assert worker.get(claimed.id) is None
        assert worker.notes(claimed.id) == []
        assert records_of(worker, State.COMPLETED) == []

    def test_completed_with_a_value_is_kept(self, scene: Scene) -> None:
        worker, other = scene.open(), scene.open()
        scene.put(worker, {"n": 1}, headers={"user": "eve"})
        claimed = scene.claim(worker)
        worker.settle(claimed, Completed(b'{"sum": 30}'))
        record = scene.record(other, claimed.id)
        assert record.state is State.COMPLETED
        assert record.value is not None
        assert msgspec.json.decode(record.value) == {"sum": 30}
        assert record.value_codec == "json"
        assert msgspec.json.decode(record.payload) == {"n": 1}
        assert record.headers == {"user": "eve"}
        assert record.settled is not None
        assert [attempt.outcome for attempt in record.attempts] == ["completed"]
        assert other.claim("q") == []

    def test_an_encoded_null_is_a_value(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1)
        claimed = scene.claim(worker)
        worker.settle(claimed, Completed(b"null"))
        assert scene.record(worker, claimed.id).value == b"null"

    @pytest.mark.parametrize("value", [b"", b"\n\0\n", bytes(range(256)), b"\xc1" * 100_000])
    def test_a_value_may_be_binary(self, scene: Scene, value: bytes) -> None:
        worker = scene.open()
        scene.put(worker, 1)
        claimed = scene.claim(worker)
        worker.settle(claimed, Completed(value, "msgpack"))
        record = scene.record(worker, claimed.id)
        assert (record.value, record.value_codec) == (value, "msgpack")

    def test_keep_zero_keeps_no_value(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"keep": 0})
        scene.put(worker, 1)
        claimed = scene.claim(worker)
        worker.settle(claimed, Completed(b"1"))
        assert worker.get(claimed.id) is None

    def test_an_events_own_keep_beats_the_queues(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"keep": 0})
        (kept,) = scene.put(worker, 1, keep=100.0)
        worker.settle(scene.claim(worker), Completed(b"1"))
        worker.configure("q", {"keep": 100.0})
        (gone,) = scene.put(worker, 1, keep=0.0)
        worker.settle(scene.claim(worker), Completed(b"1"))
        assert scene.record(worker, kept).value == b"1"
        assert worker.get(gone) is None

    def test_each_of_a_batch_keeps_its_own_end(self, scene: Scene) -> None:
        worker = scene.open()
        ids = scene.put(worker, *range(6))
        claimed = worker.claim("q", 6)
        outcomes: tuple[Outcome, ...] = (
            Completed(b"10"), Rejected(BROKEN), Completed(), Dropped(State.CANCELLED, "no"), Released(),
            Completed(b"15"),
        )  # fmt: skip
        for one, outcome in zip(claimed, outcomes, strict=True):
            worker.settle(one, outcome)
        states = [None if (record := worker.get(id)) is None else record.state for id in ids]
        assert states == [State.COMPLETED, State.DEAD, None, State.CANCELLED, State.READY, State.COMPLETED]
        assert [scene.record(worker, ids[n]).value for n in (0, 5)] == [b"10", b"15"]
        assert scene.drain(worker) == [4]

    def test_the_end_wakes_who_watches_the_event(self, scene: Scene) -> None:
        producer, claimer = scene.open(), scene.open()
        for outcome in (Completed(b"1"), Rejected(BROKEN), Dropped(State.CANCELLED, "no")):
            (id,) = scene.put(producer, 1)
            watch = producer.watch(id=id)
            try:
                claimed = scene.claim(claimer)
                claimer.settle(claimed, outcome)
                assert fires(watch, 5.0)
            finally:
                watch.close()

    def test_a_completed_event_has_no_failure(self, scene: Scene) -> None:
        """Only its attempts tell that it failed before."""
        worker = scene.open()
        ids = scene.put(worker, 1, 2)
        for claimed in worker.claim("q", 2):
            worker.settle(claimed, Retried(0.0, BROKEN))
        for claimed in worker.claim("q", 2):
            worker.settle(claimed, Completed(b"1"))
        for id in ids:
            record = scene.record(worker, id)
            assert (record.state, record.failure, record.failures) == (State.COMPLETED, None, 1)
            assert [attempt.error for attempt in record.attempts] == [BROKEN, None]

    # ---- retried

    def test_retried_counts_a_failure(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1)
        for failures in range(4):
            claimed = scene.claim(worker)
            assert (claimed.failures, claimed.crashes) == (failures, 0)
            worker.settle(claimed, Retried(0.0, BROKEN))
        record = scene.record(worker, id)
        assert (record.state, record.failures, record.failure) == (State.READY, 4, BROKEN)
        assert [attempt.outcome for attempt in record.attempts] == ["failed"] * 4
        assert {attempt.error for attempt in record.attempts} == {BROKEN}
        assert all(attempt.ended is not None for attempt in record.attempts)

    def test_retried_waits_for_its_delay(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1)
        claimed = scene.claim(worker)
        worker.settle(claimed, Retried(0.5))
        assert worker.claim("q") == []
        record = scene.record(worker, claimed.id)
        assert record.state is State.DELAYED
        assert record.due == pytest.approx(scene.now() + 0.5, abs=0.4)
        scene.wait(0.5)
        assert scene.claim(worker).failures == 1

    def test_one_of_a_batch_is_retried_alone(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1, 2, 3)
        claimed = worker.claim("q", 3)
        worker.settle(claimed[1], Retried(0.2, BROKEN))
        worker.settle(claimed[0], Completed())
        worker.settle(claimed[2], Completed())
        assert worker.claim("q") == []
        scene.wait(0.3)
        again = scene.claim(worker)
        assert (again.id, payload_of(again), again.failures) == (claimed[1].id, 2, 1)

    # ---- released

    def test_released_counts_nothing(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1)
        claimed = scene.claim(worker)
        worker.settle(claimed, Released())
        record = scene.record(worker, claimed.id)
        assert (record.state, record.failures, record.crashes) == (State.READY, 0, 0)
        assert [attempt.outcome for attempt in record.attempts] == ["released"]
        again = scene.claim(worker)
        assert (again.id, again.failures, again.crashes) == (claimed.id, 0, 0)

    def test_released_keeps_its_place(self, scene: Scene) -> None:
        worker = scene.open()
        for number in range(4):
            scene.put(worker, number)
            scene.wait(0.05)
        worker.settle(scene.claim(worker), Released())
        assert scene.drain(worker) == [0, 1, 2, 3]

    def test_released_of_a_batch_goes_to_others(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, *range(4))
        claimed = one.claim("q", 4)
        one.settle(claimed[2], Released())
        assert payloads_of(two.claim("q", 4)) == [2]

    def test_released_may_wait(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1)
        worker.settle(scene.claim(worker), Released(0.5))
        assert worker.claim("q") == []
        assert worker.stats("q").delayed == 1
        scene.wait(0.5)
        assert scene.drain(worker) == [1]

    # ---- skipped

    def test_skipped_is_for_others_only(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 1)
        claimed = scene.claim(one)
        one.settle(claimed, Skipped())
        for _ in range(3):
            assert one.claim("q") == []
            scene.look(one, two)
        again = scene.claim(two)
        assert (again.id, again.failures, again.crashes) == (claimed.id, 0, 0)
        assert [attempt.outcome for attempt in scene.record(two, again.id).attempts] == ["skipped", "running"]
        two.settle(again, Released())
        assert one.claim("q") == []

    def test_skipped_is_for_others_wherever_it_is_moved(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 1, 2)
        claimed = scene.claim(one)
        one.settle(claimed, Skipped())
        assert two.edit("q", [claimed.id], Move("other")) == ["moved"]
        for _ in range(3):
            assert one.claim("other") == []
            scene.look(one, two)
        (again,) = two.claim("other")
        assert again.id == claimed.id

    def test_skipped_is_for_others_after_a_requeue_too(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 1)
        claimed = scene.claim(one)
        one.settle(claimed, Skipped())
        two.settle(scene.claim(two), Rejected())
        assert two.edit("q", [claimed.id], Requeue()) == [claimed.id]
        scene.look(one, two)
        assert one.claim("q") == []
        assert scene.claim(two).id == claimed.id

    def test_skipped_does_not_stop_the_rest(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, *range(4))
        one.settle(scene.claim(one), Skipped())
        assert scene.drain(one) == [1, 2, 3]
        assert scene.drain(two) == [0]

    def test_skipped_by_all_stays_ready(self, scene: Scene) -> None:
        workers = [scene.open(), scene.open()]
        (id,) = scene.put(workers[0], 1)
        for worker in workers:
            worker.settle(scene.claim(worker), Skipped())
        assert [worker.claim("q") for worker in workers] == [[], []]
        assert scene.record(workers[0], id).state is State.READY
        assert scene.drain(scene.open()) == [1]

    # ---- ended otherwise

    def test_rejected_without_a_reason_has_the_last_one(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1)
        worker.settle(scene.claim(worker), Retried(0.0, BROKEN))
        claimed = scene.claim(worker)
        worker.settle(claimed, Rejected())
        assert scene.record(worker, claimed.id).failure == BROKEN

    def test_rejected_is_a_dead_letter(self, scene: Scene) -> None:
        worker, other = scene.open(), scene.open()
        scene.put(worker, {"n": 1}, headers={"user": "eve"})
        worker.settle(scene.claim(worker), Retried(0.0, BROKEN))
        claimed = scene.claim(worker)
        last = Failure("KeyError", "n")
        worker.settle(claimed, Rejected(last))
        record = scene.record(other, claimed.id)
        assert (record.state, record.failure, record.failures) == (State.DEAD, last, 2)
        assert msgspec.json.decode(record.payload) == {"n": 1}
        assert record.headers == {"user": "eve"}
        assert [(attempt.outcome, attempt.error) for attempt in record.attempts] == [("failed", BROKEN), ("dead", last)]
        assert worker.claim("q") == []

    @pytest.mark.parametrize("state", [State.CANCELLED, State.EXPIRED])
    def test_dropped_is_kept_with_its_reason(self, scene: Scene, state: State) -> None:
        worker = scene.open()
        scene.put(worker, 1)
        claimed = scene.claim(worker)
        worker.settle(claimed, Dropped(state, "because"))
        record = scene.record(worker, claimed.id)
        assert record.state is state
        assert record.failure == Failure(str(state), "because")
        assert [attempt.outcome for attempt in record.attempts] == [str(state)]
        assert scene.all_of(worker, state) == [1]

    def test_keep_dead_zero_keeps_none(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"keep_dead": 0})
        scene.put(worker, 1, 2)
        first, second = worker.claim("q", 2)
        worker.settle(first, Rejected())
        worker.settle(second, Dropped(State.CANCELLED, ""))
        scene.look(worker)
        stats = worker.stats("q")
        assert (stats.dead, stats.cancelled, stats.claimed, stats.ready) == (0, 0, 0, 0)

    def test_the_newest_twenty_attempts_are_kept(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1)
        for number in range(25):
            worker.settle(scene.claim(worker), Retried(0.0, Failure("Error", str(number))))
        record = scene.record(worker, id)
        assert record.failures == 25
        assert [attempt.error and attempt.error.message for attempt in record.attempts] == [
            str(n) for n in range(5, 25)
        ]

    def test_time_with_a_handler_is_recorded(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1)
        claimed = scene.claim(worker)
        scene.wait(0.3)
        worker.settle(claimed, Completed(b"1"))
        (attempt,) = scene.record(worker, claimed.id).attempts
        assert attempt.ended is not None
        assert 0.25 <= attempt.ended - attempt.started < 10
        assert attempt.worker == worker.worker

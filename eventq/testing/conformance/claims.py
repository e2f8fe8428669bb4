"""Claiming: what a claim says, that it is exclusive, what is given back, and what wakes a claimer."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from eventq.model import Completed, Released, State
from eventq.storage.base import LOOK_INTERVAL
from eventq.testing.conformance.scene import fires, in_threads, payload_of, payloads_of

if TYPE_CHECKING:
    from eventq.testing.conformance.scene import Scene


class ClaimRules:
    def test_an_empty_queue_gives_nothing(self, scene: Scene) -> None:
        worker = scene.open()
        assert worker.claim("never made") == []
        scene.put(worker, 1)
        scene.drain(worker)
        assert worker.claim("q") == []

    def test_a_claim_takes_at_most_its_limit(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put_each(worker, *range(10))
        assert payloads_of(worker.claim("q", 4)) == [0, 1, 2, 3]
        assert payloads_of(worker.claim("q", 1)) == [4]
        assert payloads_of(worker.claim("q", 100)) == [5, 6, 7, 8, 9]

    def test_one_claim_may_cross_batches_and_priorities(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 3, 4)
        scene.put(worker, 1, 2, priority=1)
        assert payloads_of(worker.claim("q", 10)) == [1, 2, 3, 4]

    def test_a_claim_is_recorded_before_it_is_returned(self, scene: Scene) -> None:
        worker, other = scene.open(), scene.open()
        scene.put(worker, 1)
        before = scene.now()
        claimed = scene.claim(worker)
        record = scene.record(other, claimed.id)
        assert (record.state, record.worker) == (State.CLAIMED, worker.worker)
        (attempt,) = record.attempts
        assert (attempt.worker, attempt.outcome, attempt.ended) == (worker.worker, "running", None)
        assert before - 1 <= attempt.started <= scene.now() + 1

    def test_queues_are_apart(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, "a", queue="a")
        scene.put(worker, "b", queue="b")
        assert scene.drain(worker, "b") == ["b"]
        assert scene.drain(worker, "a") == ["a"]

    # ---- exclusive

    def test_a_claimed_event_is_nobody_elses(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 1)
        claimed = scene.claim(one)
        for _ in range(5):
            assert two.claim("q") == []
            assert one.claim("q") == []
            scene.look(one, two)
        one.settle(claimed, Completed())
        assert two.claim("q") == []

    def test_each_event_once_with_many_threads(self, scene: Scene) -> None:
        """Four workers with two threads each, 3,000 events in batches and alone, while they are put."""
        workers = [scene.open() for _ in range(4)]
        total = 3000
        found: list[int] = []
        done = threading.Event()

        def put_some(worker_number: int) -> None:
            worker = workers[worker_number]
            for start in range(worker_number * 750, worker_number * 750 + 750, 25):
                scene.put(worker, *range(start, start + 20))
                scene.put_each(worker, *range(start + 20, start + 25))

        def work(number: int) -> None:
            worker = workers[number % 4]
            if number < 4:
                put_some(number)
            while not done.is_set():
                claimed = worker.claim("q", number + 1)
                found.extend(payloads_of(claimed))
                for one in claimed:
                    worker.settle(one, Completed())
                if len(found) >= total:
                    done.set()
                if not claimed:
                    worker.recover()

        in_threads(8, work)
        assert sorted(found) == list(range(total))
        assert [worker.claim("q", 10) for worker in workers] == [[]] * 4

    def test_one_event_many_takers(self, scene: Scene) -> None:
        workers = [scene.open() for _ in range(4)]
        for number in range(25):
            scene.put(workers[0], number)
            won: list[int] = []
            in_threads(8, lambda n, won=won: won.extend(payloads_of(workers[n % 4].claim("q"))))  # type: ignore[misc]
            assert won == [number]

    # ---- given back

    def test_what_was_not_started_can_be_given_back(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, *range(5))
        first = scene.claim(one)
        one.give_back("q")
        assert scene.drain(two) == [1, 2, 3, 4]
        one.settle(first, Completed(b"1"))
        assert scene.record(two, first.id).state is State.COMPLETED

    def test_giving_back_keeps_the_order(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, *range(6))
        scene.put(worker, 6)
        order = []
        while claimed := worker.claim("q"):
            order.append(payload_of(claimed[0]))
            worker.settle(claimed[0], Completed())
            worker.give_back("q")
        assert order == list(range(7))

    def test_giving_back_counts_no_attempt(self, scene: Scene) -> None:
        worker = scene.open()
        ids = scene.put(worker, *range(3))
        scene.claim(worker)
        worker.give_back("q")
        record = scene.record(worker, ids[2])
        assert (record.state, record.failures, record.crashes, record.attempts) == (State.READY, 0, 0, ())

    def test_giving_back_nothing_is_harmless(self, scene: Scene) -> None:
        worker = scene.open()
        worker.give_back("q")
        scene.put(worker, 1)
        claimed = scene.claim(worker)
        worker.give_back("q")
        worker.settle(claimed, Completed())

    # ---- woken

    def test_a_put_wakes_a_claimer(self, scene: Scene) -> None:
        producer, claimer = scene.open(), scene.open()
        watch = claimer.watch("q")
        try:
            assert claimer.claim("q") == []
            scene.put(producer, 1)
            assert fires(watch, 5.0)
        finally:
            watch.close()

    def test_a_watch_fires_again(self, scene: Scene) -> None:
        producer, claimer = scene.open(), scene.open()
        watch = claimer.watch("q")
        try:
            for number in range(3):
                scene.put(producer, number)
                assert fires(watch, 5.0)
                while fires(watch):
                    watch.clear()
                assert scene.drain(claimer) == [number]
        finally:
            watch.close()

    def test_one_wake_is_for_one_waiter(self, scene: Scene) -> None:
        producer, one, two = scene.open(), scene.open(), scene.open()
        watches = [one.watch("q"), two.watch("q")]
        try:
            scene.put(producer, 1)
            scene.until(lambda: any(fires(watch) for watch in watches))
            next(watch for watch in watches if fires(watch)).clear()
            assert not any(fires(watch) for watch in watches)
        finally:
            for watch in watches:
                watch.close()

    def test_clearing_never_blocks(self, scene: Scene) -> None:
        watch = scene.open().watch("q")
        watch.clear()
        watch.clear()
        watch.close()

    def test_a_watch_of_another_queue_stays_quiet(self, scene: Scene) -> None:
        worker = scene.open()
        watch, other = worker.watch("a"), worker.watch("b")
        try:
            scene.put(worker, 1, queue="a")
            assert fires(watch, 5.0)
            assert not fires(other)
        finally:
            watch.close()
            other.close()

    def test_a_release_wakes_a_claimer(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 1)
        claimed = scene.claim(one)
        watch = two.watch("q")
        try:
            one.settle(claimed, Released())
            assert fires(watch, 5.0)
            assert scene.drain(two) == [1]
        finally:
            watch.close()

    def test_who_waits_for_what_is_due_by_now_waits_no_longer(self, scene: Scene) -> None:
        """Between a claim that came too early and the look that says how long to sleep. A time before now would be
        taken for no end of the sleep."""
        if scene.clock is None:
            pytest.skip("needs a FakeClock")
        worker = scene.open()
        scene.put(worker, 1, due=scene.clock.now() + 0.1)
        assert worker.claim("q") == []
        scene.clock.advance(0.2)
        assert 0 <= worker.recover() <= LOOK_INTERVAL
        assert scene.drain(worker) == [1]

    def test_recover_says_when_a_delayed_event_is_due(self, scene: Scene) -> None:
        if scene.clock is None:
            pytest.skip("needs a FakeClock")
        worker = scene.open()
        assert worker.claim("q") == []
        scene.look(worker)
        scene.put(worker, 1, due=scene.clock.now() + 0.1)
        wait = worker.recover()
        assert 0 < wait <= 0.1 + 1e-6
        scene.clock.advance(wait + 1e-3)
        assert scene.drain(worker) == [1]

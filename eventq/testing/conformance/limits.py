"""Limits: how many events run at once, over all workers; by a name that events give, or in a queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from eventq.errors import ConfigError
from eventq.model import (
    Cancel,
    Completed,
    Delete,
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
from eventq.storage.base import LOOK_INTERVAL
from eventq.testing.conformance.scene import fires, in_threads, payload_of, payloads_of

if TYPE_CHECKING:
    from eventq.model import Claimed
    from eventq.storage.base import Storage
    from eventq.testing.conformance.scene import Scene

ENDS: dict[str, Outcome] = {
    "completed": Completed(),
    "completed with a value": Completed(b"1"),
    "retried": Retried(0.0, Failure("ValueError")),
    "retried later": Retried(1000.0, Failure("ValueError")),
    "released": Released(),
    "released later": Released(1000.0),
    "skipped": Skipped(),
    "rejected": Rejected(),
    "cancelled": Dropped(State.CANCELLED, "no"),
    "expired": Dropped(State.EXPIRED, "late"),
}
SECOND = round(1 / LOOK_INTERVAL)
"""How many looks a second has."""


def within_a_second(scene: Scene, worker: Storage, queue: str = "q") -> Claimed:
    """Claim the event that must come within a second."""
    for _ in range(SECOND):
        scene.look(worker)
        if claimed := worker.claim(queue):
            return claimed[0]
    raise AssertionError("nothing came back within a second")


class LimitRules:
    def test_a_limit_excludes_over_workers_and_queues(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put_each(one, 1, 2, limits={"c": 1})
        scene.put(one, 3, queue="other", limits={"c": 1})
        first = scene.claim(one)
        for _ in range(5):
            assert [one.claim("q"), two.claim("q", 9), two.claim("other"), one.claim("other")] == [[]] * 4
            scene.look(one, two)
        one.settle(first, Completed())
        assert len(two.claim("q", 9) + two.claim("other", 9)) == 1

    def test_those_behind_it_do_not_wait(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put_each(one, 1, 2, limits={"c": 1})
        scene.put_each(one, 3, 4, limits={"d": 1})
        scene.put(one, 5)
        assert payloads_of(one.claim("q", 9)) == [1, 3, 5]
        assert two.claim("q", 9) == []

    def test_a_name_has_as_many_places_as_are_said(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, *range(9), limits={"c": 3})
        found = one.claim("q", 2)
        one.give_back("q")
        assert payloads_of(found + two.claim("q", 9)) == [0, 1, 2]
        scene.look(one, two)
        assert one.claim("q", 9) == two.claim("q", 9) == []
        one.settle(found[0], Completed())
        assert payload_of(scene.claim(two)) == 3
        assert one.claim("q", 9) == []

    def test_each_obeys_its_own_number(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1, limits={"c": 1})
        scene.put_each(worker, 2, 3, limits={"c": 2})
        scene.put(worker, 4, limits={"c": 1})
        first, second = worker.claim("q", 9)
        assert payloads_of([first, second]) == [1, 2]
        worker.settle(second, Completed())
        assert payload_of(scene.claim(worker)) == 3
        worker.settle(first, Completed())
        assert payload_of(scene.claim(worker)) == 4

    def test_several_limits_are_taken_together_or_not_at_all(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 1, limits={"b": 1})
        first = scene.claim(one)
        scene.put(one, 2, limits={"b": 1, "a": 1})
        assert two.claim("q") == []
        scene.put(one, 3, limits={"a": 1})
        second = scene.claim(two)
        assert payload_of(second) == 3  # 2 holds nothing while it waits
        one.settle(first, Completed())
        scene.look(one, two)
        assert one.claim("q") == []
        two.settle(second, Completed())
        third = scene.until(lambda: one.claim("q"), one)[0]
        assert payload_of(third) == 2

    def test_events_that_cross_each_other_all_run(self, scene: Scene) -> None:
        workers = [scene.open() for _ in range(3)]
        for number in range(20):
            scene.put(workers[0], number, limits={"a": 1, "b": 1} if number % 2 else {"b": 1, "a": 1, "c": 2})
        running: list[int] = []
        done: list[int] = []
        clashes: list[list[int]] = []

        def work(number: int) -> None:
            worker = workers[number]
            while len(done) < 20:
                for claimed in worker.claim("q", 2):
                    running.append(payload_of(claimed))
                    if len(running) > 1:
                        clashes.append(list(running))
                    running.remove(payload_of(claimed))
                    done.append(payload_of(claimed))
                    worker.settle(claimed, Completed())
                worker.recover()
                if number == 0:
                    scene.wait(0.01)

        in_threads(3, work)
        assert sorted(done) == list(range(20))
        assert not clashes

    # ---- freed

    @pytest.mark.parametrize("outcome", ENDS.values(), ids=list(ENDS))
    def test_the_end_of_an_event_frees_its_places_at_once(self, scene: Scene, outcome: Outcome) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, "low", limits={"c": 1, "d": 1}, priority=-1)
        first = scene.claim(one)
        ids = scene.put_each(one, "high", "higher", limits={"c": 1}, priority=5)
        assert two.claim("q", 9) == []
        watch = two.watch("q")
        try:
            one.settle(first, outcome)
            assert fires(watch, 5.0)
        finally:
            watch.close()
        assert scene.claim(two).id == ids[0]
        assert two.claim("q") == []

    def test_giving_back_frees_nothing_that_runs(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 1, 2, 3, limits={"c": 2})
        scene.claim(one)
        one.give_back("q")
        assert payload_of(scene.claim(two)) == 2
        assert two.claim("q") == []

    def test_leaving_frees_the_places(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 1, 2, limits={"c": 1})
        scene.claim(one)
        assert two.claim("q") == []
        one.close()
        assert payload_of(scene.claim(two)) == 1
        assert two.claim("q") == []

    def test_death_frees_the_places_within_a_second(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put_each(one, 1, 2, 3, limits={"c": 1})
        scene.put(one, 4, queue="other", limits={"c": 1})
        first = scene.claim(one)
        assert two.claim("q", 9) == two.claim("other") == []
        scene.kill(one)
        again = within_a_second(scene, two)
        assert (again.id, again.crashes) == (first.id, 1)
        assert two.claim("q") == []
        two.settle(again, Completed())
        assert payload_of(within_a_second(scene, two)) == 2

    def test_what_the_dead_held_of_another_queue_is_free(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 1, limits={"c": 1})
        scene.claim(one)
        scene.put(one, 2, queue="other", limits={"c": 1})
        assert two.claim("other") == []
        scene.kill(one)
        assert payload_of(within_a_second(scene, two, "other")) == 2

    # ---- who waits

    def test_the_highest_and_oldest_comes_first(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, "first", limits={"c": 1})
        claimed = scene.claim(one)
        scene.put_each(one, 1, 2, limits={"c": 1})
        scene.put(one, 3, 4, limits={"c": 1})
        scene.put_each(one, 5, 6, limits={"c": 1}, priority=5)
        assert two.claim("q", 9) == []
        one.settle(claimed, Completed())
        assert scene.drain(two) == [5, 6, 1, 2, 3, 4]

    def test_who_waits_comes_before_who_comes_later(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1, limits={"c": 1})
        first = scene.claim(worker)
        scene.put(worker, 2, limits={"c": 1})
        assert worker.claim("q") == []
        scene.put(worker, *range(3, 9))
        second = scene.claim(worker)
        assert payload_of(second) == 3
        worker.settle(first, Completed())
        assert scene.drain(worker) == [2, *range(4, 9)]

    def test_who_waits_is_ready(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 1, limits={"c": 1})
        scene.claim(one)
        ids = scene.put_each(one, 2, 3, limits={"c": 1}, headers={"a": 1})
        scene.wait(2.0)
        assert two.claim("q") == []
        stats = two.stats("q")
        assert (stats.ready, stats.claimed) == (2, 1)
        assert stats.oldest_ready is not None
        assert stats.oldest_ready >= 2.0
        assert scene.all_of(two, State.READY) == [2, 3]
        record = scene.record(two, ids[0])
        assert (record.state, record.limits, record.headers) == (State.READY, {"c": 1}, {"a": 1})
        assert (record.attempts, record.worker) == ((), None)

    def test_records_tell_the_limits(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1, limits={"b": 2, "a": 1})
        assert scene.record(worker, id).limits == {"a": 1, "b": 2}
        worker.settle(scene.claim(worker), Completed(b"1"))
        assert scene.record(worker, id).limits == {"a": 1, "b": 2}
        (again,) = worker.edit("q", [id], Requeue())
        assert scene.record(worker, again).limits == {"a": 1, "b": 2}
        (plain,) = scene.put(worker, 2)
        assert scene.record(worker, plain).limits == {}

    def test_a_retried_event_keeps_its_limits(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        (id,) = scene.put(one, 1, limits={"c": 1})
        one.settle(scene.claim(one), Retried())
        claimed = scene.claim(two)
        assert claimed.id == id
        (other,) = scene.put(one, 2, limits={"c": 1})
        scene.look(one)
        assert one.claim("q") == []
        two.settle(claimed, Completed())
        assert scene.until(lambda: one.claim("q"), one)[0].id == other

    def test_a_keyed_event_may_have_limits(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 1, limits={"c": 1})
        claimed = scene.claim(one)
        id, _ = scene.put_key(one, "key", limits={"c": 1})
        assert two.claim("q") == []
        assert scene.put_key(two, "key") == (id, False)
        one.settle(claimed, Completed())
        assert scene.claim(two).id == id

    def test_an_expired_event_waits_for_no_place(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 1, limits={"c": 1})
        scene.claim(one)
        (id,) = scene.put(one, 2, limits={"c": 1}, expires=scene.now() + 1)
        assert two.claim("q") == []
        scene.wait(1.1)
        for _ in range(SECOND):
            scene.look(two)
            assert two.claim("q") == []
        assert scene.record(two, id).state is State.EXPIRED

    # ---- edits of who waits

    def _blocked(self, scene: Scene) -> tuple[Storage, Storage, Claimed, list[str]]:
        """Two workers, what one of them runs, and the ids of two events that wait for its place."""
        one, two = scene.open(), scene.open()
        scene.put(one, 1, limits={"c": 1})
        claimed = scene.claim(one)
        ids = scene.put_each(one, 2, 3, limits={"c": 1})
        assert two.claim("q") == []
        return one, two, claimed, ids

    @pytest.mark.parametrize("hint", ["q", None])
    def test_cancelled_while_it_waits(self, scene: Scene, hint: str | None) -> None:
        one, two, claimed, ids = self._blocked(scene)
        assert two.edit(hint, [ids[0]], Cancel("no")) == ["cancelled"]
        assert scene.record(one, ids[0]).state is State.CANCELLED
        one.settle(claimed, Completed())
        assert scene.claim(two).id == ids[1]

    def test_deleted_while_it_waits(self, scene: Scene) -> None:
        one, two, claimed, ids = self._blocked(scene)
        assert two.edit("q", [ids[0]], Delete()) == ["deleted"]
        assert one.get(ids[0]) is None
        one.settle(claimed, Completed())
        assert scene.claim(two).id == ids[1]

    def test_moved_while_it_waits(self, scene: Scene) -> None:
        one, two, claimed, ids = self._blocked(scene)
        assert two.edit("q", [ids[0]], Move("other")) == ["moved"]
        assert two.claim("other") == []
        record = scene.record(one, ids[0])
        assert (record.queue, record.state, record.limits) == ("other", State.READY, {"c": 1})
        one.settle(claimed, Completed())
        assert len(two.claim("q") + two.claim("other")) == 1

    def test_requeued_while_it_waits(self, scene: Scene) -> None:
        _, two, _, ids = self._blocked(scene)
        assert two.edit("q", [ids[0]], Requeue()) == ["too late"]

    def test_purged_while_they_wait(self, scene: Scene) -> None:
        one, two, claimed, ids = self._blocked(scene)
        assert two.purge("q", State.READY) == 2
        assert [two.get(id) for id in ids] == [None, None]
        one.settle(claimed, Completed())
        scene.look(one, two)
        assert two.claim("q") == []

    def test_dropped_while_they_wait(self, scene: Scene) -> None:
        one, two, claimed, _ = self._blocked(scene)
        one.settle(claimed, Completed())
        two.give_back("q")
        two.drop("q")
        scene.look(one, two)
        assert two.queues() == []

    def test_slots_of_that_name_are_something_else(self, scene: Scene) -> None:
        worker = scene.open()
        assert worker.take_slot("c") is not None
        scene.put(worker, 1, limits={"c": 1, "q": 1})
        worker.configure("q", {"concurrency": 1})
        scene.claim(worker)
        assert worker.take_slot("q") is not None

    # ---- a queue's own limit

    def test_a_queue_runs_so_many_at_once(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        one.configure("q", {"concurrency": 2})
        scene.look(one, two)
        scene.put_each(one, 1, 2, 3, 4)
        scene.put(one, 5, queue="other")
        first = scene.claim(one)
        one.give_back("q")
        second = scene.claim(two)
        for _ in range(5):
            assert one.claim("q", 9) == two.claim("q", 9) == []
            scene.look(one, two)
        assert payload_of(scene.claim(one, "other")) == 5
        two.settle(second, Completed())
        third = scene.claim(two)
        two.give_back("q")
        assert one.claim("q") == []
        one.settle(first, Completed())
        two.settle(third, Completed())
        assert scene.drain(one) == [4]

    def test_many_are_claimed_up_to_the_limit(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        one.configure("q", {"concurrency": 3})
        scene.put(one, *range(9))
        assert payloads_of(one.claim("q", 5)) == [0, 1, 2]
        scene.look(two)
        assert two.claim("q", 5) == []

    def test_a_full_queue_is_woken_when_one_ends(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        one.configure("q", {"concurrency": 1})
        scene.look(two)
        scene.put_each(one, 1, 2)
        first = scene.claim(one)
        one.give_back("q")
        watch = two.watch("q")
        try:
            assert two.claim("q") == []
            while fires(watch):
                watch.clear()
            one.settle(first, Completed())
            assert fires(watch, 5.0)
            assert payload_of(scene.claim(two)) == 2
        finally:
            watch.close()

    def test_death_makes_room_in_a_queue(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        one.configure("q", {"concurrency": 1})
        scene.look(two)
        scene.put_each(one, 1, 2)
        first = scene.claim(one)
        assert two.claim("q") == []
        scene.kill(one)
        assert within_a_second(scene, two).id == first.id
        assert two.claim("q") == []

    def test_the_limit_of_a_queue_can_go(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"concurrency": 1})
        scene.put_each(worker, 1, 2, 3)
        assert len(worker.claim("q", 9)) == 1
        worker.configure("q", {"concurrency": None})
        assert len(worker.claim("q", 9)) == 2

    def test_both_kinds_of_limits_hold_together(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"concurrency": 2})
        scene.put_each(worker, 1, 2, limits={"c": 1})
        scene.put_each(worker, 3, 4)
        first = worker.claim("q", 9)
        assert payloads_of(first) == [1, 3]
        for claimed in first:
            worker.settle(claimed, Completed())
        assert sorted(payloads_of(worker.claim("q", 9))) == [2, 4]

    @pytest.mark.parametrize("wrong", [0, -1, 1.5, "2", True])
    def test_a_limit_is_a_whole_number_of_one_or_more(self, scene: Scene, wrong: Any) -> None:
        with pytest.raises(ConfigError, match="concurrency"):
            scene.open().configure("q", {"concurrency": wrong})

"""Rates: how many events of a name are started within a time, over all workers and queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from eventq.model import Cancel, Completed, Failure, Move, Outcome, Rejected, Released, Requeue, Retried, State
from eventq.storage.base import LOOK_INTERVAL
from eventq.testing.conformance.scene import fires, payload_of, payloads_of

if TYPE_CHECKING:
    from eventq.storage.base import Storage
    from eventq.testing.conformance.scene import Scene

MARGIN = 0.001
"""Seconds by which two readings of a clock may differ and be the same."""
ENDS: dict[str, Outcome] = {
    "completed": Completed(),
    "completed with a value": Completed(b"1"),
    "retried": Retried(1e6, Failure("ValueError")),
    "released": Released(1e6),
    "rejected": Rejected(),
}


def pass_time(scene: Scene, seconds: float, *workers: Storage) -> None:
    """Let time pass, and each worker look when that is over."""
    scene.long_wait(seconds)
    for worker in workers:
        worker.recover()


def most_within(starts: list[float], seconds: float) -> int:
    """How many starts there were at most in a window of so many seconds."""
    starts = sorted(starts)
    return max(sum(1 for other in starts if 0 <= other - start < seconds - MARGIN) for start in starts)


class RateRules:
    def test_a_rate_bounds_the_starts_over_workers_and_queues(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 1, 2, 3, rates={"r": (3, 60.0)})
        scene.put_each(one, 4, 5, queue="other", rates={"r": (3, 60.0)})
        found = one.claim("q", 2) + two.claim("other", 1)
        assert len(found) == 3
        one.give_back("q")
        for _ in range(4):
            assert [one.claim("q"), two.claim("q", 9), two.claim("other"), one.claim("other")] == [[]] * 4
            scene.look(one, two)
        pass_time(scene, 57.0, one, two)
        assert one.claim("q") == two.claim("other") == []
        pass_time(scene, 3.0, one, two)
        assert len(one.claim("q", 9) + two.claim("other", 9)) == 2

    def test_never_more_starts_in_any_window(self, scene: Scene) -> None:
        workers = [scene.open() for _ in range(3)]
        ids: list[str] = []
        for number in range(40):
            ids += scene.put(workers[0], number, number, queue="q" if number % 3 else "other", rates={"r": (5, 10.0)})
        left = len(ids)
        for step in range(2000):
            worker, queue = workers[step % 3], ("q", "other")[step % 2]
            for claimed in worker.claim(queue, 1 + step % 4):
                worker.settle(claimed, Completed(b"1"))
                left -= 1
            if not left:
                break
            pass_time(scene, 0.37 * (step % 5), worker)
        assert not left
        starts = [scene.record(workers[0], id).attempts[0].started for id in ids]
        assert most_within(starts, 10.0) == 5
        assert max(starts) - min(starts) < 80 / 5 * 10.0 + 30  # and not much fewer

    def test_who_waits_for_a_rate_does_not_stop_those_behind_it(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put_each(worker, 1, 2, rates={"r": (1, 60.0)})
        scene.put(worker, 3)
        scene.put(worker, 4, rates={"s": (1, 60.0)})
        assert payloads_of(worker.claim("q", 9)) == [1, 3, 4]

    @pytest.mark.parametrize("outcome", ENDS.values(), ids=list(ENDS))
    def test_a_start_counts_whatever_becomes_of_the_event(self, scene: Scene, outcome: Outcome) -> None:
        worker = scene.open()
        scene.put_each(worker, 1, 2, rates={"r": (1, 60.0)})
        worker.settle(scene.claim(worker), outcome)
        scene.look(worker)
        assert worker.claim("q") == []
        pass_time(scene, 60.0, worker)
        assert payload_of(scene.claim(worker)) == 2

    def test_another_attempt_is_another_start(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1, rates={"r": (2, 60.0)})
        for _ in range(2):
            worker.settle(scene.claim(worker), Retried())
        scene.look(worker)
        assert worker.claim("q") == []
        pass_time(scene, 60.0, worker)
        assert scene.claim(worker).id == id

    def test_the_death_of_the_starter_frees_nothing(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        (id,) = scene.put(one, 1, rates={"r": (1, 60.0)})
        scene.claim(one)
        scene.put(two, 2, rates={"r": (1, 60.0)})
        scene.kill(one)
        for _ in range(8):
            scene.look(two)
            assert two.claim("q", 9) == []
        assert scene.record(two, id).state is State.READY
        pass_time(scene, 60.0, two)
        assert len(two.claim("q", 9)) == 1

    def test_two_names_at_once(self, scene: Scene) -> None:
        """An event that lacks one of its rates takes nothing of the other."""
        worker = scene.open()
        scene.put(worker, 1, rates={"b": (1, 60.0)})
        scene.claim(worker)
        scene.put_each(worker, 2, 3, rates={"a": (1, 60.0), "b": (1, 60.0)})
        assert worker.claim("q", 9) == []
        scene.put(worker, 4, rates={"a": (1, 30.0)})
        assert payloads_of(worker.claim("q", 9)) == [4]
        pass_time(scene, 60.0, worker)
        assert payloads_of(worker.claim("q", 9)) == [2]
        pass_time(scene, 59.0, worker)
        assert worker.claim("q", 9) == []
        pass_time(scene, 1.0, worker)
        assert payloads_of(worker.claim("q", 9)) == [3]

    def test_rates_and_limits_together(self, scene: Scene) -> None:
        """A name of a rate is not the limit of that name; who lacks one of both takes neither."""
        worker = scene.open()
        both: dict[str, Any] = {"limits": {"c": 1}, "rates": {"c": (2, 60.0)}}
        scene.put_each(worker, 1, 2, 3, **both)
        first = scene.claim(worker)
        scene.put(worker, 4, rates={"c": (2, 60.0)})
        second = scene.claim(worker)
        assert payloads_of([first, second]) == [1, 4]
        worker.settle(first, Completed())
        scene.look(worker)
        assert worker.claim("q", 9) == []
        scene.put(worker, 5, limits={"c": 1})
        third = scene.claim(worker)
        assert payload_of(third) == 5
        pass_time(scene, 60.0, worker)
        assert worker.claim("q", 9) == []
        worker.settle(third, Completed())
        assert payloads_of(worker.claim("q", 9)) == [2]

    def test_each_obeys_its_own_number_and_time(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1, rates={"r": (2, 60.0)})
        scene.claim(worker)
        scene.put(worker, 2, rates={"r": (1, 60.0)})
        scene.put(worker, 3, rates={"r": (2, 60.0)})
        assert payloads_of(worker.claim("q", 9)) == [3]
        scene.put(worker, 4, rates={"r": (1, 5.0)})
        assert worker.claim("q", 9) == []
        pass_time(scene, 5.0, worker)
        assert payloads_of(worker.claim("q", 9)) == [4]

    # ---- who waits

    def test_the_highest_and_oldest_that_waits_starts_first(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 0, rates={"r": (1, 10.0)})
        scene.claim(one)
        scene.put_each(one, 1, 2, rates={"r": (1, 10.0)})
        scene.put(one, 3, 4, rates={"r": (1, 10.0)})
        scene.put(one, 5, rates={"r": (1, 10.0)}, priority=5)
        order = []
        for _ in range(5):
            assert two.claim("q", 9) == []
            pass_time(scene, 10.0, two)
            order += payloads_of(two.claim("q", 9))
        assert order == [5, 1, 2, 3, 4]

    def test_who_waits_comes_before_who_comes_when_the_time_is_there(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, 0, rates={"r": (1, 10.0)})
        scene.claim(one)
        scene.put(one, 1, rates={"r": (1, 10.0)})
        assert one.claim("q") == two.claim("q") == []
        scene.long_wait(10.0)
        scene.put(one, 2, rates={"r": (1, 10.0)})
        assert payloads_of(one.claim("q", 9)) == [1]  # though nobody has looked since

    def test_recover_says_when_the_next_may_start(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put_each(worker, 1, 2, rates={"r": (1, 10.0)})
        scene.claim(worker)
        assert worker.claim("q") == []
        assert worker.recover() == LOOK_INTERVAL
        pass_time(scene, 9.9, worker)
        pause = worker.recover()
        assert 0.05 < pause < 0.101
        scene.wait(pause + 1e-6)
        worker.recover()
        assert payload_of(scene.claim(worker)) == 2

    def test_who_waits_is_woken(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put_each(one, 1, 2, rates={"r": (1, 0.2)})
        first = scene.claim(one)
        assert two.claim("q") == []
        watch = two.watch("q")
        try:
            scene.until(lambda: fires(watch) or two.claim("q"), two)
        finally:
            watch.close()
        one.settle(first, Completed())

    def test_who_waits_for_a_rate_is_ready(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1, rates={"r": (1, 60.0)})
        scene.claim(worker)
        (id,) = scene.put(worker, 2, rates={"r": (1, 60.0), "s": (2, 0.5)})
        assert worker.claim("q") == []
        record = scene.record(worker, id)
        assert (record.state, record.attempts) == (State.READY, ())
        assert record.rates == {"r": (1, 60.0), "s": (2, 0.5)}
        assert worker.stats("q").ready == 1

    def test_records_tell_the_rates(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1, rates={"r": (2, 60.0)})
        worker.settle(scene.claim(worker), Completed(b"1"))
        (again,) = worker.edit("q", [id], Requeue())
        assert [scene.record(worker, one).rates for one in (id, again)] == [{"r": (2, 60.0)}] * 2
        (plain,) = scene.put(worker, 2)
        assert scene.record(worker, plain).rates == {}

    def test_an_expired_event_waits_for_no_rate_and_takes_none(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1, rates={"r": (1, 5.0)})
        scene.claim(worker)
        (id,) = scene.put(worker, 2, rates={"r": (1, 5.0)}, expires=scene.now() + 1)
        scene.put(worker, 3, rates={"r": (1, 5.0)})
        assert worker.claim("q", 9) == []
        pass_time(scene, 6.0, worker)
        assert payloads_of(worker.claim("q", 9)) == [3]
        assert scene.record(worker, id).state is State.EXPIRED

    def test_edits_of_who_waits(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1, rates={"r": (1, 60.0)})
        scene.claim(worker)
        ids = scene.put_each(worker, 2, 3, rates={"r": (1, 60.0)})
        assert worker.claim("q", 9) == []
        assert worker.edit("q", [ids[0]], Cancel("no")) == ["cancelled"]
        assert worker.edit(None, [ids[1]], Move("other")) == ["moved"]
        assert worker.claim("other") == []
        assert scene.record(worker, ids[1]).rates == {"r": (1, 60.0)}
        pass_time(scene, 60.0, worker)
        assert worker.claim("q") == []
        assert scene.claim(worker, "other").id == ids[1]

    def test_a_keyed_event_may_have_a_rate(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1, rates={"r": (1, 60.0)})
        scene.claim(worker)
        id, _ = scene.put_key(worker, "key", rates={"r": (1, 60.0)})
        assert worker.claim("q") == []
        assert scene.put_key(worker, "key") == (id, False)
        pass_time(scene, 60.0, worker)
        assert scene.claim(worker).id == id

    # ---- the clock

    def test_a_clock_set_back_holds_nobody_up_for_longer(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put_each(worker, 1, 2, rates={"r": (1, 60.0)})
        scene.claim(worker)
        assert worker.claim("q") == []
        self._set_back(scene, 3600.0)
        scene.look(worker)
        assert worker.claim("q") == []
        pass_time(scene, 60.0, worker)
        assert payload_of(scene.claim(worker)) == 2

    def test_a_clock_set_back_does_not_let_more_start(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put_each(worker, 1, 2, 3, rates={"r": (2, 60.0)})
        assert len(worker.claim("q", 9)) == 2
        self._set_back(scene, 3600.0)
        scene.look(worker)
        for _ in range(11):
            pass_time(scene, 5.0, worker)
            assert worker.claim("q", 9) == []
        pass_time(scene, 5.0, worker)
        assert len(worker.claim("q", 9)) == 1

    def _set_back(self, scene: Scene, seconds: float) -> None:
        if scene.clock is None:
            pytest.skip("needs a FakeClock that can be set back")
        scene.clock.step_wall(-seconds)

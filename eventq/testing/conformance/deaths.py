"""Death: what a killed worker held moves on, is counted, and takes no bystander with it. The living are left alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from eventq.errors import ClaimLost, StorageClosed
from eventq.model import Cancel, Claimed, Completed, Move, Released, Retried, State
from eventq.retry import FOR_EVER, SUSPECT_CRASHES
from eventq.testing.conformance.scene import payload_of, payloads_of

if TYPE_CHECKING:
    from eventq.storage.base import Storage
    from eventq.testing.conformance.scene import Scene


def crash(scene: Scene, heir: Storage, times: int, queue: str = "q") -> None:
    """Let as many workers die, one after another, each while it runs the first event of the queue."""
    for _ in range(times):
        victim = scene.open()
        scene.until(lambda victim=victim: victim.claim(queue), heir)  # type: ignore[misc]
        scene.kill(victim)
        scene.until(lambda: heir.stats(queue).claimed == 0, heir)


class DeathRules:
    def test_a_dead_workers_claim_goes_back(self, scene: Scene) -> None:
        victim, heir = scene.open(), scene.open()
        (id,) = scene.put(victim, 1)
        scene.claim(victim)
        assert heir.claim("q") == []
        dead = victim.worker
        scene.kill(victim)
        (claimed,) = scene.until(lambda: heir.claim("q"), heir)
        assert (claimed.id, claimed.crashes, claimed.failures) == (id, 1, 0)
        heir.settle(claimed, Completed(b"1"))
        attempts = scene.record(heir, id).attempts
        assert [(attempt.worker, attempt.outcome) for attempt in attempts] == [
            (dead, "crashed"),
            (heir.worker, "completed"),
        ]

    def test_a_claim_goes_back_within_a_second(self, scene: Scene) -> None:
        victim, heir = scene.open(), scene.open()
        scene.put(victim, 1)
        scene.claim(victim)
        scene.kill(victim)
        before = scene.now()
        scene.until(lambda: heir.claim("q"), heir)
        assert scene.now() - before <= 1.0

    def test_a_worker_that_comes_later_finds_it_too(self, scene: Scene) -> None:
        victim = scene.open()
        scene.put(victim, 1)
        scene.claim(victim)
        scene.kill(victim)
        heir = scene.open()
        assert payloads_of(scene.until(lambda: heir.claim("q"), heir)) == [1]

    def test_unstarted_events_count_no_crash(self, scene: Scene) -> None:
        victim, heir = scene.open(), scene.open()
        scene.put(victim, *range(5))
        assert payloads_of(victim.claim("q", 2)) == [0, 1]
        scene.kill(victim)
        found: list[Claimed] = []
        scene.until(lambda: found.extend(heir.claim("q", 5)) or len(found) == 5, heir)  # type: ignore[func-returns-value]
        assert sorted((payload_of(one), one.crashes) for one in found) == [(0, 1), (1, 1), (2, 0), (3, 0), (4, 0)]

    def test_settled_events_stay_settled(self, scene: Scene) -> None:
        victim, heir = scene.open(), scene.open()
        scene.put(victim, *range(4))
        claimed = victim.claim("q", 3)
        victim.settle(claimed[0], Completed(b"10"))
        victim.settle(claimed[1], Completed())
        scene.kill(victim)
        scene.until(lambda: heir.stats("q").claimed == 0, heir)
        assert sorted(scene.drain(heir)) == [2, 3]
        assert scene.record(heir, claimed[0].id).value == b"10"
        assert heir.get(claimed[1].id) is None

    def test_the_place_is_kept(self, scene: Scene) -> None:
        victim, heir = scene.open(), scene.open()
        scene.put(victim, 1)
        scene.claim(victim)
        scene.wait(0.05)
        scene.put(heir, 2)
        scene.kill(victim)
        scene.until(lambda: heir.stats("q").claimed == 0, heir)
        assert scene.drain(heir) == [1, 2]

    def test_what_a_dead_producer_put_is_there(self, scene: Scene) -> None:
        victim, heir = scene.open(), scene.open()
        scene.put(victim, 1, 2)
        scene.put(victim, 3, due=scene.now() + 0.1)
        scene.put_key(victim, "key", 4)
        scene.kill(victim)
        scene.wait(0.2)
        scene.look(heir)
        assert sorted(scene.drain(heir)) == [1, 2, 3, 4]

    @pytest.mark.parametrize("targets", [("other", "other"), ("q", "q"), ("other", "q", "other")])
    def test_what_a_dead_worker_moved_is_there(self, scene: Scene, targets: tuple[str, ...]) -> None:
        victim, heir = scene.open(), scene.open()
        ids = scene.put(victim, 1, 2, 3)
        for target in targets:
            assert victim.edit(None, ids[2:], Move(target)) == ["moved"]
            scene.look(victim, heir)
        scene.kill(victim)
        scene.look(heir)
        record = scene.record(heir, ids[2])
        assert (record.queue, record.state) == (targets[-1], State.READY)
        assert sorted(scene.drain(heir) + scene.drain(heir, "other")) == [1, 2, 3]

    def test_a_dead_worker_settles_nothing(self, scene: Scene) -> None:
        victim, heir = scene.open(), scene.open()
        scene.put(victim, 1)
        lost = scene.claim(victim)
        scene.kill(victim)
        (claimed,) = scene.until(lambda: heir.claim("q"), heir)
        with pytest.raises((ClaimLost, StorageClosed)):
            victim.settle(lost, Completed())
        heir.settle(claimed, Completed(b"1"))
        assert scene.record(heir, claimed.id).value == b"1"

    def test_a_slow_worker_keeps_its_claim(self, scene: Scene) -> None:
        slow, other = scene.open(), scene.open()
        scene.put(slow, 1)
        claimed = scene.claim(slow)
        if scene.clock is not None:
            scene.clock.advance(86_400.0)
        for _ in range(8):
            scene.look(other)
            assert other.claim("q") == []
        slow.settle(claimed, Completed(b"1"))
        record = scene.record(other, claimed.id)
        assert (record.state, record.crashes) == (State.COMPLETED, 0)

    def test_clock_steps_move_no_claim(self, scene: Scene) -> None:
        if scene.clock is None:
            pytest.skip("needs a FakeClock")
        slow, other = scene.open(), scene.open()
        scene.put(slow, 1)
        claimed = scene.claim(slow)
        scene.put(slow, 2)
        for step in (-1e6, 2e6):
            scene.clock.step_wall(step)
            scene.look(other)
            assert other.stats("q").claimed == 1
        slow.settle(claimed, Completed())
        slow.give_back("q")
        scene.clock.step_wall(-1e6)
        assert scene.drain(other) == [2]

    # ---- counting

    def test_too_many_crashes_are_a_dead_letter(self, scene: Scene) -> None:
        heir = scene.open()
        heir.configure("q", {"max_crashes": 2})
        (id,) = scene.put(heir, "poison")
        scene.put(heir, "innocent")
        heir.give_back("q")
        crash(scene, heir, 2)
        assert payload_of(scene.until(lambda: heir.claim("q"), heir)[0]) == "innocent"
        record = scene.record(heir, id)
        assert (record.state, record.crashes, record.failures) == (State.DEAD, 2, 0)
        assert record.failure is not None
        assert "max_crashes=2" in record.failure.message
        assert [attempt.outcome for attempt in record.attempts] == ["crashed", "crashed"]

    def test_an_events_own_max_crashes_beats_the_queues(self, scene: Scene) -> None:
        heir = scene.open()
        (id,) = scene.put(heir, 1, max_crashes=1)
        crash(scene, heir, 1)
        assert heir.claim("q") == []
        assert scene.record(heir, id).state is State.DEAD

    def test_crashes_and_failures_count_apart(self, scene: Scene) -> None:
        heir = scene.open()
        scene.put(heir, 1)
        heir.settle(scene.claim(heir), Retried())
        crash(scene, heir, 1)
        (claimed,) = scene.until(lambda: heir.claim("q"), heir)
        assert (claimed.failures, claimed.crashes) == (1, 1)

    def test_a_crash_is_counted_whatever_comes_next(self, scene: Scene) -> None:
        """Also when the event expires or is cancelled before anybody starts it again."""
        heir = scene.open()
        ids = scene.put(heir, 1, expires=scene.now() + 10) + scene.put(heir, 2)
        heir.give_back("q")
        victim = scene.open()
        assert payloads_of(victim.claim("q", 2)) == [1, 2]
        scene.kill(victim)
        scene.until(lambda: heir.stats("q").claimed == 0, heir)
        assert heir.edit("q", ids[1:], Cancel()) == ["cancelled"]
        scene.long_wait(11.0)
        assert heir.claim("q") == []
        for id, state in zip(ids, (State.EXPIRED, State.CANCELLED), strict=True):
            record = scene.record(heir, id)
            assert (record.state, record.crashes, record.failures) == (state, 1, 0)
            assert [attempt.outcome for attempt in record.attempts] == ["crashed"]

    def test_suspects_run_alone(self, scene: Scene) -> None:
        """Nothing is started with a suspect, nothing beside it, and it does not wait for ever for its turn."""
        heir = scene.open()
        scene.put(heir, "suspect", priority=1)
        crash(scene, heir, SUSPECT_CRASHES)
        scene.put(heir, "a", "b", "c")
        scene.put(heir, "elsewhere", queue="other")
        (suspect,) = heir.claim("q", 10)
        assert (payload_of(suspect), suspect.crashes) == ("suspect", SUSPECT_CRASHES)
        assert heir.claim("q", 10) == []
        assert heir.claim("other") == []
        heir.settle(suspect, Completed())
        assert payloads_of(heir.claim("q", 10)) == ["a", "b", "c"]

    def test_a_suspect_waits_until_nothing_else_runs(self, scene: Scene) -> None:
        heir = scene.open()
        scene.put(heir, "suspect")
        crash(scene, heir, SUSPECT_CRASHES)
        scene.put(heir, "running", queue="other")
        running = scene.claim(heir, "other")
        assert heir.claim("q", 10) == []
        heir.settle(running, Completed())
        assert payloads_of(heir.claim("q", 10)) == ["suspect"]

    def test_nothing_is_started_any_more_until_a_suspect_has_its_turn(self, scene: Scene) -> None:
        """Among others that come and go it would wait for ever."""
        heir = scene.open()
        scene.put(heir, "suspect")
        crash(scene, heir, SUSPECT_CRASHES)
        scene.put(heir, "running", "next", queue="other")
        running = scene.claim(heir, "other")
        assert heir.claim("q", 10) == []
        assert heir.claim("other", 10) == []
        heir.settle(running, Completed())
        (suspect,) = heir.claim("q", 10)
        assert payload_of(suspect) == "suspect"
        heir.settle(suspect, Completed())
        assert payloads_of(heir.claim("other", 10)) == ["next"]

    def test_who_waits_for_a_suspect_that_is_gone_goes_on(self, scene: Scene) -> None:
        heir = scene.open()
        (id,) = scene.put(heir, "suspect")
        crash(scene, heir, SUSPECT_CRASHES)
        scene.put(heir, "running", "next", queue="other")
        running = scene.claim(heir, "other")
        assert heir.claim("q", 10) == []
        assert heir.edit("q", [id], Cancel()) == ["cancelled"]
        assert payloads_of(heir.claim("other", 10)) == ["next"]
        heir.settle(running, Completed())

    def test_what_is_never_given_up_is_no_suspect(self, scene: Scene) -> None:
        """It is eventq's own, and would wait for a moment at which its worker does nothing else."""
        heir = scene.open()
        scene.put(heir, "own", max_crashes=FOR_EVER)
        crash(scene, heir, SUSPECT_CRASHES + 1)
        scene.put(heir, "running", "next", queue="other")
        running = scene.claim(heir, "other")
        (own,) = heir.claim("q", 10)
        assert (payload_of(own), own.crashes) == ("own", SUSPECT_CRASHES + 1)
        assert payloads_of(heir.claim("other", 10)) == ["next"]
        heir.settle(own, Completed())
        heir.settle(running, Completed())

    def test_a_dead_letter_to_be_stands_in_nobodys_way(self, scene: Scene) -> None:
        """An event with too many crashes is buried while others run: it need not wait for its turn as a suspect."""
        heir = scene.open()
        heir.configure("q", {"max_crashes": SUSPECT_CRASHES})
        (id,) = scene.put(heir, "poison")
        crash(scene, heir, SUSPECT_CRASHES)
        scene.put(heir, "running", queue="other")
        running = scene.claim(heir, "other")
        scene.put(heir, "innocent")
        assert payloads_of(scene.until(lambda: heir.claim("q", 10), heir)) == ["innocent"]
        assert scene.record(heir, id).state is State.DEAD
        heir.settle(running, Completed())

    def test_bystanders_are_spared(self, scene: Scene) -> None:
        """Seven innocents run beside one that kills its worker: in the end, one dead letter and seven done."""
        heir = scene.open()
        scene.put(heir, *[0, 0, 0, "killer", 0, 0, 0, 0])
        heir.give_back("q")
        done = 0
        for _ in range(40):
            worker = scene.open()
            scene.look(worker)
            claimed = worker.claim("q", 8)
            if any(payload_of(one) == "killer" for one in claimed):
                scene.kill(worker)
                scene.until(lambda: heir.stats("q").claimed == 0, heir)
                continue
            for one in claimed:
                worker.settle(one, Completed())
            done += len(claimed)
            worker.close()
        assert done == 7
        assert scene.all_of(heir, State.DEAD) == ["killer"]

    # ---- lease

    def test_a_lease_ends_a_hung_claim(self, scene: Scene) -> None:
        hung, heir = scene.open(), scene.open()
        hung.configure("q", {"lease": 1.0})
        scene.put(hung, 1)
        lost = scene.claim(hung)
        scene.look(heir)
        scene.wait(0.2)
        scene.look(heir)
        assert heir.claim("q") == []
        scene.wait(1.0)
        (claimed,) = scene.until(lambda: heir.claim("q"), heir)
        assert (claimed.id, claimed.crashes) == (lost.id, 1)
        with pytest.raises(ClaimLost):
            hung.settle(lost, Completed(b"late"))
        heir.settle(claimed, Completed(b"1"))
        assert scene.record(heir, claimed.id).value == b"1"

    def test_a_lease_that_was_lost_stays_lost(self, scene: Scene) -> None:
        hung, heir = scene.open(), scene.open()
        hung.configure("q", {"lease": 0.5})
        scene.put(hung, 1)
        lost = scene.claim(hung)
        scene.look(heir)
        scene.wait(0.6)
        (claimed,) = scene.until(lambda: heir.claim("q"), heir)
        heir.settle(claimed, Released())
        with pytest.raises(ClaimLost):
            hung.settle(lost, Completed())
        assert payload_of(scene.until(lambda: heir.claim("q"), heir)[0]) == 1

    def test_without_a_lease_nothing_is_taken_over(self, scene: Scene) -> None:
        slow, other = scene.open(), scene.open()
        slow.configure("leased", {"lease": 0.1})
        scene.put(slow, 1)
        claimed = scene.claim(slow)
        scene.look(other)
        scene.wait(0.5)
        scene.look(other)
        assert other.claim("q") == []
        slow.settle(claimed, Completed())

    # ---- what else a worker held

    def test_slots_of_the_dead_are_free_at_once(self, scene: Scene) -> None:
        victim, heir = scene.open(), scene.open()
        assert victim.take_slot("lock") is not None
        assert heir.take_slot("lock") is None
        scene.kill(victim)
        assert scene.until(lambda: heir.take_slot("lock"), heir) is not None

    def test_names_of_the_dead_stay(self, scene: Scene) -> None:
        victim, heir = scene.open(), scene.open()
        victim.take_name("report", b'{"a": 1}')
        scene.kill(victim)
        scene.look(heir)
        assert not heir.take_name("report", b"2")[1]

    def test_the_dead_are_no_workers(self, scene: Scene) -> None:
        victim, heir = scene.open(), scene.open()
        scene.put(victim, 1)
        scene.claim(victim)
        heir.claim("q")
        dead = victim.worker
        assert dead in {worker.id for worker in heir.workers()}
        scene.kill(victim)
        scene.until(lambda: dead not in {worker.id for worker in heir.workers()}, heir)

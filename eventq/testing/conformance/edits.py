"""Changing events that wait or have ended: cancel, requeue, move, delete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from eventq.errors import ConfigError
from eventq.model import Cancel, Completed, Delete, Edit, Failure, Move, Rejected, Released, Requeue, Retried, State
from eventq.testing.conformance.records import one_in_each_state
from eventq.testing.conformance.scene import payload_of

if TYPE_CHECKING:
    from eventq.testing.conformance.scene import Scene

UNKNOWN = "0" * 38 + ".00000"


class EditRules:
    @pytest.mark.parametrize("edit", [Cancel(), Requeue(), Move("other"), Delete()], ids=repr)
    def test_an_unknown_event(self, scene: Scene, edit: Edit) -> None:
        worker = scene.open()
        scene.put(worker, 1)
        assert worker.edit("q", [UNKNOWN, "../x"], edit) == ["unknown", "unknown"]
        assert worker.edit(None, [UNKNOWN], edit) == ["unknown"]
        assert scene.drain(worker) == [1]

    @pytest.mark.parametrize("queue", ["q", None])
    def test_one_word_per_id_in_order(self, scene: Scene, queue: str | None) -> None:
        worker = scene.open()
        ids = one_in_each_state(scene, worker)
        order = [ids[state] for state in State] + [UNKNOWN]
        words = worker.edit(queue, order, Cancel("enough"))
        expected = {State.READY: "cancelled", State.DELAYED: "cancelled", State.CLAIMED: "requested"}
        assert words == [expected.get(state, "too late") for state in State] + ["unknown"]

    def test_editing_nothing(self, scene: Scene) -> None:
        assert scene.open().edit("q", [], Cancel()) == []

    def test_another_worker_may_edit(self, scene: Scene) -> None:
        producer, other = scene.open(), scene.open()
        ids = scene.put(producer, 1, 2, 3)
        assert other.edit("q", [ids[1]], Cancel()) == ["cancelled"]
        assert scene.drain(producer) == [1, 3]

    @pytest.mark.parametrize("edit", [Cancel(), Requeue(), Move("other"), Delete()], ids=repr)
    def test_the_rest_of_a_delayed_batch_stays_delayed(self, scene: Scene, edit: Edit) -> None:
        worker = scene.open()
        due = scene.now() + 0.5
        ids = scene.put(worker, 1, 2, 3, due=due)
        assert worker.edit("q", [ids[1]], edit)[0] not in ("too late", "unknown")
        rest = [scene.record(worker, id) for id in (ids[0], ids[2])]
        assert [record.state for record in rest] == [State.DELAYED] * 2
        assert [record.due for record in rest] == [pytest.approx(due, abs=1e-5)] * 2
        assert scene.drain(worker) == ([2] if isinstance(edit, Requeue) else [])
        scene.wait(0.6)
        scene.look(worker)
        assert scene.drain(worker) == [1, 3]

    @pytest.mark.parametrize("edit", [Cancel(), Move("other"), Delete()], ids=repr)
    def test_the_rest_of_a_batch_keeps_its_place(self, scene: Scene, edit: Edit) -> None:
        worker = scene.open()
        ids = scene.put(worker, 1, 2, 3)
        scene.wait(0.05)
        scene.put(worker, 4)
        assert worker.edit("q", [ids[1]], edit)[0] not in ("too late", "unknown")
        assert scene.drain(worker) == [1, 3, 4]

    # ---- cancel

    def test_a_cancelled_event_is_kept_with_the_reason(self, scene: Scene) -> None:
        worker = scene.open()
        ids = [*scene.put(worker, 1, headers={"a": 1}), *scene.put(worker, 2, due=scene.now() + 100)]
        assert worker.edit("q", ids, Cancel("not needed")) == ["cancelled"] * 2
        for id in ids:
            record = scene.record(worker, id)
            assert record.state is State.CANCELLED
            assert record.failure == Failure("cancelled", "not needed")
            assert record.settled is not None
        assert scene.all_of(worker, State.CANCELLED) == [1, 2]
        assert worker.claim("q") == []
        assert worker.edit("q", ids, Cancel()) == ["too late"] * 2

    def test_the_holder_learns_of_a_cancel(self, scene: Scene) -> None:
        holder, other = scene.open(), scene.open()
        ids = scene.put(holder, 1, 2)
        first, second = holder.claim("q", 2)
        assert other.edit("q", [ids[0]], Cancel("stop")) == ["requested"]
        scene.until(lambda: first.cancelled, holder)
        assert not second.cancelled
        holder.settle(first, Completed(b"1"))
        assert scene.record(other, ids[0]).state is State.COMPLETED
        assert other.edit("q", [ids[0]], Cancel()) == ["too late"]

    def test_an_unstarted_event_of_a_busy_worker_can_be_cancelled(self, scene: Scene) -> None:
        holder, other = scene.open(), scene.open()
        ids = scene.put(holder, *range(4))
        scene.claim(holder)
        assert other.edit("q", [ids[2]], Cancel())[0] in ("cancelled", "requested")
        scene.until(lambda: scene.record(other, ids[2]).state is State.CANCELLED, holder)
        assert scene.drain(holder) == [1, 3]

    def test_cancel_may_spare_what_was_ever_started(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        ids = scene.put(one, "started", "released", "fetched")
        released = one.claim("q", 2)[1]
        one.settle(released, Released())
        words = two.edit("q", ids, Cancel("no", unstarted=True))
        assert words[0] == words[1] == "too late"
        assert words[2] in ("cancelled", "requested")
        scene.look(one, two)
        states = [scene.record(two, id).state for id in ids]
        assert states == [State.CLAIMED, State.READY, State.CANCELLED]
        assert one.edit("q", ids, Cancel(unstarted=True)) == ["too late"] * 3

    # ---- requeue

    def test_a_requeued_event_runs_as_if_new(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1, headers={"a": 1})
        worker.settle(scene.claim(worker), Retried(0.0, Failure("Error")))
        worker.settle(scene.claim(worker), Rejected(Failure("Error")))
        assert worker.edit("q", [id], Requeue()) == [id]
        record = scene.record(worker, id)
        assert (record.state, record.failures, record.crashes) == (State.READY, 0, 0)
        assert record.settled is None
        claimed = scene.claim(worker)
        assert (claimed.id, claimed.failures, claimed.crashes, claimed.headers) == (id, 0, 0, {"a": 1})
        outcomes = [attempt.outcome for attempt in scene.record(worker, id).attempts]
        assert outcomes == ["failed", "dead", "running"]
        assert worker.stats("q").dead == 0

    @pytest.mark.parametrize("others", [0, 2])
    def test_a_delayed_event_is_requeued_as_if_new(self, scene: Scene, others: int) -> None:
        """Counters, place and an expiry that has passed: as for one that had ended."""
        worker = scene.open()
        ids = scene.put(worker, *range(1 + others), expires=scene.now() + 5)
        for claimed in worker.claim("q", 1 + others):
            worker.settle(claimed, Retried(100.0, Failure("Error")))
        scene.put(worker, "waits")
        scene.long_wait(10.0)
        assert worker.edit("q", ids[:1], Requeue()) == [ids[0]]
        record = scene.record(worker, ids[0])
        assert (record.failures, record.crashes, record.expires) == (0, 0, None)
        assert scene.drain(worker) == ["waits", 0]

    def test_an_expiry_to_come_survives_a_requeue(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1, due=scene.now() + 100, expires=scene.now() + 200)
        assert worker.edit("q", [id], Requeue()) == [id]
        scene.long_wait(300.0)
        assert worker.claim("q") == []
        assert scene.record(worker, id).state is State.EXPIRED

    def test_requeued_events_go_to_the_end(self, scene: Scene) -> None:
        worker = scene.open()
        ids = [scene.put(worker, "old")[0]]
        worker.settle(scene.claim(worker), Rejected())
        scene.put(worker, "new")
        scene.wait(0.05)
        worker.edit("q", ids, Requeue())
        assert scene.drain(worker) == ["new", "old"]

    def test_an_expired_event_may_run_after_all(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1, expires=scene.now() - 1)
        assert worker.claim("q") == []
        assert worker.edit("q", [id], Requeue()) == [id]
        assert scene.claim(worker).id == id

    def test_a_cancelled_event_may_run_after_all(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1)
        worker.edit("q", [id], Cancel())
        assert worker.edit(None, [id], Requeue()) == [id]
        assert scene.drain(worker) == [1]
        assert scene.all_of(worker, State.CANCELLED) == []

    def test_a_delayed_event_may_run_now(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1, due=scene.now() + 1000)
        assert worker.edit("q", [id], Requeue()) == [id]
        assert scene.claim(worker).id == id

    def test_a_completed_event_is_replayed_as_a_new_one(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, {"n": 1}, headers={"a": 1}, priority=4)
        worker.settle(scene.claim(worker), Completed(b"1"))
        (new,) = worker.edit("q", [id], Requeue())
        claimed = scene.claim(worker)
        assert claimed.id == new != id
        assert (msgspec.json.decode(claimed.payload), claimed.headers, claimed.priority) == ({"n": 1}, {"a": 1}, 4)
        assert scene.record(worker, id).value == b"1"

    @pytest.mark.parametrize("way", ["alone", "of several", "retried", "given back"])
    def test_a_replayed_event_has_what_it_was_put_with(self, scene: Scene, way: str) -> None:
        worker = scene.open()
        options: dict[str, Any] = {"max_attempts": 7, "keep": 500.0, "limits": {"a": 4}, "rates": {"b": (9, 60.0)}}
        ids = scene.put(worker, *(range(1) if way == "alone" else range(3)), **options)
        if way == "given back":  # all but the first, which runs
            scene.claim(worker)
            worker.configure("q", {"paused": True})
            scene.until(lambda: worker.claim("q") == [], worker)
            worker.configure("q", {"paused": False})
            del ids[0]
        claims = worker.claim("q", len(ids))
        if way == "retried":
            for claimed in claims:
                worker.settle(claimed, Retried(0.0))
            claims = worker.claim("q", len(ids))
        news = []
        for claimed in claims:
            worker.settle(claimed, Completed(b"1"))
            news += worker.edit("q", [claimed.id], Requeue())
        assert not {*news} & {"too late", "unknown", *ids}
        again = worker.claim("q", len(news))
        assert [claimed.id for claimed in again] == news
        for claimed in again:
            assert (claimed.max_attempts, claimed.keep) == (7, 500.0)
            record = scene.record(worker, claimed.id)
            assert (record.limits, record.rates) == ({"a": 4}, {"b": (9, 60.0)})
            worker.settle(claimed, Rejected())

    def test_a_replayed_event_is_poison_as_soon_as_it_was(self, scene: Scene) -> None:
        victim, heir = scene.open(), scene.open()
        (id,) = scene.put(heir, 1, max_crashes=1)
        heir.settle(scene.claim(heir), Completed(b"1"))
        (new,) = heir.edit("q", [id], Requeue())
        assert scene.claim(victim).id == new
        scene.kill(victim)
        scene.until(lambda: heir.stats("q").claimed == 0, heir)
        assert heir.claim("q") == []
        assert scene.record(heir, new).state is State.DEAD

    def test_a_replayed_result_is_kept_as_long_as_that_of_the_first_run(self, scene: Scene) -> None:
        """Also if it was the run that said how long, as tasks do."""
        worker = scene.open()
        (id,) = scene.put(worker, 1)
        claimed = scene.claim(worker)
        claimed.keep = 500.0
        worker.settle(claimed, Completed(b"1"))
        worker.edit("q", [id], Requeue())
        assert scene.claim(worker).keep == 500.0

    def test_only_events_that_do_not_run_anyway_can_be_requeued(self, scene: Scene) -> None:
        worker = scene.open()
        ids = one_in_each_state(scene, worker)
        words = {state: worker.edit("q", [id], Requeue())[0] for state, id in ids.items()}
        assert [state for state in State if words[state] == "too late"] == [State.READY, State.CLAIMED]
        assert [state for state in State if words[state] == ids[state]] == [
            State.DELAYED,
            State.DEAD,
            State.EXPIRED,
            State.CANCELLED,
        ]

    # ---- move

    def test_a_moved_event_keeps_its_id(self, scene: Scene) -> None:
        worker = scene.open()
        ids = [scene.put(worker, 1, priority=3)[0], scene.put(worker, 2)[0]]
        assert worker.edit("q", ids[:1], Move("other")) == ["moved"]
        record = scene.record(worker, ids[0])
        assert (record.queue, record.state, record.priority) == ("other", State.READY, 3)
        claimed = scene.claim(worker, "other")
        assert (claimed.id, claimed.queue, payload_of(claimed)) == (ids[0], "other", 1)
        assert scene.drain(worker) == [2]
        worker.settle(claimed, Completed(b"1"))
        assert scene.record(worker, ids[0]).value == b"1"
        assert scene.all_of(worker, State.COMPLETED, "other") == [1]

    def test_a_moved_delayed_event_still_waits(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1, due=scene.now() + 0.3)
        assert worker.edit("q", [id], Move("other")) == ["moved"]
        assert worker.claim("other") == []
        scene.wait(0.4)
        assert scene.claim(worker, "other").id == id

    def test_only_waiting_events_can_be_moved(self, scene: Scene) -> None:
        worker = scene.open()
        ids = one_in_each_state(scene, worker)
        words = {state: worker.edit("q", [id], Move("other"))[0] for state, id in ids.items()}
        waiting = (State.READY, State.DELAYED)
        assert words == {state: "moved" if state in waiting else "too late" for state in State}

    def test_a_move_to_an_impossible_queue_is_refused(self, scene: Scene) -> None:
        worker = scene.open()
        ids = scene.put(worker, 1)
        with pytest.raises(ConfigError):
            worker.edit("q", ids, Move(""))
        assert scene.drain(worker) == [1]

    # ---- delete

    def test_deleted_is_gone(self, scene: Scene) -> None:
        worker = scene.open()
        ids = one_in_each_state(scene, worker)
        words = {state: worker.edit("q", [id], Delete())[0] for state, id in ids.items()}
        assert words == {state: "too late" if state is State.CLAIMED else "deleted" for state in State}
        left = [state for state, id in ids.items() if worker.get(id) is not None]
        assert left == [State.CLAIMED]
        stats = worker.stats("q")
        assert sum(getattr(stats, str(state)) for state in State) == 1
        assert worker.edit("q", [ids[State.DEAD]], Delete()) == ["unknown"]
        assert worker.claim("q") == []

    # ---- purge

    def test_a_purge_takes_one_state(self, scene: Scene) -> None:
        worker = scene.open()
        ids = one_in_each_state(scene, worker)
        scene.put(worker, "ready", "ready")
        scene.put(worker, "elsewhere", queue="other")
        counts = {state: worker.purge("q", state) for state in State if state is not State.READY}
        assert counts == {state: 0 if state is State.CLAIMED else 1 for state in counts}
        assert worker.stats("q").ready == 3
        assert worker.purge("q", State.READY) == 3
        assert worker.purge("q", State.READY) == 0
        assert [state for state, id in ids.items() if worker.get(id) is not None] == [State.CLAIMED]
        assert worker.stats("other").ready == 1

    def test_a_purged_event_holds_no_key(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put_key(worker, "key")
        assert worker.purge("q", State.READY) == 1
        assert scene.put_key(worker, "key")[1]

    def test_a_purge_of_an_unknown_queue(self, scene: Scene) -> None:
        worker = scene.open()
        assert worker.purge("never made", State.DEAD) == 0
        assert worker.prune("never made") == 0
        assert worker.queues() == []

"""Workers: who is there, what closing gives back, and that a closed one stays closed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from eventq.errors import ConfigError, StorageClosed
from eventq.model import Cancel, Completed, PutOptions, State
from eventq.storage.base import LOOK_INTERVAL, MAX_INTRODUCTION
from eventq.testing.conformance.scene import EVERYTHING, fires, in_threads

if TYPE_CHECKING:
    from eventq.testing.conformance.scene import Scene


class PresenceRules:
    def test_each_worker_has_its_own_id(self, scene: Scene) -> None:
        workers = [scene.open() for _ in range(3)]
        assert len({worker.worker for worker in workers}) == 3

    def test_the_living_are_listed_with_what_they_run(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        ids = scene.put(one, 1, 2, 3)
        first, _ = one.claim("q", 2)
        two.claim("other")
        found = {worker.id: worker for worker in two.workers()}
        assert {one.worker, two.worker} <= set(found)
        assert sorted(found[one.worker].claims) == ids[:2]
        assert found[two.worker].claims == ()
        assert found[one.worker].pid == os.getpid()
        assert found[one.worker].host
        assert found[one.worker].since == pytest.approx(scene.now(), abs=10)
        one.settle(first, Completed())
        found = {worker.id: worker for worker in two.workers()}
        assert found[one.worker].claims == (ids[1],)

    def test_who_introduces_itself_is_listed_with_what_it_serves(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        two.claim("q")
        one.introduce(["mail", "Übung"], ["shop.send", "shop.bill"])
        found = {worker.id: worker for worker in two.workers()}
        assert (found[one.worker].serves, found[one.worker].tasks) == (("mail", "Übung"), ("shop.send", "shop.bill"))
        assert (found[one.worker].claims, found[one.worker].pid) == ((), os.getpid())
        assert (found[two.worker].serves, found[two.worker].tasks) == ((), ())
        assert "mail" not in two.queues()  # it only said so
        one.introduce(["q"], [])
        found = {worker.id: worker for worker in one.workers()}
        assert (found[one.worker].serves, found[one.worker].tasks) == (("q",), ())

    def test_wrong_introductions_are_refused(self, scene: Scene) -> None:
        worker = scene.open()
        worker.introduce(["q"], ["t"])
        for queues, tasks in ([""], []), (["x" * 101], []), (["q"], ["x" * MAX_INTRODUCTION]):
            with pytest.raises(ConfigError):
                worker.introduce(queues, tasks)
        assert [(found.serves, found.tasks) for found in worker.workers()] == [(("q",), ("t",))]

    def test_who_left_is_not_listed(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        one.claim("q")
        two.claim("q")
        one.close()
        assert [worker.id for worker in two.workers()] == [two.worker]

    def test_recover_is_cheap_and_says_when_to_come_again(self, scene: Scene) -> None:
        worker = scene.open()
        for _ in range(10):
            assert 0 <= worker.recover() <= LOOK_INTERVAL

    def test_one_look_at_a_store_full_of_others_work_changes_nothing(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        scene.put(one, *range(10))
        one.claim("q", 3)
        one.give_back("q")
        before = two.stats("q")
        scene.look(two)
        scene.look(two)
        after = two.stats("q")
        assert (after.ready, after.claimed) == (before.ready, before.claimed) == (7, 3)

    # ---- closing

    def test_closing_gives_back_what_was_started(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        ids = scene.put(one, *range(4))
        one.claim("q", 2)
        one.close()
        found = two.claim("q", 4)
        assert [claimed.id for claimed in found] == ids
        assert {(claimed.failures, claimed.crashes) for claimed in found} == {(0, 0)}
        outcomes = [[attempt.outcome for attempt in scene.record(two, id).attempts] for id in ids]
        assert outcomes == [["released", "running"]] * 2 + [["running"]] * 2

    def test_closing_twice_is_harmless(self, scene: Scene) -> None:
        worker = scene.open()
        worker.close()
        worker.close()

    def test_a_storage_closes_with_its_block(self, scene: Scene) -> None:
        other = scene.open()
        with scene.open() as worker:
            scene.put(worker, 1)
            scene.claim(worker)
        assert scene.drain(other) == [1]

    def test_after_the_close_every_call_says_so(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1)
        claimed = scene.claim(worker)
        worker.close()
        for call in (
            lambda: worker.put("q", [b"1"], PutOptions()),
            lambda: worker.put_key("q", b"1", PutOptions(key="k")),
            lambda: worker.claim("q"),
            lambda: worker.settle(claimed, Completed()),
            lambda: worker.give_back("q"),
            lambda: worker.note(claimed, "progress", b"1"),
            lambda: worker.get(id),
            lambda: worker.notes(id),
            lambda: worker.scan("q", State.READY, EVERYTHING),
            lambda: worker.stats("q"),
            worker.queues,
            lambda: worker.edit("q", [id], Cancel()),
            lambda: worker.purge("q", State.READY),
            lambda: worker.prune("q"),
            lambda: worker.settings("q"),
            lambda: worker.configure("q", {}),
            lambda: worker.drop("q"),
            lambda: worker.introduce(["q"], []),
            worker.workers,
            worker.recover,
            lambda: worker.watch("q"),
            lambda: worker.take_name("n", b"1"),
            lambda: worker.get_names(["n"]),
            worker.names,
            lambda: worker.release_name("n"),
            lambda: worker.take_slot("s"),
        ):
            with pytest.raises(StorageClosed):
                call()
        assert scene.drain(scene.open()) == [1]

    def test_threads_that_are_inside_when_it_closes_hear_so_and_lose_nothing(self, scene: Scene) -> None:
        worker, heir = scene.open(), scene.open()
        ready = set(heir.put("q", [b"1"] * 300, PutOptions()))
        put: set[str] = set()
        tried: set[str] = set()
        settled: set[str] = set()

        def work(number: int) -> None:
            with pytest.raises(StorageClosed):
                while True:
                    put.update(worker.put("other", [b"1"], PutOptions()))
                    for claimed in worker.claim("q"):
                        tried.add(claimed.id)
                        worker.settle(claimed, Completed())
                        settled.add(claimed.id)
                    if number == 0 and len(settled) > 20:
                        worker.close()

        in_threads(4, work)
        left, more = [], heir.claim("q", 300)
        while more:
            left += more
            scene.look(heir)
            more = heir.claim("q", 300)
        assert {claimed.id for claimed in left} <= ready - settled
        assert ready - tried <= {claimed.id for claimed in left}
        assert {claimed.crashes for claimed in left} <= {0}
        assert put <= {claimed.id for claimed in heir.claim("other", 10_000)}

    def test_everything_survives_when_all_have_left(self, scene: Scene) -> None:
        worker = scene.open()
        ids = scene.put(worker, 1, 2, 3)
        worker.settle(scene.claim(worker), Completed(b"10"))
        scene.put(worker, 4, due=scene.now() + 0.2)
        scene.put_key(worker, "key", 5)
        worker.take_name("name", b"1")
        worker.close()
        scene.wait(0.3)
        later = scene.open()
        assert scene.record(later, ids[0]).value == b"10"
        assert not scene.put_key(later, "key")[1]
        assert [held.name for held in later.names()] == ["name"]
        assert sorted(scene.drain(later)) == [2, 3, 4, 5]

    # ---- watching

    def test_a_closed_watch_is_not_woken(self, scene: Scene) -> None:
        worker = scene.open()
        watch = worker.watch("q")
        watch.close()
        watch.close()
        scene.put(worker, 1)
        assert scene.drain(worker) == [1]

    def test_two_watches_of_one_worker_have_their_own_descriptors(self, scene: Scene) -> None:
        worker = scene.open()
        one, two = worker.watch("q"), worker.watch("q")
        try:
            assert one.fileno() != two.fileno()
            one.close()
            scene.put(worker, 1)
            assert fires(two, 5.0)
        finally:
            one.close()
            two.close()

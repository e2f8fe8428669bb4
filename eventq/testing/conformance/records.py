"""Reading without claiming: records, scans, counts, notes; and how long records stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from eventq.errors import PayloadError
from eventq.model import Cancel, Completed, Failure, Filter, Move, Rejected, Released, Requeue, Retried, State
from eventq.storage.base import MAX_NOTE_BYTES
from eventq.testing.conformance.scene import EVERYTHING, fires, records_of

if TYPE_CHECKING:
    from eventq.storage.base import Storage
    from eventq.testing.conformance.scene import Scene


class RecordRules:
    def test_get_tells_everything_of_a_waiting_event(self, scene: Scene) -> None:
        worker = scene.open()
        due, expires = scene.now() + 100, scene.now() + 200
        (id,) = scene.put(worker, {"a": 1}, priority=-3, due=due, expires=expires, headers={"h": 1})
        record = scene.record(scene.open(), id)
        assert (record.id, record.queue, record.state) == (id, "q", State.DELAYED)
        assert msgspec.json.decode(record.payload) == {"a": 1}
        assert (record.codec, record.headers, record.priority) == ("json", {"h": 1}, -3)
        assert record.due == pytest.approx(due, abs=1e-5)
        assert record.expires == pytest.approx(expires, abs=1e-5)
        assert record.created == pytest.approx(scene.now(), abs=5)
        assert (record.worker, record.failures, record.crashes, record.attempts) == (None, 0, 0, ())
        assert (record.settled, record.value, record.failure) == (None, None, None)

    def test_get_needs_the_id_alone(self, scene: Scene) -> None:
        worker = scene.open()
        ids = [scene.put(worker, name, queue=name)[0] for name in ("a", "b", "c")]
        assert [scene.record(worker, id).queue for id in ids] == ["a", "b", "c"]

    @pytest.mark.parametrize("id", ["", "x", "../../etc/passwd", "0" * 38 + ".00000", "0" * 38, "\0", "ü"])
    def test_an_unknown_id_has_no_record(self, scene: Scene, id: str) -> None:
        worker = scene.open()
        scene.put(worker, 1)
        assert worker.get(id) is None
        assert worker.notes(id) == []

    def test_an_id_finds_its_event_wherever_it_goes(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1)
        states = [scene.record(worker, id).state]
        claimed = scene.claim(worker)
        states.append(scene.record(worker, id).state)
        worker.settle(claimed, Released(100.0))
        states.append(scene.record(worker, id).state)
        worker.edit("q", [id], Requeue())
        states.append(scene.record(worker, id).state)
        worker.settle(scene.claim(worker), Completed(b"1"))
        states.append(scene.record(worker, id).state)
        assert states == [State.READY, State.CLAIMED, State.DELAYED, State.READY, State.COMPLETED]

    # ---- scans

    def test_pages_of_five_over_twelve(self, scene: Scene) -> None:
        """5 + 5 + 2 without overlap, while others put."""
        worker, other = scene.open(), scene.open()
        ids = scene.put_each(worker, *range(6)) + scene.put(worker, *range(6, 12))
        pages = []
        cursor = None
        for _ in range(3):
            page = worker.scan("q", State.READY, EVERYTHING, cursor, 5)
            pages.append([record.id for record in page.records if record.id in ids])
            cursor = page.cursor
            if len(pages) < 3:
                scene.put(other, "more", queue="another")
        assert [len(page) for page in pages] == [5, 5, 2]
        assert [id for page in pages for id in page] == sorted(ids)

    def test_what_stays_is_seen_once_while_others_come_and_go(self, scene: Scene) -> None:
        worker, other = scene.open(), scene.open()
        stay = scene.put_each(worker, *range(20), priority=-1)
        seen: list[str] = []
        cursor = None
        for _ in range(50):
            page = worker.scan("q", State.READY, EVERYTHING, cursor, 3)
            seen += [record.id for record in page.records if record.id in stay]
            cursor = page.cursor
            if cursor is None:
                break
            scene.put(other, "new", priority=1)
            other.settle(scene.claim(other), Completed())
            other.give_back("q")
        assert seen == sorted(stay)

    def test_an_empty_scan_is_one_empty_page(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1)
        for state in State:
            page = worker.scan("never made" if state is State.READY else "q", state, EVERYTHING)
            assert (page.records, page.cursor) == ((), None)

    def test_a_full_last_page_is_followed_by_nothing(self, scene: Scene) -> None:
        worker = scene.open()
        ids = scene.put_each(worker, *range(6))
        assert [record.id for record in records_of(worker, State.READY, limit=3)] == ids

    def test_a_scan_is_of_one_state(self, scene: Scene) -> None:
        worker = scene.open()
        one_in_each_state(scene, worker)
        found = {state: scene.all_of(worker, state) for state in State}
        assert found == {state: [str(state)] for state in State}
        for state in State:
            assert [record.state for record in records_of(worker, state)] == [state]

    def test_a_scan_filters_by_time(self, scene: Scene) -> None:
        worker = scene.open()
        bounds = []
        for number in range(3):
            bounds.append(scene.now())
            scene.wait(0.1)
            scene.put(worker, number)
            scene.wait(0.1)
        assert scene.all_of(worker, State.READY, filter=Filter(created_from=bounds[1])) == [1, 2]
        assert scene.all_of(worker, State.READY, filter=Filter(created_to=bounds[1])) == [0]
        between = Filter(created_from=bounds[1], created_to=bounds[2])
        assert scene.all_of(worker, State.READY, filter=between) == [1]

    def test_a_scan_filters_by_headers(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, 1, headers={"user": "eve", "n": 1})
        scene.put(worker, 2, headers={"user": "bob", "n": 1})
        scene.put(worker, 3, headers={"user": "eve", "n": None})
        scene.put(worker, 4)

        def found(**headers: object) -> list[object]:
            return scene.all_of(worker, State.READY, filter=Filter(headers=headers))

        assert found(user="eve") == [1, 3]
        assert found(user="eve", n=1) == [1]
        assert found(n=None) == [3]
        assert found(user="al") == []

    def test_a_scan_filters_by_worker(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        for worker in (one, two, two):
            scene.put(worker, 1)
            worker.settle(scene.claim(worker), Completed(b"1"))
        scene.put(one, 2)
        scene.claim(one)
        assert len(records_of(one, State.COMPLETED, filter=Filter(worker=two.worker))) == 2
        assert len(records_of(one, State.COMPLETED, filter=Filter(worker=one.worker))) == 1
        assert scene.all_of(two, State.CLAIMED, filter=Filter(worker=one.worker)) == [2]
        assert records_of(one, State.CLAIMED, filter=Filter(worker=two.worker)) == []

    def test_a_scan_filters_by_end_and_run_time(self, scene: Scene) -> None:
        worker = scene.open()
        bounds = []
        for number, took in enumerate((0.0, 0.3, 0.6)):
            bounds.append(scene.now())
            scene.wait(0.05)
            scene.put(worker, number)
            claimed = scene.claim(worker)
            scene.wait(took)
            worker.settle(claimed, Completed(b"1"))
            scene.wait(0.05)

        def found(**wanted: Any) -> list[object]:
            return scene.all_of(worker, State.COMPLETED, filter=Filter(**wanted))

        assert found(settled_from=bounds[1]) == [1, 2]
        assert found(settled_from=bounds[1], settled_to=bounds[2]) == [1]
        assert found(run_time_from=0.25) == [1, 2]
        assert found(run_time_from=0.25, run_time_to=0.55) == [1]
        assert found(run_time_from=0.55, settled_to=bounds[2]) == []
        scene.put(worker, "runs")
        scene.claim(worker)
        assert scene.all_of(worker, State.CLAIMED, filter=Filter(run_time_from=0.0)) == []
        assert scene.all_of(worker, State.CLAIMED, filter=Filter(settled_to=scene.now() + 100)) == []

    def test_an_exit_code_tells_how_it_ended(self, scene: Scene) -> None:
        worker = scene.open()
        one_in_each_state(scene, worker)
        scene.put(worker, "late", priority=100)
        worker.settle(scene.claim(worker), Rejected(Failure("eventq.errors.TaskTimeout", "too long")))
        codes = {
            msgspec.json.decode(record.payload): record.exit_code
            for state in State
            for record in records_of(worker, state)
        }
        assert codes == {
            "ready": None, "delayed": None, "claimed": None,
            "completed": 0, "dead": 1, "expired": 1, "cancelled": 130, "late": 130,
        }  # fmt: skip
        for code in (0, 1, 130):
            wanted = {name for name, each in codes.items() if each == code}
            found = [scene.all_of(worker, state, filter=Filter(exit_code=code)) for state in State]
            assert {name for names in found for name in names} == wanted

    def test_filtered_pages_are_whole(self, scene: Scene) -> None:
        worker = scene.open()
        for number in range(20):
            scene.put(worker, number, headers={"even": number % 2 == 0})
        records = records_of(worker, State.READY, filter=Filter(headers={"even": True}), limit=3)
        assert [msgspec.json.decode(record.payload) for record in records] == list(range(0, 20, 2))

    # ---- whether there is something to claim

    def test_whether_something_can_be_claimed(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        assert not one.has_ready("q")
        scene.put(one, 1, due=scene.now() + 0.3)
        assert not two.has_ready("q")
        scene.put(one, 2, queue="other")
        assert not two.has_ready("q")
        scene.wait(0.4)
        assert two.has_ready("q")
        claimed = scene.claim(one)
        assert not two.has_ready("q")
        one.settle(claimed, Released())
        assert two.has_ready("q")
        scene.claim(two)
        assert not one.has_ready("q")
        assert one.has_ready("other")

    # ---- counts

    def test_stats_count_each_state(self, scene: Scene) -> None:
        worker = scene.open()
        one_in_each_state(scene, worker)
        scene.put(worker, 1, 2)
        stats = worker.stats("q")
        assert stats.ready == 3
        assert (stats.delayed, stats.claimed) == (1, 1)
        assert (stats.completed, stats.dead, stats.expired, stats.cancelled) == (1, 1, 1, 1)

    def test_what_was_not_started_counts_as_ready(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, *range(5))
        scene.claim(worker)
        stats = scene.open().stats("q")
        assert (stats.ready, stats.claimed) == (4, 1)

    def test_stats_of_an_unknown_queue_are_zero(self, scene: Scene) -> None:
        worker = scene.open()
        stats = worker.stats("never made")
        assert (stats.ready, stats.claimed, stats.dead, stats.oldest_ready) == (0, 0, 0, None)
        assert worker.queues() == []

    def test_the_age_of_the_oldest_ready(self, scene: Scene) -> None:
        worker = scene.open()
        assert worker.stats("q").oldest_ready is None
        scene.put(worker, 1, due=scene.now() + 1000)
        assert worker.stats("q").oldest_ready is None
        scene.put(worker, 2, priority=-5)
        scene.wait(0.4)
        scene.put(worker, 3, priority=5)
        age = worker.stats("q").oldest_ready
        assert age is not None
        assert 0.35 <= age < 10

    def test_queues_are_listed_sorted(self, scene: Scene) -> None:
        worker, other = scene.open(), scene.open()
        assert worker.queues() == []
        for name in ("b", "a", "C"):
            scene.put(worker, 1, queue=name)
        other.configure("made", {"keep": 1})
        assert other.queues() == worker.queues() == ["C", "a", "b", "made"]

    # ---- notes

    def test_notes_are_readable_at_once(self, scene: Scene) -> None:
        worker, other = scene.open(), scene.open()
        (id,) = scene.put(worker, 1)
        claimed = scene.claim(worker)
        for number in range(3):
            worker.note(claimed, "progress", b'{"done": %d}' % number)
        worker.note(claimed, "yielded", b'"line\\nbreak"')
        notes = other.notes(id)
        assert [note.kind for note in notes] == ["progress"] * 3 + ["yielded"]
        assert [msgspec.json.decode(note.data) for note in notes] == [*({"done": n} for n in range(3)), "line\nbreak"]
        assert notes[0].at == pytest.approx(scene.now(), abs=5)
        assert [note.kind for note in other.notes(id, after=3)] == ["yielded"]
        assert other.notes(id, after=4) == []
        assert other.notes(id, after=9) == []

    def test_notes_stay_with_the_record(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1)
        claimed = scene.claim(worker)
        worker.note(claimed, "output", b'"hello"')
        worker.settle(claimed, Completed(b"1"))
        assert [note.kind for note in worker.notes(id)] == ["output"]

    def test_notes_stay_over_attempts(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1)
        for number in range(2):
            claimed = scene.claim(worker)
            worker.note(claimed, f"run{number}", b"1")
            worker.settle(claimed, Released())
        assert [note.kind for note in worker.notes(id)] == ["run0", "run1"]

    def test_notes_go_with_a_moved_event(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1)
        claimed = scene.claim(worker)
        worker.note(claimed, "before", b"1")
        worker.settle(claimed, Released())
        assert worker.edit("q", [id], Move("other")) == ["moved"]
        assert [note.kind for note in worker.notes(id)] == ["before"]
        worker.note(scene.claim(worker, "other"), "after", b"1")
        assert [note.kind for note in worker.notes(id)] == ["before", "after"]

    def test_notes_of_a_batch_are_apart(self, scene: Scene) -> None:
        worker = scene.open()
        ids = scene.put(worker, 1, 2)
        for number, claimed in enumerate(worker.claim("q", 2)):
            worker.note(claimed, str(number), b"1")
        assert [[note.kind for note in worker.notes(id)] for id in ids] == [["0"], ["1"]]

    def test_notes_are_numbered_over_attempts(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        (id,) = scene.put(one, 1)
        for worker in (one, two, one):
            claimed = scene.claim(worker)
            for _ in range(2):
                worker.note(claimed, "progress", b"1")
            worker.settle(claimed, Retried())
        assert [note.number for note in two.notes(id)] == [1, 2, 3, 4, 5, 6]
        assert [note.number for note in two.notes(id, after=4)] == [5, 6]

    def test_who_reads_on_finds_what_is_new(self, scene: Scene) -> None:
        worker, other = scene.open(), scene.open()
        (id,) = scene.put(worker, 1)
        assert other.notes(id) == []
        claimed = scene.claim(worker)
        after = 0
        for count in (1, 0, 3, 0, 0, 1):
            for _ in range(count):
                worker.note(claimed, "output", b'"more"')
            notes = other.notes(id, after)
            assert [note.number for note in notes] == list(range(after + 1, after + count + 1))
            after += count
        assert [note.number for note in other.notes(id)] == [1, 2, 3, 4, 5]

    def test_of_too_many_notes_the_newest_are_kept_and_the_gap_shows(self, scene: Scene) -> None:
        worker, other = scene.open(), scene.open()
        (id,) = scene.put(worker, 1)
        claimed = scene.claim(worker)
        large = b'"' + b"x" * 100_000 + b'"'
        worker.note(claimed, "output", large)
        assert [note.number for note in other.notes(id)] == [1]
        for _ in range(39):
            worker.note(claimed, "output", large)
        notes = other.notes(id, after=1)
        assert 400_000 < sum(len(bytes(note.data)) for note in notes) < 1_200_000
        assert [note.number for note in notes] == list(range(notes[0].number, 41))
        assert notes[0].number > 2  # so who had read number 1 sees that some are missing
        worker.note(claimed, "output", b"1")
        assert [note.number for note in other.notes(id, after=40)] == [41]
        worker.settle(claimed, Completed())

    def test_a_note_that_is_too_large_is_refused(self, scene: Scene) -> None:
        worker = scene.open()
        (id,) = scene.put(worker, 1)
        claimed = scene.claim(worker)
        worker.note(claimed, "output", b'"' + b"x" * (MAX_NOTE_BYTES - 2) + b'"')
        with pytest.raises(PayloadError, match=str(MAX_NOTE_BYTES)):
            worker.note(claimed, "output", b'"' + b"x" * MAX_NOTE_BYTES + b'"')
        assert [note.number for note in worker.notes(id)] == [1]

    def test_a_note_wakes_who_watches_the_event(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        id, other = scene.put_each(one, 1, 2)
        claims = two.claim("q", 2)
        watch = one.watch(id=id)
        try:
            two.note(claims[1], "progress", b"1")
            assert not fires(watch, 0.05)
            two.note(claims[0], "progress", b"1")
            assert fires(watch, 5.0)
            assert [note.number for note in one.notes(id)] == [1]
            watch.clear()
            for _ in range(50):
                two.note(claims[0], "progress", b"1")
            assert fires(watch, 5.0)
            two.settle(claims[0], Completed(b"1"))
            while fires(watch, 0.1):
                watch.clear()
            two.note(claims[1], "progress", b"1")
            assert not fires(watch, 0.05)
        finally:
            watch.close()
        assert [claimed.id for claimed in claims] == [id, other]

    # ---- retention

    def test_values_are_pruned_after_their_time(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"keep": 1000.0})
        (id,) = scene.put(worker, 1)
        worker.settle(scene.claim(worker), Completed(b"1"))
        scene.long_wait(900.0)
        scene.look(worker)
        assert scene.record(worker, id).value == b"1"
        scene.long_wait(300.0)
        scene.until(lambda: worker.get(id) is None, worker)
        assert worker.stats("q").completed == 0

    @pytest.mark.parametrize(("queue", "own"), [(1e4, 1e5), (1e6, 1e5), (0.0, 1e5)])
    @pytest.mark.parametrize("way", ["put", "claimed", "retried", "another", "prune"])
    def test_a_record_stays_for_its_own_time_and_goes_soon_after(
        self, scene: Scene, queue: float, own: float, way: str
    ) -> None:
        """Said when it was put, or by who settles it; also after it was put back."""
        worker, other = scene.open(), scene.open()
        worker.configure("q", {"keep": queue})
        (id,) = scene.put(worker, 1, keep={"claimed": None, "another": 77.0}.get(way, own))
        scene.wait(1.0)  # or they might share what they are stored in, and go together
        (plain,) = scene.put(worker, 2)
        claimed, second = worker.claim("q", 2)
        if way == "retried":
            worker.settle(claimed, Retried())
            claimed = scene.claim(worker)
        assert claimed.id == id
        worker.note(claimed, "output", b"1")
        claimed.keep = own
        worker.settle(second, Completed(b"2"))
        worker.settle(claimed, Completed(b"1"))

        def gone(id: str) -> bool:
            if way == "prune":
                other.prune("q")
            return other.get(id) is None

        margin = 100.0 if way == "prune" else 4e4  # time passes while others look
        scene.look(worker)
        scene.long_wait(own - margin)
        if queue < own:
            scene.until(lambda: gone(plain), worker)
        scene.look(worker)
        assert not gone(id)
        assert scene.record(other, id).value == b"1"
        assert len(other.notes(id)) == 1
        assert [record.id for record in records_of(other, State.COMPLETED)] == [id, plain][: 1 + (queue > own)]
        scene.long_wait(margin + 100.0)
        scene.until(lambda: gone(id), worker)
        assert other.notes(id) == []
        assert gone(plain) == (queue < own)
        assert other.stats("q").completed == int(queue > own)

    def test_dead_letters_are_pruned_after_their_time(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"keep_dead": 1000.0})
        (id,) = scene.put(worker, 1)
        worker.settle(scene.claim(worker), Rejected())
        scene.long_wait(900.0)
        scene.look(worker)
        assert scene.record(worker, id).state is State.DEAD
        scene.long_wait(300.0)
        scene.until(lambda: worker.get(id) is None, worker)
        assert worker.stats("q").dead == 0

    def test_the_oldest_dead_letters_go_first(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"keep_dead_count": 5})
        ids = []
        for number in range(12):
            ids += scene.put(worker, number)
            worker.settle(scene.claim(worker), Rejected())
            scene.long_wait(150.0)
        scene.until(lambda: worker.stats("q").dead <= 6, worker)
        assert [record.id for record in records_of(worker, State.DEAD)][-5:] == ids[-5:]

    def test_a_count_never_prunes_a_young_value(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"keep_count": 2, "keep": 1e6})
        ids = []
        for number in range(6):
            ids += scene.put(worker, number)
            worker.settle(scene.claim(worker), Completed(b"1"))
        scene.long_wait(500.0)
        scene.look(worker)
        assert [scene.record(worker, id).value for id in ids] == [b"1"] * 6
        scene.put(worker, "much later")
        scene.long_wait(400.0)
        worker.settle(scene.claim(worker), Completed(b"1"))
        scene.until(lambda: worker.stats("q").completed <= 3, worker)

    def test_a_prune_is_complete(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"keep": 1000.0, "keep_dead": 1e6})
        ids = scene.put(worker, *range(30))
        for number, claimed in enumerate(worker.claim("q", 30)):
            worker.settle(claimed, Completed(b"1") if number % 3 else Rejected())
        assert worker.prune("q") == 0
        worker.close()  # whoever has claimed may look by itself at any moment, and prune the first of them
        other = scene.open()
        scene.long_wait(1200.0)
        assert other.prune("q") == 20
        assert other.prune("q") == 0
        assert [id for id in ids if other.get(id) is not None] == ids[::3]

    def test_open_events_are_never_pruned(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"keep": 1.0, "keep_dead": 1.0})
        scene.put(worker, 1, 2)
        claimed = scene.claim(worker)
        worker.give_back("q")
        scene.long_wait(365 * 86400.0)
        for _ in range(3):
            scene.look(worker)
        worker.settle(claimed, Completed())
        assert scene.drain(worker) == [2]


def one_in_each_state(scene: Scene, worker: Storage, queue: str = "q") -> dict[State, str]:
    """One event in each state, its payload the name of the state; their ids."""
    ids = {}
    (ids[State.EXPIRED],) = scene.put(worker, "expired", queue=queue, expires=scene.now() - 1)
    assert worker.claim(queue) == []
    (ids[State.COMPLETED],) = scene.put(worker, "completed", queue=queue)
    worker.settle(scene.claim(worker, queue), Completed(b"1"))
    (ids[State.DEAD],) = scene.put(worker, "dead", queue=queue)
    worker.settle(scene.claim(worker, queue), Rejected())
    (ids[State.CANCELLED],) = scene.put(worker, "cancelled", queue=queue)
    assert worker.edit(queue, [ids[State.CANCELLED]], Cancel()) == ["cancelled"]
    (ids[State.CLAIMED],) = scene.put(worker, "claimed", queue=queue)
    scene.claim(worker, queue)
    (ids[State.DELAYED],) = scene.put(worker, "delayed", queue=queue, due=scene.now() + 10_000)
    (ids[State.READY],) = scene.put(worker, "ready", queue=queue)
    return ids

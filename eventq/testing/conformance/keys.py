"""Keyed puts, names and slots: of any number who race, exactly the allowed number wins."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec
import pytest

from eventq.errors import PayloadError, QueueFull
from eventq.model import (
    Cancel,
    Completed,
    Delete,
    Dropped,
    Move,
    Outcome,
    PutOptions,
    Rejected,
    Released,
    Retried,
    State,
)
from eventq.storage.base import MAX_NAME_BYTES
from eventq.testing.conformance.scene import in_threads

if TYPE_CHECKING:
    from eventq.storage.base import Slot
    from eventq.testing.conformance.scene import Scene

HOSTILE_KEYS = ("", "../x", "a/b", "a", "A", "ä", "\0", "\n", "k" * 10_000, "🐝")


class KeyRules:
    def test_the_second_put_of_a_key_changes_nothing(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        first = scene.put_key(one, "key", "first")
        assert first[1]
        assert scene.put_key(two, "key", "second") == (first[0], False)
        assert scene.put_key(one, "key", "third") == (first[0], False)
        assert scene.record(two, first[0]).key == "key"
        assert scene.drain(two) == ["first"]

    def test_keys_never_mix(self, scene: Scene) -> None:
        worker = scene.open()
        ids = [scene.put_key(worker, key, key) for key in HOSTILE_KEYS]
        assert all(new for _, new in ids)
        assert [scene.put_key(worker, key) for key in HOSTILE_KEYS] == [(id, False) for id, _ in ids]
        assert sorted(scene.drain(worker)) == sorted(HOSTILE_KEYS)

    def test_keys_are_per_queue(self, scene: Scene) -> None:
        worker = scene.open()
        assert scene.put_key(worker, "key")[1]
        assert not scene.put_key(worker, "key")[1]
        scene.put(worker, 1, queue="other")
        claimed = scene.claim(worker)
        assert claimed.queue == "q"

    def test_a_keyed_event_is_like_any_other(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put(worker, "plain")
        scene.put_key(worker, "a", "delayed", due=scene.now() + 0.2)
        scene.put_key(worker, "b", "first", priority=1, headers={"h": 1})
        claimed = scene.claim(worker)
        assert (msgspec.json.decode(claimed.payload), claimed.headers) == ("first", {"h": 1})
        worker.settle(claimed, Completed())
        assert scene.drain(worker) == ["plain"]
        scene.wait(0.3)
        assert scene.drain(worker) == ["delayed"]

    @pytest.mark.parametrize("unique", ["waiting", "open", 60.0])
    def test_one_of_many_racing_puts_wins(self, scene: Scene, unique: str | float) -> None:
        workers = [scene.open() for _ in range(4)]
        for number in range(10):
            results: list[tuple[str, bool]] = []
            in_threads(
                8,
                lambda n, key=f"key{number}", results=results: results.append(  # type: ignore[misc]
                    scene.put_key(workers[n % 4], key, n, unique=unique)
                ),
            )
            assert sum(new for _, new in results) == 1
            assert len({id for id, _ in results}) == 1
        assert len(scene.drain(workers[0])) == 10

    # ---- how long a key is held

    @pytest.mark.parametrize(
        "outcome", [Completed(), Completed(b"1"), Rejected(), Dropped(State.CANCELLED, "")], ids=repr
    )
    def test_open_is_until_settled(self, scene: Scene, outcome: Outcome) -> None:
        worker = scene.open()
        id, _ = scene.put_key(worker, "key")
        claimed = scene.claim(worker)
        assert scene.put_key(worker, "key") == (id, False)
        worker.settle(claimed, outcome)
        new_id, new = scene.put_key(worker, "key")
        assert new
        assert new_id != id
        assert scene.claim(worker).id == new_id

    @pytest.mark.parametrize("outcome", [Released(), Retried(), Retried(100.0)], ids=repr)
    def test_open_again_is_still_open(self, scene: Scene, outcome: Outcome) -> None:
        worker = scene.open()
        id, _ = scene.put_key(worker, "key")
        worker.settle(scene.claim(worker), outcome)
        assert scene.put_key(worker, "key") == (id, False)

    def test_waiting_is_until_first_started(self, scene: Scene) -> None:
        worker = scene.open()
        id, _ = scene.put_key(worker, "key", unique="waiting")
        assert scene.put_key(worker, "key", unique="waiting") == (id, False)
        claimed = scene.claim(worker)
        new_id, new = scene.put_key(worker, "key", unique="waiting")
        assert new
        worker.settle(claimed, Completed())
        assert scene.put_key(worker, "key", unique="waiting") == (new_id, False)

    def test_seconds_outlast_the_event(self, scene: Scene) -> None:
        worker = scene.open()
        id, _ = scene.put_key(worker, "key", unique=1.0)
        worker.settle(scene.claim(worker), Completed())
        assert scene.put_key(worker, "key", unique=1.0) == (id, False)
        scene.wait(1.1)
        new_id, new = scene.put_key(worker, "key", unique=1.0)
        assert new
        assert new_id != id

    def test_seconds_end_while_the_event_is_open(self, scene: Scene) -> None:
        worker = scene.open()
        id, _ = scene.put_key(worker, "key", unique=0.5)
        claimed = scene.claim(worker)
        scene.wait(0.6)
        new_id, new = scene.put_key(worker, "key", unique=100.0)
        assert new
        worker.settle(claimed, Completed())
        assert scene.put_key(worker, "key") == (new_id, False)
        assert id != new_id

    def test_a_key_is_held_as_its_holder_said(self, scene: Scene) -> None:
        """Not as whoever wants it next says."""
        worker = scene.open()
        id, _ = scene.put_key(worker, "key", unique="open")
        claimed = scene.claim(worker)
        for unique in ("waiting", "open", 0.001):
            assert scene.put_key(worker, "key", unique=unique) == (id, False)
        worker.settle(claimed, Completed())
        assert scene.put_key(worker, "key", unique=60.0)[1]

    def test_a_cancelled_or_deleted_event_holds_no_key(self, scene: Scene) -> None:
        worker = scene.open()
        id, _ = scene.put_key(worker, "key")
        assert worker.edit("q", [id], Cancel()) == ["cancelled"]
        id, new = scene.put_key(worker, "key")
        assert new
        assert worker.edit("q", [id], Delete()) == ["deleted"]
        id, new = scene.put_key(worker, "key")
        assert new
        assert scene.claim(worker).id == id

    def test_a_moved_event_holds_no_key_where_it_was(self, scene: Scene) -> None:
        worker = scene.open()
        id, _ = scene.put_key(worker, "key")
        assert worker.edit("q", [id], Move("other")) == ["moved"]
        new_id, new = scene.put_key(worker, "key")
        assert new
        assert scene.claim(worker).id == new_id

    def test_a_dead_producers_key_is_held(self, scene: Scene) -> None:
        victim, heir = scene.open(), scene.open()
        id, _ = scene.put_key(victim, "key")
        scene.kill(victim)
        scene.look(heir)
        assert scene.put_key(heir, "key") == (id, False)
        assert scene.claim(heir).id == id

    # ---- debounced: the last put wins

    def test_the_last_debounced_put_wins(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        ids = []
        for payload, worker in (("a", one), ("b", two), ("c", one)):
            id, new = scene.put_key(worker, "key", payload, debounce=1.0)
            assert new
            ids.append(id)
            scene.wait(0.2)
        for id, successor in pairwise(ids):
            record = scene.record(two, id)
            assert record.state is State.CANCELLED
            assert record.failure is not None
            assert successor in record.failure.message
        assert one.stats("q").delayed == 1
        scene.wait(0.6)
        assert scene.drain(two) == []
        scene.wait(0.3)
        assert scene.drain(two) == ["c"]
        assert scene.record(two, ids[0]).state is State.CANCELLED

    def test_a_debounce_has_an_end(self, scene: Scene) -> None:
        worker = scene.open()
        for payload in range(4):
            scene.put_key(worker, "key", payload, debounce=0.5, debounce_max=0.9)
            scene.wait(0.2)
        assert scene.drain(worker) == []
        scene.wait(0.15)
        assert scene.drain(worker) == [3]

    def test_a_chain_whose_time_is_over_is_due(self, scene: Scene) -> None:
        worker = scene.open()
        scene.put_key(worker, "key", "a", debounce=0.1, debounce_max=0.1)
        scene.wait(0.2)
        scene.put(worker, "plain")
        id, new = scene.put_key(worker, "key", "b", debounce=0.1, debounce_max=0.1)
        assert new
        assert scene.record(worker, id).key == "key"
        assert sorted(scene.drain(worker)) == ["b", "plain"]

    def test_a_started_event_ends_the_chain(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        id, _ = scene.put_key(one, "key", "a", debounce=0.1, debounce_max=0.5)
        scene.wait(0.2)
        claimed = scene.claim(one)
        scene.wait(0.5)
        second, new = scene.put_key(two, "key", "b", debounce=0.5, debounce_max=0.5)
        assert new
        scene.look(one, two)
        assert not claimed.cancelled
        one.settle(claimed, Released())
        third, _ = scene.put_key(two, "key", "c", debounce=0.5, debounce_max=0.5)
        assert scene.record(one, second).state is State.CANCELLED
        assert scene.record(one, id).state is State.READY
        assert scene.drain(one) == ["a"]
        scene.wait(0.6)
        assert scene.claim(one).id == third

    def test_a_debounced_event_holds_its_key_until_it_is_started(self, scene: Scene) -> None:
        worker = scene.open()
        id, _ = scene.put_key(worker, "key", debounce=0.1)
        assert scene.put_key(worker, "key") == (id, False)
        assert scene.put_key(worker, "key", unique=60.0) == (id, False)
        scene.wait(0.2)
        assert scene.claim(worker).id == id
        assert scene.put_key(worker, "key")[1]

    @pytest.mark.parametrize("unique", ["waiting", "open", 60.0])
    def test_what_was_put_otherwise_is_left_alone(self, scene: Scene, unique: str | float) -> None:
        worker = scene.open()
        id, _ = scene.put_key(worker, "key", "first", unique=unique)
        assert scene.put_key(worker, "key", "second", debounce=0.1) == (id, False)
        assert scene.drain(worker) == ["first"]

    def test_a_debounced_event_that_was_cancelled_or_moved_is_nobodys(self, scene: Scene) -> None:
        worker = scene.open()
        ids = [scene.put_key(worker, "key", debounce=0.1)[0]]
        assert worker.edit("q", ids, Cancel("by hand")) == ["cancelled"]
        moved, _ = scene.put_key(worker, "key", debounce=0.1)
        assert worker.edit("q", [moved], Move("other")) == ["moved"]
        last, new = scene.put_key(worker, "key", debounce=0.1)
        assert new
        assert scene.record(worker, moved).state is State.DELAYED
        record = scene.record(worker, ids[0])
        assert record.failure is not None
        assert record.failure.message == "by hand"
        scene.wait(0.2)
        assert scene.claim(worker).id == last

    def test_a_dead_producers_debounced_event_is_displaced(self, scene: Scene) -> None:
        victim, heir = scene.open(), scene.open()
        id, _ = scene.put_key(victim, "key", "a", debounce=0.5)
        scene.kill(victim)
        scene.look(heir)
        scene.put_key(heir, "key", "b", debounce=0.5)
        assert scene.record(heir, id).state is State.CANCELLED
        scene.wait(0.6)
        assert scene.drain(heir) == ["b"]

    def test_of_racing_debounced_puts_one_survives(self, scene: Scene) -> None:
        workers = [scene.open() for _ in range(2)]
        for round in range(5):
            key = f"key {round}"
            results: list[tuple[str, bool]] = []

            def put(number: int, key: str = key, results: list[tuple[str, bool]] = results) -> None:
                results.extend(scene.put_key(workers[number % 2], key, number, debounce=60.0) for _ in range(3))

            in_threads(6, put)
            assert all(new for _, new in results)
            assert len({id for id, _ in results}) == 18
            states = {id: scene.record(workers[0], id).state for id, _ in results}
            waiting = [id for id, state in states.items() if state is State.DELAYED]
            assert len(waiting) == 1
            assert set(states.values()) == {State.DELAYED, State.CANCELLED}
            assert scene.put_key(workers[1], key) == (waiting[0], False)

    # ---- several events with one key

    def test_several_events_with_one_key(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        options = PutOptions(key="k", unique=60.0, headers={"a": 1}, priority=2)
        ids = one.put("q", [b"1", b"2", b"3"], options)
        assert len(set(ids)) == 3
        assert ids == sorted(ids)
        assert two.put("q", [b"1", b"2", b"3"], options) == ids
        assert two.put_key("q", b"4", PutOptions(key="k", unique=60.0)) == (ids[0], False)
        claims = [one.claim("q")[0], *two.claim("q", 10)]
        claims += one.claim("q", 10)
        assert sorted((each.id, each.payload, each.headers) for each in claims) == [
            (id, payload, {"a": 1}) for id, payload in zip(ids, (b"1", b"2", b"3"), strict=True)
        ]
        assert one.put("q", [b"1", b"2", b"3"], options) == ids  # they are not here any more, the key is
        assert two.stats("q").ready == 0

    def test_the_key_of_several_events_ends_with_its_time(self, scene: Scene) -> None:
        worker = scene.open()
        options = PutOptions(key="k", unique=60.0)
        first = worker.put("q", [b"1", b"2"], options)
        scene.long_wait(61)
        second = worker.put("q", [b"1", b"2"], options)
        assert set(first).isdisjoint(second)
        assert worker.stats("q").ready == 4

    def test_of_many_puts_of_several_with_one_key_one_wins(self, scene: Scene) -> None:
        workers = [scene.open() for _ in range(4)]
        for number in range(5):
            options = PutOptions(key=f"k{number}", unique=60.0)
            found: list[list[str]] = []
            in_threads(
                8,
                lambda n, options=options, found=found: found.append(  # type: ignore[misc]
                    workers[n % 4].put("q", [b"1", b"2"], options)
                ),
            )
            assert found == [found[0]] * 8
        assert workers[0].stats("q").ready == 10

    def test_several_events_whose_key_goes_with_them(self, scene: Scene) -> None:
        worker = scene.open()
        for options in (PutOptions(key="k"), PutOptions(key="k", unique=60.0, debounce=1.0)):
            with pytest.raises(ValueError, match="held for a time"):
                worker.put("q", [b"1", b"2"], options)
        assert worker.put("q", [], PutOptions(key="k", unique=60.0)) == []

    def test_several_events_with_one_key_find_room_or_not(self, scene: Scene) -> None:
        worker = scene.open()
        worker.configure("q", {"maxsize": 3, "max_bytes": 10})
        options = PutOptions(key="k", unique=60.0)
        with pytest.raises(QueueFull):
            worker.put("q", [b"1"] * 4, options)
        with pytest.raises(PayloadError):
            worker.put("q", [b"1", b"1" * 11], options)
        ids = worker.put("q", [b"1"] * 3, options)
        assert worker.put("q", [b"1"] * 3, options) == ids

    # ---- names

    def test_the_first_takes_the_name(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        taken, mine = one.take_name("report", b'{"page": 1}')
        assert mine
        assert (taken.name, taken.worker) == ("report", one.worker)
        assert taken.at == pytest.approx(scene.now(), abs=5)
        held, mine = two.take_name("report", b"2")
        assert not mine
        assert (held.worker, msgspec.json.decode(held.data)) == (one.worker, {"page": 1})
        assert not one.take_name("report", b"3")[1]

    def test_names_stay_after_their_taker(self, scene: Scene) -> None:
        one = scene.open()
        one.take_name("report", b"1")
        one.close()
        assert not scene.open().take_name("report", b"2")[1]

    def test_a_released_name_is_free(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        one.take_name("report", b"1")
        assert two.release_name("report")
        assert not two.release_name("report")
        assert two.take_name("report", b"2")[1]

    def test_a_name_is_replaced_by_who_has_read_what_it_says(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        held = one.take_name("report", b'{"a": 1}')[0]
        assert two.replace_name(held, b'{"a": 2}')
        found = two.get_names(["report"])["report"]
        assert (found.name, found.worker, found.data) == ("report", two.worker, msgspec.Raw(b'{"a": 2}'))
        assert found.at >= held.at
        for data in (b'{"a": 3}', None):
            assert not one.replace_name(held, data)
        assert one.names() == [found]
        assert not one.replace_name(msgspec.structs.replace(found, worker=one.worker), b"3")
        assert not one.replace_name(msgspec.structs.replace(found, name="other"), b"3")
        assert one.names() == [found]
        assert one.take_name("report", b"4") == (found, False)

    def test_a_name_is_freed_by_who_has_read_what_it_says(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        held = one.take_name("report", b"1")[0]
        assert two.replace_name(held, None)
        assert not two.replace_name(held, None)
        assert not two.replace_name(held, b"2")
        assert one.names() == []
        assert two.take_name("report", b"3")[1]
        assert two.release_name("report")

    def test_of_many_who_replace_a_name_none_is_lost(self, scene: Scene) -> None:
        """Each adds itself to what it has read, and reads again if others were faster; in between one frees it."""
        workers = [scene.open() for _ in range(4)]
        workers[0].take_name("list", b"[]")
        freed: list[int] = []

        def work(number: int) -> None:
            worker, left = workers[number % 4], 10
            while left:
                held = worker.get_names(["list"]).get("list")
                if held is None:
                    left -= worker.take_name("list", b"[%d]" % number)[1]
                    continue
                said = msgspec.json.decode(held.data, type=list[int])
                if number == 0 and said:
                    if worker.replace_name(held, None):
                        freed.extend(said)
                        left -= 1
                else:
                    left -= worker.replace_name(held, msgspec.json.encode([*said, number]))

        in_threads(8, work)
        held = workers[0].get_names(["list"]).get("list")
        found = freed + (msgspec.json.decode(held.data, type=list[int]) if held else [])
        assert [found.count(number) for number in range(1, 8)] == [10] * 7

    def test_a_name_is_at_most_a_mebibyte_with_its_data(self, scene: Scene) -> None:
        worker, name = scene.open(), "\x01" * 1000
        most = b'"%s"' % (b"x" * (MAX_NAME_BYTES - len(name) - 2))
        for data in (most[:-1] + b'x"', b'"' + b"x" * (8 * MAX_NAME_BYTES) + b'"'):
            with pytest.raises(PayloadError, match=f"at most {MAX_NAME_BYTES}"):
                worker.take_name(name, data)
        assert worker.names() == []
        held = worker.take_name(name, most)[0]
        with pytest.raises(PayloadError, match=f"at most {MAX_NAME_BYTES}"):
            worker.replace_name(held, most[:-1] + b'x"')
        assert worker.names() == [held]
        assert held.data == msgspec.Raw(most)
        assert worker.replace_name(held, b"1")

    def test_names_are_listed_by_prefix(self, scene: Scene) -> None:
        worker = scene.open()
        for name in ("b/2", "a", "b/1", "B/3", "../x", "ü\n"):
            worker.take_name(name, b'"%s"' % name[:1].encode())
        assert [held.name for held in worker.names()] == sorted(["b/2", "a", "b/1", "B/3", "../x", "ü\n"])
        assert [held.name for held in worker.names("b/")] == ["b/1", "b/2"]
        assert worker.names("c") == []

    def test_some_names_are_looked_up(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        names = ["report/1", "../x", "ü\n", *(f"n{number}" for number in range(1500))]
        for name in (*names[:3], "report/2"):
            one.take_name(name, b'"%s"' % name[:1].encode())
        found = two.get_names(names)
        assert found == {name: one.take_name(name, b"null")[0] for name in names[:3]}
        one.release_name("report/1")
        assert two.get_names(["report/1", "report/2"]).keys() == {"report/2"}
        assert two.get_names(["free"]) == {}
        assert two.get_names([]) == {}

    def test_one_of_many_takes_the_name(self, scene: Scene) -> None:
        workers = [scene.open() for _ in range(4)]
        for number in range(10):
            won: list[bool] = []
            in_threads(
                8,
                lambda n, name=f"name{number}", won=won: won.append(  # type: ignore[misc]
                    workers[n % 4].take_name(name, b"1")[1]
                ),
            )
            assert sum(won) == 1

    # ---- slots

    def test_a_lock_excludes(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        slot = one.take_slot("lock")
        assert slot is not None
        assert two.take_slot("lock") is None
        assert one.take_slot("lock") is None
        assert two.take_slot("another") is not None
        slot.release()
        slot.release()
        assert two.take_slot("lock") is not None
        slot.release()
        assert one.take_slot("lock") is None

    def test_as_many_slots_as_the_limit(self, scene: Scene) -> None:
        workers = [scene.open() for _ in range(3)]
        slots = [worker.take_slot("../s", 3) for worker in workers]
        assert None not in slots
        assert [worker.take_slot("../s", 3) for worker in workers] == [None] * 3
        for slot in slots[:2]:
            assert slot is not None
            slot.release()
        assert workers[0].take_slot("../s", 3) is not None
        assert workers[0].take_slot("../s", 3) is not None
        assert workers[0].take_slot("../s", 3) is None

    def test_a_closed_workers_slots_are_free(self, scene: Scene) -> None:
        one, two = scene.open(), scene.open()
        assert one.take_slot("lock") is not None
        one.close()
        assert two.take_slot("lock") is not None

    def test_never_more_than_the_limit_with_threads(self, scene: Scene) -> None:
        workers = [scene.open() for _ in range(4)]
        inside: list[int] = []
        peaks: list[int] = []

        def work(number: int) -> None:
            entered = 0
            while entered < 20:
                slot: Slot | None = workers[number % 4].take_slot("pool", 3)
                if slot is None:
                    continue
                inside.append(number)
                peaks.append(len(inside))
                inside.remove(number)
                slot.release()
                entered += 1

        in_threads(8, work)
        assert 1 <= max(peaks) <= 3

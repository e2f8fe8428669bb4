"""A storage and the memory storage live the same life, step by step, and must tell the same story.

The memory storage is the model. Both are driven by one clock that each put moves on, so the order of events is fixed
by the contract; where it is not (events that came back, or were delayed), claims are compared as sets.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from eventq.clock import sleep
from eventq.errors import EventqError
from eventq.ids import stem_of
from eventq.model import (
    OPEN_STATES,
    Cancel,
    Claimed,
    Completed,
    Delete,
    Dropped,
    Edit,
    Failure,
    Move,
    Outcome,
    PutOptions,
    Record,
    Rejected,
    Released,
    Requeue,
    Retried,
    Skipped,
    State,
)
from eventq.storage.base import LOOK_INTERVAL
from eventq.storage.file import FileStorage
from eventq.storage.memory import MemoryStorage
from eventq.testing import FakeClock
from eventq.testing.conformance.scene import records_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventq.storage.base import Slot, Storage

QUEUES = ("q", "Other")
MAX_CRASHES = 2
SETTINGS = {"max_crashes": MAX_CRASHES, "keep": 1e6, "keep_dead": 1e6}
"""No event becomes a suspect, whose turn the contract leaves open; nothing is pruned."""
ID = re.compile(r"[0-9a-f]{38}\.[0-9a-f]{5}")
EMPTY: Mapping[str, str] = {}
BROKEN = Failure("ValueError", "broken")
OUTCOMES: tuple[Outcome, ...] = (
    Completed(), Completed(b"null"), Completed(b"\x81\n\0", "msgpack"), Retried(0.0, BROKEN), Retried(1.777, BROKEN),
    Released(), Released(0.333), Skipped(), Rejected(BROKEN), Rejected(), Dropped(State.CANCELLED, "stop"),
    Dropped(State.EXPIRED, "late"),
)  # fmt: skip
EDITS: tuple[Edit, ...] = (Cancel("because"), Requeue(), Move("q"), Move("Other"), Delete())
DELAYS = st.sampled_from([None, None, None, 0.333, 1.777])  # never exactly at an instant that a rule advances to

LIMITS = st.sampled_from([{}, {}, {}, {"c": 1}, {"c": 2, "d": 1}, {"d": 1}])

queues = st.sampled_from(QUEUES)
outcomes = st.sampled_from(OUTCOMES)
indexes = st.integers(0, 1000)


class Pair(NamedTuple):
    """The same worker, in both worlds."""

    model: Storage
    real: Storage


class Held(NamedTuple):
    """The same claim, in both worlds."""

    pair: Pair
    model: Claimed
    real: Claimed


class TwoWorlds(RuleBasedStateMachine):
    """Subclasses say how to open the real storage, and how to let it die."""

    def open_real(self, folder: str, clock: FakeClock) -> Storage:
        raise NotImplementedError

    def kill_real(self, worker: Any) -> None:
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.folder = tempfile.mkdtemp(prefix="eventq-machine-")
        self.pairs: list[Pair] = []
        self.held: list[Held] = []
        self.past: list[Held] = []
        self.slots: list[tuple[Pair, Slot, Slot]] = []
        self.real_ids: dict[str, str] = {}
        self.keyed: set[str] = set()
        self.loose: set[str] = set()
        """Stems of events whose place among others is not fixed any more."""

    def teardown(self) -> None:
        for pair in self.pairs:
            pair.model.close()
            pair.real.close()
        MemoryStorage.forget(self.folder)
        shutil.rmtree(self.folder)

    # ------------------------------------------------------------------ both at once

    def open(self) -> Pair:
        model = MemoryStorage(self.folder, clock=self.clock)
        pair = Pair(model, self.open_real(self.folder, self.clock))
        self.pairs.append(pair)
        return pair

    def both(self, pair: Pair, call: Callable[[Storage], Any]) -> tuple[Any, Any]:
        """The two answers; errors are compared here, by type, and answer None."""
        answers: list[tuple[type[EventqError] | None, Any]] = []
        for storage in pair:
            try:
                answers.append((None, call(storage)))
            except EventqError as error:
                answers.append((type(error), None))
        assert answers[0][0] == answers[1][0], f"model {answers[0]}, real {answers[1]}"
        return answers[0][1], answers[1][1]

    def look(self) -> None:
        """Time for every worker to see what the others did."""
        absence = max(pair.real.absence for pair in self.pairs)
        for _ in range(2 + int(absence / LOOK_INTERVAL)):
            self.clock.advance(LOOK_INTERVAL + 0.01)
            for pair in self.pairs:
                pair.model.recover()
                pair.real.recover()

    def pick(self, number: int) -> Pair:
        return self.pairs[number % len(self.pairs)]

    def loosen(self, id: str) -> None:
        self.loose.add(stem_of(id))

    def is_beside_open(self, id: str) -> bool:
        """Whether an event completed and others of its put are open: then a storage may be unable to delete it yet."""
        model = self.pairs[0].model
        record = model.get(id)
        if record is None or record.state is not State.COMPLETED:
            return False
        others = [model.get(other) for other in self.real_ids if stem_of(other) == stem_of(id)]
        return any(other is not None and other.state in OPEN_STATES for other in others)

    # ------------------------------------------------------------------ rules

    @initialize()
    def begin(self) -> None:
        for queue in QUEUES:
            self.both(self.open(), lambda storage, queue=queue: storage.configure(queue, SETTINGS))  # type: ignore[misc]

    @rule(
        who=indexes, queue=queues, count=st.integers(1, 4), priority=st.sampled_from([0, 0, 0, 5, -5]), delay=DELAYS,
        expiry=DELAYS, header=st.booleans(), limits=LIMITS,
    )  # fmt: skip
    def put(
        self, who: int, queue: str, count: int, priority: int, delay: float | None, expiry: float | None, header: bool,
        limits: dict[str, int],
    ) -> None:  # fmt: skip
        self.clock.advance(0.05)
        if limits:
            expiry = None  # of an event that waits for a place, the two storages find it at different times
        options = PutOptions(
            priority=priority,
            due=None if delay is None else self.clock.now() + delay,
            expires=None if expiry is None else self.clock.now() + expiry,
            headers={"n": count} if header else {},
            limits=limits,
        )
        payloads = [b'{"n":%d}' % n for n in range(count)]
        ids = self.both(self.pick(who), lambda storage: storage.put(queue, payloads, options))
        self.real_ids.update(zip(*ids, strict=True))
        if delay is not None:
            self.loosen(ids[0][0])

    @rule(
        who=indexes, queue=queues, keyed=st.sampled_from([("a", "open"), ("b", "waiting"), ("c", 1.777)]), delay=DELAYS
    )
    def put_key(self, who: int, queue: str, keyed: tuple[str, str | float], delay: float | None) -> None:
        self.clock.advance(0.05)
        due = None if delay is None else self.clock.now() + delay
        options = PutOptions(key=keyed[0], unique=keyed[1], due=due)
        (model_id, model_new), (real_id, real_new) = self.both(
            self.pick(who), lambda storage: storage.put_key(queue, b'"key"', options)
        )
        assert model_new == real_new
        assert self.real_ids.setdefault(model_id, real_id) == real_id
        self.keyed.add(model_id)
        if delay is not None:
            self.loosen(model_id)

    @rule(who=indexes, queue=queues, key=st.sampled_from(["a", "d"]), longest=st.sampled_from([None, 0.777]))
    def put_debounced(self, who: int, queue: str, key: str, longest: float | None) -> None:
        """Key `a` may be held by an event that was put otherwise."""
        self.clock.advance(0.05)
        self.look()
        options = PutOptions(key=key, debounce=0.333, debounce_max=longest)
        (model_id, model_new), (real_id, real_new) = self.both(
            self.pick(who), lambda storage: storage.put_key(queue, b'"debounced"', options)
        )
        assert model_new == real_new
        assert self.real_ids.setdefault(model_id, real_id) == real_id
        self.keyed.add(model_id)
        self.loosen(model_id)

    @rule(who=indexes, queue=queues, limit=st.integers(1, 4))
    def claim(self, who: int, queue: str, limit: int) -> None:
        self.look()
        pair = self.pick(who)
        model = pair.model.claim(queue, limit)
        real = pair.real.claim(queue, limit)
        for claimed in (model, real):
            assert [one.priority for one in claimed] == sorted((one.priority for one in claimed), reverse=True)
        self._claim_until_sets_agree(pair, queue, model, real)
        order = [self.real_ids[one.id] for one in model if stem_of(one.id) not in self.loose]
        assert order == [id for id in (one.id for one in real) if id in order]
        found = {one.id: one for one in real}
        for one in model:
            self.held.append(Held(pair, one, found[self.real_ids[one.id]]))
            compare_claims(*self.held[-1][1:])
        pair.real.give_back(queue)
        pair.model.give_back(queue)

    def _claim_until_sets_agree(self, pair: Pair, queue: str, model: list[Claimed], real: list[Claimed]) -> None:
        """One may take first what the other takes next; and the real one may find a due event a moment later.

        Likewise, one may have met a dead letter to be, and the other not yet. Where what is claimed holds the place
        that the next one needs, neither gets further: then both complete what they have.
        """
        patience = 100
        ended: tuple[set[str], set[str]] = (set(), set())
        while (mine := ended[0] | {self.real_ids[one.id] for one in model}) != (
            theirs := ended[1] | {one.id for one in real}
        ) or not self._have_met_alike(pair, queue):
            count = max(len(mine), len(theirs)) + (len(mine) == len(theirs))
            more = pair.model.claim(queue, count - len(mine)), pair.real.claim(queue, count - len(theirs))
            if not more[0] and not more[1] and len(mine) == len(theirs) and self._limited(pair, model):
                self._complete(pair, queue, model, real, ended)
            model += more[0]
            real += more[1]
            if not more[1]:
                patience -= 1
                sleep(0.001)
            assert patience > 0, f"never found: model {model}, real {real}"
            found_alike = more[0] or not more[1] or len(mine) == count  # who has more was not asked for any
            assert found_alike or ended[0], f"found too much: model {model}, real {real}"
        if ended[0]:
            self._complete(pair, queue, model, real, ended)

    def _have_met_alike(self, pair: Pair, queue: str) -> bool:
        """Whether both have met the same of those that have crashed too often."""
        for id, real_id in self.real_ids.items():
            model = pair.model.get(id)
            if model is not None and model.queue == queue and model.crashes >= MAX_CRASHES:
                real = pair.real.get(real_id)
                if real is None or real.state is not model.state:
                    return False
        return True

    def _limited(self, pair: Pair, claims: list[Claimed]) -> bool:
        records = [pair.model.get(one.id) for one in claims]
        return any(record is not None and record.limits for record in records)

    def _complete(
        self, pair: Pair, queue: str, model: list[Claimed], real: list[Claimed], ended: tuple[set[str], set[str]]
    ) -> None:
        """Complete all that was claimed in one turn, in both worlds, and remember it."""
        for storage, claims, done in ((pair.model, model, ended[0]), (pair.real, real, ended[1])):
            for one in claims:
                storage.settle(one, Completed())
                done.add(self.real_ids.get(one.id, one.id))
            claims.clear()
            storage.give_back(queue)

    @precondition(lambda self: self.held)
    @rule(which=indexes, outcome=outcomes)
    def settle(self, which: int, outcome: Outcome) -> None:
        held = self.held.pop(which % len(self.held))
        self.past = [*self.past, held][-5:]
        self.loosen(held.model.id)
        held.pair.model.settle(held.model, outcome)
        held.pair.real.settle(held.real, outcome)

    @precondition(lambda self: self.past)
    @rule(which=indexes, outcome=outcomes)
    def settle_again(self, which: int, outcome: Outcome) -> None:
        held = self.past[which % len(self.past)]
        errors = []
        for storage, claimed in ((held.pair.model, held.model), (held.pair.real, held.real)):
            with pytest.raises(EventqError) as error:
                storage.settle(claimed, outcome)
            errors.append(error.type)
        assert errors[0] == errors[1]

    @precondition(lambda self: self.held)
    @rule(which=indexes)
    def note(self, which: int) -> None:
        held = self.held[which % len(self.held)]
        held.pair.model.note(held.model, "progress", b"1")
        held.pair.real.note(held.real, "progress", b"1")

    @precondition(lambda self: self.real_ids)
    @rule(who=indexes, which=indexes, edit=st.sampled_from(EDITS), hint=st.booleans())
    def edit(self, who: int, which: int, edit: Edit, hint: bool) -> None:
        id = list(self.real_ids)[which % len(self.real_ids)]
        if id in self.keyed and isinstance(edit, Requeue | Move):
            return  # who has the key then is nobody's promise
        if isinstance(edit, Delete) and self.is_beside_open(id):
            return
        self.clock.advance(0.05)
        pair = self.pick(who)
        record = pair.model.get(id)
        queue = record.queue if hint and record is not None else None
        (model,) = pair.model.edit(queue, [id], edit)
        (real,) = pair.real.edit(queue, [self.real_ids[id]], edit)
        if isinstance(edit, Requeue) and model not in ("too late", "unknown"):
            assert (real == self.real_ids[id]) == (model == id)
            self.real_ids[model] = real
            self.loosen(model)
        else:
            assert model == real
        self.loosen(id)
        self.look()

    @rule(who=indexes, queue=queues, state=st.sampled_from(State))
    def purge(self, who: int, queue: str, state: State) -> None:
        if state is State.COMPLETED and any(self.is_beside_open(id) for id in self.real_ids):
            return
        model, real = self.both(self.pick(who), lambda storage: storage.purge(queue, state))
        assert model == real

    @rule(who=indexes, queue=queues, until=st.sampled_from([None, 1.777]))
    def pause(self, who: int, queue: str, until: float | None) -> None:
        changes = {"paused": True, "paused_until": None if until is None else self.clock.now() + until}
        model, real = self.both(self.pick(who), lambda storage: storage.configure(queue, changes))
        assert model == real
        self.look()

    @rule(who=indexes, queue=queues)
    def resume(self, who: int, queue: str) -> None:
        model, real = self.both(self.pick(who), lambda storage: storage.configure(queue, {"paused": False}))
        assert model == real
        self.look()

    @rule(seconds=st.sampled_from([0.1, 0.5, 2.0, 100.0]))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(who=indexes)
    def kill(self, who: int) -> None:
        pair = self.pick(who)
        for held in [held for held in self.held if held.pair is pair and self._limited(pair, [held.model])]:
            # one that has crashed too often is a dead letter when it is met, which may be while its place is held
            self.settle(self.held.index(held), Completed())
        self._gone(pair)
        pair.model.abandon()  # type: ignore[attr-defined]
        self.kill_real(pair.real)
        self._replace()

    @rule(who=indexes)
    def close_and_open(self, who: int) -> None:
        pair = self.pick(who)
        self._gone(pair)
        pair.model.close()
        pair.real.close()
        self._replace()

    def _gone(self, pair: Pair) -> None:
        self.pairs.remove(pair)
        for held in self.held:
            if held.pair is pair:
                self.loosen(held.model.id)
        self.held = [held for held in self.held if held.pair is not pair]
        self.past = [held for held in self.past if held.pair is not pair]
        self.slots = [slot for slot in self.slots if slot[0] is not pair]

    def _replace(self) -> None:
        if len(self.pairs) < 2:
            self.open()
        self.look()

    @precondition(lambda self: len(self.pairs) < 4)
    @rule()
    def join(self) -> None:
        self.open()

    @rule(who=indexes, name=st.sampled_from(["a", "../b"]), take=st.booleans())
    def name(self, who: int, name: str, take: bool) -> None:
        if take:
            model, real = self.both(self.pick(who), lambda storage: storage.take_name(name, b"1"))
            assert model[1] == real[1]
        else:
            model, real = self.both(self.pick(who), lambda storage: storage.release_name(name))
            assert model == real

    @rule(who=indexes, name=st.sampled_from(["a", "../b"]), stale=st.booleans(), frees=st.booleans())
    def replace(self, who: int, name: str, stale: bool, frees: bool) -> None:
        def work(storage: Storage) -> bool | None:
            held = storage.get_names([name]).get(name)
            if held is None:
                return None
            if stale:
                held = msgspec.structs.replace(held, data=msgspec.Raw(b"0"))
            return storage.replace_name(held, None if frees else b"2")

        model, real = self.both(self.pick(who), work)
        assert model == real
        assert model in (None, not stale)

    @rule(who=indexes, take=st.booleans())
    def slot(self, who: int, take: bool) -> None:
        if not take and self.slots:
            for one in self.slots.pop(who % len(self.slots))[1:]:
                one.release()
        elif take:
            pair = self.pick(who)
            model, real = self.both(pair, lambda storage: storage.take_slot("pool", 2))
            assert (model is None) == (real is None)
            if model is not None:
                self.slots.append((pair, model, real))

    # ------------------------------------------------------------------ what must agree

    @invariant()
    def worlds_agree(self) -> None:
        if not self.pairs:
            return
        self._records_agree(self.pairs[-1])
        self._counts_agree(self.pairs[0])
        self._scans_agree(self.pairs[0])
        self._claims_agree(self.pairs[0])

    def _records_agree(self, pair: Pair) -> None:
        for model_id, real_id in self.real_ids.items():
            model, real = pair.model.get(model_id), pair.real.get(real_id)
            assert story(model, self.real_ids) == story(real), model_id
            if model is not None:  # the notes of an event that is gone may go later
                kinds = [
                    [note.kind for note in storage.notes(id)]
                    for storage, id in zip(pair, (model_id, real_id), strict=True)
                ]
                assert kinds[0] == kinds[1], model_id

    def _counts_agree(self, pair: Pair) -> None:
        for queue in QUEUES:
            model, real = (storage.stats(queue) for storage in pair)
            for state in State:
                assert getattr(model, str(state)) == getattr(real, str(state)), f"{queue}: model {model}, real {real}"
            assert (model.oldest_ready is None) == (real.oldest_ready is None)

    def _scans_agree(self, pair: Pair) -> None:
        for queue in QUEUES:
            for state in State:
                model, real = ([record.id for record in records_of(storage, state, queue, limit=7)] for storage in pair)
                assert {self.real_ids[id] for id in model} == set(real)
                assert real == sorted(set(real))

    def _claims_agree(self, pair: Pair) -> None:
        assert [held.model.cancelled for held in self.held] == [held.real.cancelled for held in self.held]
        found = {worker.id: set(worker.claims) for worker in pair.real.workers()}
        for pair in self.pairs:  # one that has done nothing yet need not have joined
            assert found.get(pair.real.worker, set()) == {one.real.id for one in self.held if one.pair is pair}


def compare_claims(model: Claimed, real: Claimed) -> None:
    for field in ("queue", "payload", "codec", "headers", "priority", "failures", "crashes", "max_attempts", "keep"):
        assert getattr(model, field) == getattr(real, field), field


def story(record: Record | None, ids: Mapping[str, str] = EMPTY) -> object:
    """What two storages must tell alike of an event: all but ids, workers and instants. `ids`: those of the other, for
    a failure that names some."""
    if record is None:
        return None
    failure = record.failure
    if failure is not None:
        message = ID.sub(lambda match: ids.get(match[0], match[0]), failure.message)
        failure = Failure(failure.type, message, failure.traceback)
    return {
        "queue": record.queue,
        "state": record.state,
        "payload": record.payload,
        "codec": record.codec,
        "headers": record.headers,
        "limits": record.limits,
        "priority": record.priority,
        "key": record.key,
        "held": record.worker is not None,
        "failures": record.failures,
        "crashes": record.crashes,
        "attempts": [(attempt.outcome, attempt.error, attempt.ended is None) for attempt in record.attempts],
        "settled": record.settled is not None,
        "value": (record.value, record.value_codec),
        "failure": None if record.state in OPEN_STATES and not record.failures else failure,  # of its past life
        "due": pytest.approx(record.due, abs=1e-5) if record.state is State.DELAYED else None,
    }


class FileAndMemory(TwoWorlds):
    def open_real(self, folder: str, clock: FakeClock) -> FileStorage:
        return FileStorage(folder, sync=False, clock=clock)

    def kill_real(self, worker: FileStorage) -> None:
        worker.abandon()


def test_file_and_memory_tell_the_same_story() -> None:
    run_state_machine_as_test(FileAndMemory, settings=settings(max_examples=5, stateful_step_count=40))


@pytest.mark.exhaustive
def test_file_and_memory_tell_the_same_story_for_long() -> None:
    run_state_machine_as_test(FileAndMemory, settings=settings(max_examples=45, stateful_step_count=60))

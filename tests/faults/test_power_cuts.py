"""Power cuts in a durable store: what was acknowledged is there in every state that a cut may leave.

In the manner of ALICE (Pillai et al., OSDI 2014) and CrashMonkey (Mohan et al., OSDI 2018, where three operations
found nearly every bug): short sequences of operations, every point in time, every part of what was not synced lost.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from eventq.errors import EventqError
from eventq.model import (
    FINAL_STATES,
    Cancel,
    Completed,
    Copy,
    Failure,
    Filter,
    Move,
    Name,
    PutOptions,
    Rejected,
    Released,
    Requeue,
    Retried,
    State,
)
from eventq.storage.file import FileStorage
from eventq.testing import FakeClock
from faults.check import check_fsck, drain
from faults.power import Recorder, crash_states, rebuild
from faults.scenarios_restoring import ELSEWHERE, copies, payload_of
from faults.world import fast_folder, still_maintenance


class Owner:
    """One worker of a durable store, and after which call each of its events was promised, or may be gone."""

    def __init__(self, root: Path, recorder: Recorder) -> None:
        self.recorder = recorder
        self.clock = FakeClock()
        self.store = FileStorage(root, sync=True, clock=self.clock)
        self.promised: dict[str, int] = {}
        self.may_go: dict[str, int] = {}
        self.tried: set[str] = set()
        self.ids: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        self.chain: dict[str, int] = {}
        """The debounced events of one key, and after which call each was promised."""
        self.said: list[tuple[int, bytes | None]] = [(0, None)]
        """What the name `leader` said, one after the other, and after which call that was promised."""
        self.restored: list[Copy] = []

    def put(
        self, *payloads: str, key: str | None = None, due: float | None = None, limits: dict[str, int] | None = None
    ) -> None:
        self.tried.update(payloads)
        data = [msgspec.json.encode(payload) for payload in payloads]
        if key is not None:
            ids = [self.store.put_key("q", data[0], PutOptions(key=key, due=due))[0]]
            self.keys[payloads[0]] = key
        else:
            ids = self.store.put("q", data, PutOptions(due=due, limits=limits or {}))
        for payload, id in zip(payloads, ids, strict=True):
            self.promised[payload] = self.recorder.calls
            self.ids[payload] = id

    def put_debounced(self, payload: str) -> None:
        self.tried.add(payload)
        options = PutOptions(key="debounced", debounce=5.0)
        self.ids[payload] = self.store.put_key("q", msgspec.json.encode(payload), options)[0]
        self.chain[payload] = self.recorder.calls

    def settle(self, outcome: object) -> None:
        """Claim one event and settle it; a completed one may be gone from then on, and its key free even if it comes
        back."""
        if isinstance(outcome, Completed | Rejected):
            self.keys.clear()
        for claimed in self.store.claim("q"):
            if isinstance(outcome, Completed):
                self.may_go.setdefault(msgspec.json.decode(claimed.payload), self.recorder.calls)
            self.store.settle(claimed, outcome)  # type: ignore[arg-type]

    def owed(self, at: int) -> set[str]:
        """What must be there after a cut behind the `at`-th call."""
        return {
            payload for payload, since in self.promised.items() if since <= at and self.may_go.get(payload, at + 1) > at
        }

    def may_say(self, at: int) -> list[bytes | None]:
        """What the name says after such a cut: what was promised last, or what was being made of it."""
        last = max(number for number, (since, _) in enumerate(self.said) if since <= at)
        return [data for _, data in self.said[last:]]


Operation = Callable[[Owner], None]


def put(owner: Owner) -> None:
    owner.clock.advance(1.0)
    owner.put(f"put {len(owner.tried)}")


def append(owner: Owner) -> None:
    owner.put(f"append {len(owner.tried)}")


def put_many(owner: Owner) -> None:
    owner.put(*(f"many {len(owner.tried)} {part}" for part in range(3)))


def put_key(owner: Owner) -> None:
    owner.put(f"key {len(owner.tried)}", key=f"key {len(owner.tried)}")


def put_debounced(owner: Owner) -> None:
    owner.put_debounced(f"debounced {len(owner.tried)}")


def put_delayed(owner: Owner) -> None:
    owner.put(f"delayed {len(owner.tried)}", due=owner.clock.now() + 5)


def put_limited(owner: Owner) -> None:
    owner.put(*(f"limited {len(owner.tried)} {part}" for part in range(3)), limits={"c": 1})


def block(owner: Owner) -> None:
    """Some start, others have to wait; then their places are free, and who waited comes back."""
    for claimed in owner.store.claim("q", 3):
        owner.store.settle(claimed, Released())


def take_name(owner: Owner) -> None:
    if owner.store.take_name("leader", b"1")[1]:
        owner.said.append((owner.recorder.calls, b"1"))


def replace_name(owner: Owner) -> None:
    say(owner, b"%d" % (len(owner.said) + 1))


def free_name(owner: Owner) -> None:
    say(owner, None)


def say(owner: Owner, data: bytes | None) -> None:
    for held in owner.store.names():
        assert owner.store.replace_name(held, data)
        owner.said.append((owner.recorder.calls, data))


def restore(owner: Owner) -> None:
    owner.clock.advance(1.0)  # others than before
    made = copies(owner.clock, f"restored {len(owner.tried)} ")
    owner.tried.update(map(payload_of, made))
    owner.restored += made
    owner.store.restore(made, [Name("leader", ELSEWHERE, 1.0)])
    owner.promised.update((payload_of(copy), owner.recorder.calls) for copy in made)
    if owner.said[-1][1] is None:
        owner.said.append((owner.recorder.calls, b"null"))


def complete(owner: Owner) -> None:
    owner.settle(Completed())


def complete_with_value(owner: Owner) -> None:
    owner.settle(Completed(b"1"))


def retry(owner: Owner) -> None:
    owner.settle(Retried(2.0, Failure("E")))


def release(owner: Owner) -> None:
    owner.settle(Released())


def reject(owner: Owner) -> None:
    owner.settle(Rejected(Failure("E")))


def give_back(owner: Owner) -> None:
    owner.store.claim("q")
    owner.store.give_back("q")


def cancel(owner: Owner) -> None:
    owner.keys.clear()
    if owner.ids:
        owner.store.edit("q", [list(owner.ids.values())[-1]], Cancel())


def move(owner: Owner) -> None:
    owner.keys.clear()
    if owner.ids:
        owner.store.edit("q", [list(owner.ids.values())[-1]], Move("other"))


def requeue(owner: Owner) -> None:
    for id in list(owner.ids.values()):
        owner.store.edit("q", [id], Requeue())


def leave(owner: Owner) -> None:
    """Another worker goes on."""
    owner.store.close()
    owner.store = FileStorage(owner.store.root, clock=owner.clock)


def die(owner: Owner) -> None:
    """And is recovered by another."""
    owner.store.claim("q")
    owner.store.abandon()
    owner.store = FileStorage(owner.store.root, clock=owner.clock)
    assert owner.store.worker
    owner.clock.advance(0.25)
    owner.store.recover()


OPERATIONS: list[Operation] = [
    put, append, put_many, put_key, put_delayed, complete, complete_with_value, retry, release, reject, give_back,
    cancel, move, requeue, leave, die, put_limited, block,
]  # fmt: skip
"""Each is a step of the sequences; which three come together matters, not what comes of them."""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    still_maintenance(monkeypatch)
    folder = Path(tempfile.mkdtemp(prefix="eventq-power-", dir=fast_folder()))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def cut_everywhere(
    folder: Path, sequence: tuple[Operation, ...], limit: int, seed: int = 0,
    change: Callable[[pytest.MonkeyPatch], None] = lambda _: None, stride: int = 1,
) -> int:  # fmt: skip
    """Run a sequence, then open every state that a power cut may leave of it (or one of `stride`); how many there
    are."""
    shutil.rmtree(folder / "cut", ignore_errors=True)
    with pytest.MonkeyPatch.context() as patch:
        (folder / "disk").mkdir()
        recorder = Recorder(folder / "disk")
        recorder.install(patch)
        change(patch)
        owner = Owner(folder / "disk/store", recorder)
        begun = 0 if len(sequence) == 1 else None
        for number, operation in enumerate(sequence):
            if number == len(sequence) - 1 and begun is None:
                begun = recorder.calls
            operation(owner)
        owner.store.abandon()
    shutil.rmtree(folder / "disk")
    seen: set[bytes] = set()
    for at, changes in crash_states(recorder, begun or 0, limit, seed):
        state = msgspec.json.encode((sorted(owner.owed(at)), owner.may_say(at), changes))
        if state in seen:
            continue
        seen.add(state)
        if len(seen) % stride:
            continue
        rebuild(recorder, changes, folder / "cut")
        try:
            look_after_a_cut(owner, folder / "cut/store", at)
        except (AssertionError, EventqError) as error:
            names = " then ".join(operation.__name__ for operation in sequence)
            raise AssertionError(f"{names}, cut after call {at} of {recorder.calls}: {error}") from error
        shutil.rmtree(folder / "cut")
    return len(seen)


def look_after_a_cut(owner: Owner, root: Path, at: int) -> None:
    owed = owner.owed(at)
    if not (root / "FORMAT").exists():
        assert not owed, f"there is no store, and {sorted(owed)} were promised"
    clock = FakeClock(owner.clock.now())
    store = FileStorage(root, clock=clock)
    try:
        clock.advance(0.25)
        assert store.worker
        store.recover()
        said = [bytes(name.data) for name in store.names()] or [None]
        assert said[0] in owner.may_say(at), f"the name says {said[0]!r}, not one of {owner.may_say(at)}"
        check_keys(owner, store, at)
        check_restored(owner, store)
        promised = [payload for payload, since in owner.chain.items() if since <= at]
        if promised:
            check_chain_key(owner, store, promised[-1])
        delivered, _ = drain(store, clock)
        kept = {
            msgspec.json.decode(record.payload)
            for queue in store.queues()
            for state in FINAL_STATES
            for record in store.scan(queue, state, Filter()).records
        }
    finally:
        store.close()
    if promised:
        later = list(owner.chain)[len(promised) - 1 :]
        assert set(later) & set(delivered), f"nothing came of {later}, the first of which was promised"
    lost = owed - set(delivered) - kept
    assert not lost, f"lost: {sorted(lost)}"
    torn = (set(delivered) | kept) - owner.tried
    assert not torn, f"never put: {sorted(torn)}"
    check_fsck(root)


def check_keys(owner: Owner, store: FileStorage, at: int) -> None:
    """An event that waits and was put with a key still holds it."""
    for payload, key in owner.keys.items():
        id = owner.ids[payload]
        record = store.get(id) if owner.promised[payload] <= at else None
        if record is not None and record.state in (State.READY, State.DELAYED) and record.key is not None:
            assert store.put_key("q", b'"second"', PutOptions(key=key)) == (id, False), f"the key {key!r} is lost"


def check_restored(owner: Owner, store: FileStorage) -> None:
    """An event that is there, promised or not, has its notes, and its key."""
    for copy in owner.restored:
        record = store.get(copy.record.id)
        if record is not None:
            assert tuple(store.notes(record.id)) == copy.notes, f"the notes of {payload_of(copy)} are lost"
            if record.key is not None:
                holder = store.put_key("q", b'"second"', PutOptions(key=record.key))
                assert holder == (record.id, False), f"the key {record.key!r} is lost"


def check_chain_key(owner: Owner, store: FileStorage, last: str) -> None:
    """The last debounced event that was promised holds the key, or one that is to take its place."""
    later = list(owner.chain)[list(owner.chain).index(last) :]
    id, fresh = store.put_key("q", b'"second"', PutOptions(key="debounced"))
    assert not fresh and id in [owner.ids[payload] for payload in later], "the key of a debounced event is lost"


SOME = pytest.param(8, id="some states")
ALL = pytest.param(1, id="all states", marks=pytest.mark.exhaustive)

SHORT: list[tuple[Operation, ...]] = [
    (put,), (put_many,), (put_key,), (put_delayed,), (put, append, append), (put, complete, put),
    (put_many, retry, complete), (put_many, reject, die), (put_many, give_back, complete),
    (put_key, release, die), (put, leave, put), (take_name,), (take_name, replace_name),
    (take_name, replace_name, free_name), (put_debounced,), (put_debounced, put_debounced),
    (put_limited, block), (put_limited, block, die), (put_limited, complete, block),
    (restore,), (put, restore), (restore, restore),
]  # fmt: skip


@pytest.mark.parametrize("stride", [SOME, ALL])
@pytest.mark.parametrize("sequence", SHORT, ids=lambda sequence: "-".join(step.__name__ for step in sequence))
def test_nothing_promised_is_lost_in_a_power_cut(folder: Path, sequence: tuple[Operation, ...], stride: int) -> None:
    assert cut_everywhere(folder, sequence, limit=1, stride=stride) > 5


@pytest.mark.exhaustive
@pytest.mark.parametrize("last", OPERATIONS, ids=lambda operation: operation.__name__)
def test_nothing_promised_is_lost_after_any_three_operations(folder: Path, last: Operation) -> None:
    """The states during the last of them: those during the others are the ends of shorter sequences. An eighth of all
    that begin with a put, another eighth for each last operation."""
    turn = OPERATIONS.index(last) % 8
    for number, before in enumerate(itertools.product((put, put_many, put_key), OPERATIONS)):
        if number % 8 == turn:
            cut_everywhere(folder, (*before, last), limit=2, seed=number)

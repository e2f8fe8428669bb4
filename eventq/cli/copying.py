"""Moving a live store to another storage: everything in it, verified, with nothing run twice and nothing lost.

The queues of the source are paused, and once nothing is claimed there the events are copied in passes. Each compares
both stores event by event and brings over what differs, until one finds nothing; what producers put since that pass
began came over, too, as far as it was seen. That last pass is also the verification. Only then may workers start what
is at the target. The source stays paused, since what would run there runs at the target.

What is owed if this process is killed stands in named claims, so that it can be repeated:

    at the source    eventq.copy.store                        a random text: which store this is
                     eventq.copy.pause:<queue>                whether the queue was paused before
    at the target    eventq.copy.unfinished:<store>:<queue>   this queue is a copy that nobody may use yet
                     eventq.copy.done:<store>                 when all were finished

An event that is only at the target was put there, or has ended at the source without a record since an earlier try:
which of the two nobody knows, and so a copy that finds one ends, and leaves it to people.
"""

from __future__ import annotations

import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from eventq import clock
from eventq.cli.compared import GROUPS, Sum, is_full, is_lasting, pairs
from eventq.errors import EventqError, StorageError
from eventq.inbox import addressee_of
from eventq.model import Copy, Delete, Filter, State
from eventq.storage.base import LOOK_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eventq.model import Name, Record
    from eventq.storage.base import Storage

PREFIX = "eventq.copy."
STORE = PREFIX + "store"
PAUSE = PREFIX + "pause:"
UNFINISHED = PREFIX + "unfinished:"
DONE = PREFIX + "done:"
SLOT = "copy:"
"""Held at the source by who copies it."""

SEEN = 2 * LOOK_INTERVAL
"""Seconds after which every process has seen a pause: twice what is promised."""
BATCH_NAMES = 1000
MOST_PASSES = 20
MOST_COUNTED = 1000
SHOWN = 3
"""So many ids are named in an error."""


class CopyFailed(EventqError):
    """The copy is not finished, and the source is as it was: the message says why, and what to do."""


class Pause(msgspec.Struct, frozen=True):
    """How a queue was before it was paused for the copy."""

    paused: bool
    paused_until: float | None = None

    def changes(self) -> dict[str, Any]:
        return {"paused": self.paused, "paused_until": self.paused_until}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was copied. Both stores have these counts and this checksum of what was put before the last pass."""

    queues: dict[str, dict[str, int]]
    copied: int
    """Events that this run has brought over."""
    names: int
    passes: int
    checksum: str
    to_resume: tuple[str, ...]
    """The queues of the source that were not paused before."""
    done_before: float | None = None
    """When it was finished, if an earlier run has done all of it; then this one did nothing."""
    since: int = 0
    """Events that were put into the source after that."""


def copy_store(
    source: Storage, target: Storage, *, wait: float = 30.0, claimed: bool = False, restart: bool = False,
    told: Callable[[int, str], None] = lambda _count, _doing: None,
) -> Report:  # fmt: skip
    """Copy everything of one store into another; see this module.

    `wait`: seconds until nothing may be claimed at the source any more. `claimed`: if something still is, copy it as
    ready, though it runs. `restart`: remove first what an unfinished copy has left at the target. `told` hears how
    many events were copied so far, and what is going on. Raises CopyFailed, StorageError; then the source is as it was
    before, unless the message says otherwise, and the target is not to be used.
    """
    slot = source.take_slot(SLOT)
    if slot is None:
        raise CopyFailed("another process copies this store right now; wait for it to end")
    try:
        return _Copying(source, target, wait, claimed, restart, told).run()
    finally:
        slot.release()


class _Copying:
    """One run."""

    def __init__(
        self, source: Storage, target: Storage, wait: float, claimed: bool, restart: bool,
        told: Callable[[int, str], None],
    ) -> None:  # fmt: skip
        self._source = source
        self._target = target
        self._wait = wait
        self._claimed = claimed
        self._restart = restart
        self._told = told
        self._store = ""
        self._paused: list[str] = []
        """The queues that are copied."""
        self._running: set[str] = set()
        """Ids of events that are claimed at the source although they are copied."""
        self._copied = 0

    def run(self) -> Report:
        self._store = str(_data(self._source.take_name(STORE, msgspec.json.encode(secrets.token_hex(8)))[0]))
        if any(_data(name) == self._store for name in self._target.names(STORE)):
            raise CopyFailed("both URLs name the same store")
        for done in self._target.names(DONE + self._store):
            self._finish()
            return self._done_before(done.at)
        with self._undone_on_failure():
            total, passes = self._passes()
            names = self._copy_names()
        try:
            self._target.take_name(DONE + self._store, b"null")
            resumed = self._finish()
        except StorageError as error:  # perhaps the target is in use already, so the source must stay as it is
            raise CopyFailed(f"all is copied and verified; finish it by the same command again: {error}") from error
        return Report(
            queues=total.counts, copied=self._copied, names=names, passes=passes, checksum=total.checksum,
            to_resume=tuple(resumed),
        )  # fmt: skip

    def _done_before(self, at: float) -> Report:
        """Nothing is copied again: what has ended at the target since would run a second time."""
        since = Filter(created_from=at)
        late = sum(
            len(self._source.scan(queue, state, since, None, MOST_COUNTED).records)
            for queue in self._queues()
            for state in (State.READY, State.DELAYED)
        )
        return Report(queues={}, copied=0, names=0, passes=0, checksum="", to_resume=(), done_before=at, since=late)

    def _finish(self) -> list[str]:
        """Let the target begin: its queues are as those of the source were. Those that were not paused."""
        resumed = []
        for name in self._source.names(PAUSE):
            queue, before = name.name.removeprefix(PAUSE), msgspec.json.decode(name.data, type=Pause)
            self._configure(queue, before)
            self._source.release_name(name.name)
            if not before.paused:
                resumed.append(queue)
        for name in self._target.names(f"{UNFINISHED}{self._store}:"):
            self._target.release_name(name.name)
        return resumed

    # ------------------------------------------------------------------ pauses

    def _queues(self) -> list[str]:
        """The queues of the source but for the workers' own, whose workers stay behind."""
        return [queue for queue in self._source.queues() if addressee_of(queue) is None]

    @contextmanager
    def _undone_on_failure(self) -> Iterator[None]:
        """Whatever goes wrong, the source goes on as before. The target's queues stay paused."""
        try:
            yield
        except BaseException:
            for name in self._source.names(PAUSE):
                before = msgspec.json.decode(name.data, type=Pause)
                self._source.configure(name.name.removeprefix(PAUSE), before.changes())
                self._source.release_name(name.name)
            raise

    def _pause(self) -> None:
        """Pause the queues that are not yet paused for the copy, at both ends, and wait until nothing runs."""
        fresh = [queue for queue in self._queues() if queue not in self._paused]
        if not fresh:
            return
        for queue in fresh:
            self._make_room(queue)
            self._remember(queue)
            self._source.configure(queue, Pause(True).changes())
            self._configure(queue, Pause(True))
            self._paused = sorted([*self._paused, queue])
        clock.sleep(SEEN)
        self._wait_for_claims(fresh)
        for queue in fresh:
            self._source.prune(queue)  # so that the target's retention finds no more to do than the source's

    def _make_room(self, queue: str) -> None:
        """See that a queue of the target holds nothing, or what an unfinished copy has left there."""
        mark = f"{UNFINISHED}{self._store}:{queue}"
        is_ours = any(name.name == mark for name in self._target.names(mark))
        if not is_ours and any(self._target.scan(queue, state, Filter(), None, 1).records for state in State):
            raise CopyFailed(f"the target has events in queue {queue!r} already; copy into a new store")
        if is_ours and self._restart:
            self._target.drop(queue)
        self._target.take_name(mark, b"null")

    def _remember(self, queue: str) -> None:
        """Note how a queue was before; unless it is paused by an earlier try of this copy, which has noted it."""
        settings = self._source.settings(queue)
        now = Pause(settings.paused, settings.paused_until)
        if now != Pause(True):
            self._source.release_name(PAUSE + queue)  # it was resumed since then
        self._source.take_name(PAUSE + queue, msgspec.json.encode(now))

    def _configure(self, queue: str, pause: Pause) -> None:
        """Give a queue of the target the settings that it has at the source, and this pause."""
        settings = msgspec.structs.asdict(self._source.settings(queue))
        self._target.configure(queue, {**settings, **pause.changes()})

    def _wait_for_claims(self, queues: list[str]) -> None:
        began = clock.SYSTEM.monotonic()
        while True:
            looked = clock.SYSTEM.monotonic()
            self._source.recover()
            running = [
                record.id
                for queue in queues
                for record in self._source.scan(queue, State.CLAIMED, Filter(), None, MOST_COUNTED).records
            ]
            now = clock.SYSTEM.monotonic()
            if not running:
                return
            if now - began >= self._wait:
                break
            self._told(self._copied, f"waiting for {len(running)} events that run")
            clock.sleep(max(0.1, now - looked))  # a look at a large store costs something
        if not self._claimed:
            raise CopyFailed(
                f"{len(running)} events of the source still run after {self._wait:g} s, {_some(running)}; "
                "wait longer (--wait), stop their workers, or copy them as ready although they run (--claimed)"
            )
        self._running.update(running)

    # ------------------------------------------------------------------ the passes

    def _passes(self) -> tuple[Sum, int]:
        """Copy until a pass finds nothing that differs; what both stores have then, and how many passes it took."""
        for number in range(1, MOST_PASSES + 1):
            self._pause()
            began = clock.SYSTEM.now()
            source, target, differing = Sum(), Sum(), list[str]()
            for queue in self._paused:
                for group in GROUPS:
                    differing += self._pass(queue, group, began, source, target)
            if not differing and self._paused == sorted(self._queues()):
                break
            self._told(self._copied, f"pass {number}")
        else:
            raise CopyFailed(
                f"verification failed: after {number} passes {len(differing)} events still differ, {_some(differing)}; "
                "see that nobody changes the target, and repeat it"
            )
        if (source.counts, source.checksum) != (target.counts, target.checksum):
            raise CopyFailed(f"verification failed: checksum {source.checksum} became {target.checksum}")
        return source, number

    def _pass(self, queue: str, group: str, began: float, source: Sum, target: Sum) -> list[str]:
        """Bring over what differs in one group of a queue; those that were put before the pass began."""
        settings = self._source.settings(queue)
        differing: list[str] = []
        arrivals: list[Copy] = []
        strangers: list[str] = []
        for pair in pairs(self._source, self._target, queue, group):
            record, alike = pair.record, pair.is_alike()
            lasting = is_lasting(record, settings, began)
            if lasting and record.created < began:
                pair.add_to(source, target, group)
                if not alike:
                    differing.append(record.id)
            if alike or (pair.source is None and not lasting):
                continue
            if pair.target is not None and not self._remove(pair.target.record):
                strangers.append(record.id)
            elif pair.source is not None:
                arrivals.append(pair.source)
                if is_full(arrivals):
                    self._restore(queue, arrivals)
        self._restore(queue, arrivals)
        if strangers:
            raise CopyFailed(
                f"queue {queue!r} of the target has {len(strangers)} events that the source lacks, {_some(strangers)}; "
                "they were put there, or have ended at the source since an earlier try: --restart removes what is in "
                "these queues of the target, and copies anew"
            )
        return differing

    def _remove(self, record: Record) -> bool:
        """Remove from the target what the source knows otherwise; False if the source does not know it at all."""
        if record.id not in self._running and self._source.get(record.id) is None:
            return False
        self._target.edit(record.queue, [record.id], Delete())
        return True

    def _restore(self, queue: str, arrivals: list[Copy]) -> None:
        if arrivals:
            self._copied += self._target.restore(arrivals)
            arrivals.clear()
            self._told(self._copied, queue)

    def _copy_names(self) -> int:
        """Copy the named claims, and see that they are there; how many."""
        names = [name for name in self._source.names() if not name.name.startswith(PREFIX)]
        for start in range(0, len(names), BATCH_NAMES):
            self._target.restore([], names[start : start + BATCH_NAMES])
        there = {name.name: (name.worker, bytes(name.data)) for name in self._target.names()}
        for name in names:
            if there.get(name.name) != (name.worker, bytes(name.data)):
                raise CopyFailed(
                    f"the name {name.name!r} has another holder at the target; release it there, and repeat"
                )
        return len(names)


def _data(name: Name) -> Any:
    return msgspec.json.decode(name.data)


def _some(ids: list[str]) -> str:
    return f"{', '.join(ids[:SHOWN])} {'is one of them' if len(ids) == 1 else 'among them'}" if ids else "none"

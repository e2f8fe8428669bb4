"""`eventq why`: what an event waits for, or how it ended, in words."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import msgspec

from eventq import clock
from eventq.cli.command import Command, Exit, event_id, existing_store
from eventq.cli.console import duration, print_json, printable, styled, timestamp
from eventq.cli.record import STATE_STYLES, failure_text, scan
from eventq.codec import choose
from eventq.disabled import disabled_among
from eventq.inbox import addressee_of
from eventq.model import FINAL_STATES, Filter, State
from eventq.retry import is_suspect

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from eventq.model import Record, Settings, Worker
    from eventq.storage.base import Storage

MOST = 10_000
"""So many events are looked at to find an event's place, and no more."""
SHOWN = 3
"""So many names are shown of several."""


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is known about why an event does not run."""

    code: str
    """For programs: one word for each kind of finding."""
    text: str
    until: str | None = None
    """When this ends by itself, if that is known."""


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", type=event_id, metavar="ID")


def _run(args: argparse.Namespace) -> int:
    with existing_store(args) as storage:
        record = storage.get(args.id)
        findings = [UNKNOWN] if record is None else list(Case(storage, record).findings())
    state = None if record is None else record.state
    if args.json:
        queue = None if record is None else record.queue
        print_json({"id": args.id, "queue": queue, "state": state, "findings": findings})
    else:
        if record is not None and state is not None:
            style = STATE_STYLES.get(state)
            word = styled(state, style) if style else state
            print(f"{styled(record.id, 'bold')} is {word} in {printable(record.queue)}")
        for finding in findings:
            print(f"  {printable(finding.text)}")
    return Exit.FAILED if record is None else Exit.OK


UNKNOWN = Finding(
    "unknown", "there is no record of it: it was completed without a result, deleted, pruned, or never put"
)


class Case:
    """An event, and what bears on it."""

    def __init__(self, storage: Storage, record: Record) -> None:
        self._storage = storage
        self._record = record
        self._now = clock.SYSTEM.now()
        self._settings: Settings = storage.settings(record.queue)
        self._workers: list[Worker] = storage.workers()
        self._task = task_of(record)

    def findings(self) -> Iterator[Finding]:
        """What there is to say, the most telling first."""
        record = self._record
        if record.state in FINAL_STATES:
            yield self._end()
        elif record.state is State.CLAIMED:
            yield self._running()
        elif record.expires is not None and self._now >= record.expires:
            yield Finding("expired", f"it has expired {self._moment(record.expires)}, and will not be started")
        else:
            blocking = list(self._obstacles())
            if not blocking and record.state is State.READY:
                yield Finding("ready", "nothing stands in its way: a worker that serves its queue takes it when free")
            yield from blocking
            if record.state is State.READY:
                yield self._place()
            if record.expires is not None:
                text = f"it expires {self._moment(record.expires)}, unless it is started before"
                yield Finding("expires", text, timestamp(record.expires))
        yield from self._history()

    # ------------------------------------------------------------------ what it waits for

    def _obstacles(self) -> Iterator[Finding]:
        yield from self._switched_off()
        yield from self._delay()
        yield from self._pause()
        yield from self._nobody()
        yield from self._strangers()
        yield from self._skipped()
        yield from self._concurrency()
        yield from self._limits()
        for name, (number, per) in self._record.rates.items():
            text = f"rate {name!r}: at most {number} start in {per:.10g} s, over all workers; it may wait for that"
            yield Finding("rate", text)
        if is_suspect(self._record.crashes, self._record.max_crashes):
            text = f"{self._record.crashes} workers died while they ran it, so it is started only alone in a process"
            yield Finding("suspect", text)

    def _delay(self) -> Iterator[Finding]:
        record = self._record
        if record.state is not State.DELAYED or record.due is None:
            return
        if record.due <= self._now:
            yield Finding("due", f"it was due {self._moment(record.due)}: the next look of any worker makes it ready")
        elif record.failures + record.crashes:
            again = f"attempt {record.failures + record.crashes + 1} is due {self._moment(record.due)}"
            yield Finding("retry", f"its last attempt failed; {again}", timestamp(record.due))
        else:
            yield Finding("delayed", f"it is delayed until {self._moment(record.due)}", timestamp(record.due))

    def _pause(self) -> Iterator[Finding]:
        until = self._settings.paused_until
        if not self._settings.paused or (until is not None and until <= self._now):
            return
        queue = self._record.queue
        end = f"until 'eventq resume {queue}'" if until is None else f"until {self._moment(until)}"
        yield Finding("paused", f"queue {queue!r} is paused {end}", timestamp(until))

    def _switched_off(self) -> Iterator[Finding]:
        """Whether its task is off: then it comes up now and then, and is given back."""
        found = disabled_among(self._storage, [self._task] if self._task else [])
        for each in found.values():
            why = f" ({each.reason})" if each.reason else ""
            text = f"its task {each.task!r} is switched off {self._moment(each.since.timestamp())}, by {each.by}{why}"
            yield Finding("disabled", f"{text}; 'eventq enable {each.task}' ends that")

    def _nobody(self) -> Iterator[Finding]:
        if (addressee := addressee_of(self._record.queue)) is not None:
            yield self._addressed(addressee)
        elif not self._serving():
            elsewhere = sum(bool(worker.serves or worker.queues) for worker in self._workers)
            others = f" ({elsewhere} elsewhere)" if elsewhere else ""
            start = "eventq worker APP" if self._task else f"eventq work {self._record.queue} --exec ..."
            text = f"no live worker serves queue {self._record.queue!r}{others}; start one, as with '{start}'"
            yield Finding("no_worker", text)

    def _addressed(self, addressee: str) -> Finding:
        """What is known of the one worker that may run it."""
        worker = next((each for each in self._serving() if each.id == addressee), None)
        if worker is None:
            text = f"it is for worker {addressee} alone, which has gone: the next look of any worker cancels it"
            return Finding("worker_gone", text)
        number = len(worker.claims)
        running = f"runs {number} event{'s' if number > 1 else ''} now" if number else "runs nothing now"
        text = f"it is for worker {addressee} alone, which {running}, and takes it before others as soon as it has room"
        return Finding("addressed", text)

    def _serving(self) -> list[Worker]:
        queue = self._record.queue
        if (addressee := addressee_of(queue)) is not None:
            return [each for each in self._workers if each.id == addressee and each.serves]
        return [each for each in self._workers if queue in (each.serves or each.queues)]

    def _strangers(self) -> Iterator[Finding]:
        telling = [worker for worker in self._serving() if worker.tasks]
        if self._task and telling and len(telling) == len(self._serving()):
            knowing = [worker for worker in telling if self._task in worker.tasks]
            if not knowing:
                names = _some([worker.id for worker in telling])
                text = f"none of the live workers of its queue knows the task {self._task!r} ({names})"
                yield Finding("unknown_task", f"{text}; start one whose app defines it")

    def _skipped(self) -> Iterator[Finding]:
        living = {worker.id for worker in self._workers}
        skipped = {each.worker: None for each in self._record.attempts if each.outcome == "skipped"}
        if still := [worker for worker in skipped if worker in living]:
            yield Finding("skipped", f"it was left for others by {_some(still)}, which will not take it again")

    def _concurrency(self) -> Iterator[Finding]:
        most = self._settings.concurrency
        if most is None:
            return
        running = self._storage.stats(self._record.queue).claimed
        if running >= most:
            text = f"queue {self._record.queue!r} runs {running} at once, and at most {most} (its concurrency)"
            yield Finding("concurrency", text)

    def _limits(self) -> Iterator[Finding]:
        """Names of which all places are taken."""
        wanted = self._record.limits
        if not wanted:
            return
        holders: dict[str, list[Record]] = {name: [] for name in wanted}
        for queue in self._storage.queues():
            for other in scan(self._storage, queue, (State.CLAIMED,), Filter()):
                for name in wanted.keys() & other.limits.keys():
                    holders[name].append(other)
        for name, places in wanted.items():
            if len(holders[name]) >= places:
                by = _some([f"{other.id} (worker {other.worker})" for other in holders[name]])
                yield Finding("limit", f"limit {name!r}: {len(holders[name])} of {places} places are taken, by {by}")

    def _place(self) -> Finding:
        record = self._record
        scanned = scan(self._storage, record.queue, (State.READY,), Filter())
        ready = list(itertools.islice(((-other.priority, other.id) for other in scanned), MOST + 1))
        ahead = sum(other < (-record.priority, record.id) for other in ready)
        if len(ready) > MOST:
            return Finding("place", f"at least {ahead:,} ready events of the same or a higher priority are before it")
        if not ahead:
            return Finding("place", "no ready event is before it")
        return Finding("place", f"{ahead:,} ready events of the same or a higher priority are before it")

    # ------------------------------------------------------------------ what it does, and has done

    def _running(self) -> Finding:
        record = self._record
        worker = next((each for each in self._workers if each.id == record.worker), None)
        if worker is None:
            text = f"worker {record.worker} had it, and has died: within a second, the next look makes it ready again"
            return Finding("orphaned", text)
        started = started_of(record)
        since = "" if started is None else f" since {self._local(started)}, for {duration(self._now - started)}"
        return Finding("running", f"it runs{since}, by worker {worker.id} (pid {worker.pid} on {worker.host})")

    def _end(self) -> Finding:
        record = self._record
        when = "" if record.settled is None else f" {self._moment(record.settled)}"
        reason = failure_text(record.failure)
        if record.state is State.COMPLETED:
            return Finding("completed", f"it was completed{when}")
        if record.state is State.DEAD:
            text = f"it is a dead letter{when}: {reason or 'no reason was recorded'}"
            return Finding("dead", f"{text}; 'eventq retry {record.id}' runs it again")
        if record.state is State.EXPIRED:
            return Finding("expired", f"it has expired{when}, before a worker started it")
        return Finding("cancelled", f"it was cancelled{when}" + (f": {reason}" if reason else ""))

    def _history(self) -> Iterator[Finding]:
        record = self._record
        if record.failures or record.crashes:
            text = f"attempts so far: {record.failures} failed, {record.crashes} crashed"
            errors = [each.error for each in record.attempts if each.error is not None]
            last = errors[-1] if errors else record.failure
            yield Finding("attempts", text + (f"; the last error: {failure_text(last)}" if last else ""))
        if record.key is not None:
            yield Finding("key", f"it was put with the key {record.key!r}")

    # ------------------------------------------------------------------ times

    def _local(self, at: float) -> str:
        try:
            return clock.aware(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        except (ValueError, OverflowError, OSError):
            return "a time that no calendar has"

    def _moment(self, at: float) -> str:
        """Local time, and how far from now."""
        away = f"{duration(self._now - at)} ago" if at <= self._now else f"in {duration(at - self._now)}"
        return f"{self._local(at)} ({away})"


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


# ---------------------------------------------------------------- what a record says of a run


class Named(msgspec.Struct, frozen=True):
    """As much of a call as names its task."""

    task: str


def task_of(record: Record) -> str | None:
    """The name of the task that an event calls; None if it is none, or cannot be read here."""
    codec = choose("json", ())[1].get(record.codec)
    if codec is None:
        return None
    try:
        named: Named = codec.decoder(Named)(record.payload)
    except Exception:  # noqa: BLE001 - whatever is no call of a task
        return None
    return named.task


def started_of(record: Record) -> float | None:
    """When the run that goes on now was started."""
    return record.attempts[-1].started if record.attempts and record.attempts[-1].ended is None else None


COMMANDS = {
    "why": Command(
        _options,
        _run,
        "Explain why an event does not run: whether it is delayed, its queue paused, nobody there to take it, a\n"
        "limit full, others before it; or who runs it, or how it ended. Nothing is changed.",
        "examples:\n"
        "  eventq why 18ea0184bd2f4700714f1543ee2de643000001.00000\n"
        "  eventq why $ID --json | jq -r '.findings[].code'\n\n"
        "codes with --json: ready, place, disabled, delayed, retry, due, expires, paused, no_worker, worker_gone,\n"
        "addressed, unknown_task, skipped, concurrency, limit, rate, suspect, running, orphaned, completed, dead,\n"
        "expired, cancelled, attempts, key, unknown.\n\n"
        "exit codes: 0 there is a record of it; 1 there is none.",
    )
}

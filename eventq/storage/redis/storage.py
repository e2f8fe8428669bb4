"""`RedisStorage`: the seam, as calls of scripts. LAYOUT.md beside this file tells what is in the server."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from typing import Any

import msgspec

from eventq import ids
from eventq.clock import SYSTEM, Clock, sleep
from eventq.config import changed
from eventq.errors import ClaimLost, PayloadError, QueueFull, StorageClosed, StorageError
from eventq.model import (
    Cancel,
    Claimed,
    Completed,
    Copy,
    Delete,
    Edit,
    Failure,
    Filter,
    Move,
    Name,
    Note,
    Outcome,
    Page,
    PutOptions,
    Record,
    Requeue,
    Settings,
    State,
    Stats,
    Worker,
)
from eventq.storage import forks
from eventq.storage.base import (
    LOOK_INTERVAL,
    MAX_PUT_EVENTS,
    Slot,
    Storage,
    Watch,
    displaced_by,
    introduction,
)
from eventq.storage.checks import (
    NOTE_OVERHEAD,
    check_key,
    check_key_of_several,
    check_name,
    check_name_size,
    check_note,
    check_sizes,
    encode_headers,
)
from eventq.storage.endings import Ending, ending
from eventq.storage.redis import packing
from eventq.storage.redis.connection import Argument, Link
from eventq.storage.redis.listener import Listener
from eventq.storage.redis.looks import GONE, Claims, Looks
from eventq.storage.redis.packing import Token, encode
from eventq.storage.redis.scripts import DECIDING, PRUNE_STEP, field, number
from eventq.storage.redis.server import CLOSED, Server
from eventq.storage.redis.url import address_of
from eventq.storage.redis.watching import Watching
from eventq.storage.restored import check_copies

log: logging.Logger = logging.getLogger("eventq.storage")

CHECKED_BYTES = 1 << 20
"""The server checks a put up to this size, for it knows its queue's `max_bytes`; a larger one is checked before."""
SCAN_STEP = 100
RESTORE_BYTES = 4 << 20
RESTORE_STEP = 500
NAMES_STEP = 1000
JOIN = b"JOIN"
"""What a script answers that does not know this worker (any more)."""
CLOSE_PATIENCE = 2.0


class RedisSlot:
    """One place of a semaphore."""

    def __init__(self, server: Server, name: str, worker: str, number: int) -> None:
        self._server = server
        self._arguments = (name, worker, number)

    def release(self) -> None:
        """Give it up; harmless when repeated, and once the store is closed, which has given it up."""
        if not self._server.is_closed:
            self._server.call("release_slot", *self._arguments)


class RedisStorage(Storage):
    """A store in a Redis or Valkey server, from 6.2 on, shared by all who name the same namespace of it.

    How durable it is is the server's to say (`appendfsync`). Raises ConfigError for a URL that cannot be, StorageError
    if there is no such server, or it does not let this user in.
    """

    absence: float = GONE

    def __init__(self, url: str, *, clock: Clock = SYSTEM) -> None:
        self._address = address_of(url)
        self._clock = clock
        self._said: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._reset()
        self._server.open_first()
        forks.follow(self)

    def _reset(self) -> None:
        """Begin as a new worker: at the start, and in a forked child. Says nothing to anybody yet."""
        self._worker = ids.new_worker_id()
        self._stamps = ids.Stamps(self._worker, self._clock)
        self._stamping = threading.Lock()
        self._server = Server(self._address, self._worker)
        self._claims = Claims()
        self._looks = Looks(self._server, self._worker, self._clock, self._claims)
        self._watching = Watching(self._server, self._worker, self._claims)
        self._joining = threading.Lock()
        self._listener: Listener | None = None
        self._closed = False
        self._slots = 0
        self._suspect = b""
        self._settings: dict[str, tuple[float, Settings]] = {}

    def after_fork(self) -> None:
        """In a forked child: leave what is the parent's alone."""
        was_closed = self._closed
        self._server.disown()
        self._reset()
        if was_closed:
            self._closed = True
            self._server.close()

    # ------------------------------------------------------------------ membership

    @property
    def worker(self) -> str:
        return self._worker

    def _joined(self) -> Listener:
        """Join the store, once."""
        listener = self._listener
        if listener is None:
            with self._joining:
                if self._listener is None:
                    self._check_open()
                    since = number(self._clock.now())
                    self._listener = Listener(
                        self._server, self._worker, lambda run: self._greeting(run, since), self._watching.hear
                    )
                listener = self._listener
        return listener

    def _check_open(self) -> None:
        if self._closed:
            raise StorageClosed(CLOSED)

    def _greeting(self, run: str, since: str) -> list[Argument]:
        """What a worker says of itself when it joins."""
        said = encode(self._said) if self._said != ((), ()) else b""
        words: list[Argument] = [self._worker, os.getpid(), os.uname().nodename, since, run, said, ids.new_worker_id()]
        for queue in self._looks.queues:
            words += ("serving", queue)
        for kind, name in self._watching.waited_for():
            words += (kind, name)
        return words

    def _as_member(self, script: str, *arguments: Argument) -> Any:
        """The reply of a script that wants this worker to have joined."""
        while True:
            listener = self._joined()
            reply = self._server.call(script, *arguments)
            if reply != JOIN:
                return reply
            self._check_open()  # who has left does not come back
            listener.join_again()

    def abandon(self) -> None:
        """For tests: die as by kill -9, giving nothing back. Returns when the server has seen it."""
        self._closed = True
        self._server.close()
        with self._joining:  # who is joining just now fails by that
            listener, self._listener = self._listener, None
        if listener is None:
            return
        listener.close()
        witness = Link(self._address, "witness")
        channel = f"{self._address.prefix}worker:{self._worker}"
        while witness.command("PUBSUB", "NUMSUB", channel)[1]:
            sleep(0.001)
        witness.close()

    def close(self) -> None:
        with self._joining:
            if self._closed:
                return
            self._closed = True
            listener, self._listener = self._listener, None
        if listener is not None or self._server.has_receipts:
            self._server.patience = min(self._server.patience, CLOSE_PATIENCE)
            now = number(self._clock.now())
            try:
                self._server.call("leave", self._worker, "released", now)
            except StorageError as error:
                log.warning("left %s without giving back what was held: %s", self._address.shown, error)
        self._server.close()
        if listener is not None:
            listener.close()

    # ------------------------------------------------------------------ events

    def put(self, queue: str, payloads: Sequence[bytes], options: PutOptions) -> list[str]:
        if options.key is not None:
            check_key_of_several(options)
        check_name(queue)
        headers = encode_headers(options)
        self._check_size(queue, payloads)
        if not payloads:
            return []
        if options.key is not None:
            return ids.of_same_put(self._put_key(queue, payloads, headers, options)[0], len(payloads))
        fields = packing.put_fields(options, headers)
        state, score, due = b"ready", b"" if options.limits or options.rates else b"%d" % -options.priority, options.due
        if due is not None and due > self._clock.now():
            state, score = b"delayed", number(due).encode()
            fields += (b"place", packing.place_of(due))
        stem = self._stem()
        reply = self._server.change("put", queue, stem, state, score, len(fields), *fields, *map(bytes, payloads))
        if reply != 1:
            raise self._refused(queue, reply, payloads)
        if due is not None:
            self._looks.will_start(queue, due)
        return [f"{stem}.{index:05x}" for index in range(len(payloads))]

    def _stem(self) -> str:
        with self._stamping:
            return self._stamps.next()

    def _check_size(self, queue: str, payloads: Sequence[bytes]) -> None:
        if len(payloads) > MAX_PUT_EVENTS or sum(map(len, payloads)) > CHECKED_BYTES:
            check_sizes(payloads, self.settings(queue).max_bytes)

    def _refused(self, queue: str, reply: bytes, payloads: Sequence[bytes]) -> Exception:
        """Why the server has not taken a put."""
        word, _, most = reply.decode().partition(" ")
        if word == "full":
            return QueueFull(queue, int(most), len(payloads))
        size = max(map(len, payloads))
        return PayloadError(f"a payload of {size} bytes; this queue takes max_bytes={most}")

    def put_key(self, queue: str, payload: bytes, options: PutOptions) -> tuple[str, bool]:
        check_key(options)
        check_name(queue)
        headers = encode_headers(options)
        self._check_size(queue, [payload])
        return self._put_key(queue, [payload], headers, options)

    def _put_key(
        self, queue: str, payloads: Sequence[bytes], headers: bytes, options: PutOptions
    ) -> tuple[str, bool]:  # fmt: skip
        assert options.key is not None
        fields = packing.put_fields(options, headers)
        id = ids.event_id(self._stem(), 0)
        unique = "waiting" if options.debounce is not None else packing.unique_text(options.unique)
        displaced = encode(Failure(str(State.CANCELLED), displaced_by(id)))
        reply = self._server.change(
            "put_key", number(self._clock.now()), queue, id, options.key, unique, field(options.debounce),
            field(options.debounce_max), displaced, len(fields), *fields, *map(bytes, payloads),
        )  # fmt: skip
        if isinstance(reply, bytes):
            raise self._refused(queue, reply, payloads)
        holder, is_new = reply
        due = options.due if options.debounce is None else self._clock.now() + options.debounce
        if is_new and due is not None:
            self._looks.will_start(queue, due)
        return holder.decode(), bool(is_new)

    def claim(self, queue: str, limit: int = 1) -> list[Claimed]:
        check_name(queue)
        self._looks.serve(queue)
        if self._listener is None:
            self._joined()
        call, found = self._claims.begin(), []
        token = Token(call, self._server.store)
        try:
            arguments: list[Argument] = [queue, self._worker, call, number(self._clock.now()), limit]
            waits = self._watching.waits(queue)
            if self._suspect or waits:
                arguments += [b"1" if waits else b"0", *([self._suspect] if self._suspect else [])]
                self._suspect = b""
            reply = self._as_member("claim", *arguments)
            if type(reply) is bytes:
                found = [packing.claimed_of(queue, token, reply)]
            else:
                found = self._found(queue, reply, token)
        finally:
            self._claims.end(call, found)
        return found

    def _found(self, queue: str, reply: list[Any], token: Token) -> list[Claimed]:
        """The events of a longer reply."""
        if reply and len(reply[0]) == 1:
            self._suspect = reply.pop(0)[0]
        return [packing.claimed_of(queue, token, *([one] if type(one) is bytes else one)) for one in reply]

    def settle(self, claimed: Claimed, outcome: Outcome) -> None:
        token = claimed.token
        if not isinstance(token, Token):
            raise ClaimLost(f"event {claimed.id} was not claimed here")
        clock_now = self._clock.now()
        now = number(clock_now)
        if type(outcome) is Completed and outcome.value is None:
            done = self._server.call("settle", claimed.id, self._worker, token.call, now, again=token.store)
        else:
            end = ending(outcome, clock_now)
            arguments = _ending_arguments(end, claimed.keep)
            done = self._server.call("settle", claimed.id, self._worker, token.call, now, *arguments, again=token.store)
            if end.due is not None:
                self._looks.will_start(claimed.queue, end.due)
        self._claims.settled(claimed)
        if not done:
            self._check_open()  # to who closes the store meanwhile the claim is not lost: it was given back
            raise ClaimLost(f"event {claimed.id} is not this worker's any more: it was settled, or taken over")

    def give_back(self, queue: str) -> None:
        """Nothing is ever fetched ahead."""
        check_name(queue)
        self._check_open()

    def note(self, claimed: Claimed, kind: str, data: bytes) -> None:
        check_note(data)
        text = packing.note_text(self._clock.now(), kind, data)
        call = claimed.token.call if isinstance(claimed.token, Token) else b""
        size = len(text) + NOTE_OVERHEAD
        if not self._server.change("note", claimed.id, self._worker, call, text, size):
            self._check_open()
            raise ClaimLost(f"event {claimed.id} is not this worker's any more: it was settled, or taken over")

    # ------------------------------------------------------------------ reading

    def get(self, id: str) -> Record | None:
        flat = self._server.call("get", id if ids.is_event_id(id) else "", number(self._clock.now()))
        return packing.record_of(id, packing.fields_of(flat)) if flat else None

    def notes(self, id: str, after: int = 0) -> list[Note]:
        reply = self._server.call("notes", id if ids.is_event_id(id) else "", after)
        return packing.notes_of(*reply) if reply else []

    def scan(self, queue: str, state: State, filter: Filter, cursor: str | None = None, limit: int = 100) -> Page:
        check_name(queue)
        if limit < 1:
            raise ValueError(f"limit={limit} gives no page; ask for at least 1")
        found: list[Record] = []
        after = cursor or ""
        while len(found) <= limit:
            step = min(SCAN_STEP, limit + 1)
            reply = self._server.call("scan", queue, str(state), after, step, number(self._clock.now()))
            for n in range(0, len(reply), 2):
                after = reply[n].decode()
                if reply[n + 1]:
                    record = packing.record_of(after, packing.fields_of(reply[n + 1]))
                    if filter.matches(record):
                        found.append(record)
            if len(reply) < 2 * step:
                break
        page = tuple(found[:limit])
        return Page(page, page[-1].id if len(found) > limit else None)

    def stats(self, queue: str) -> Stats:
        check_name(queue)
        now = self._clock.now()
        *counts, place = self._server.call("stats", queue, number(now))
        age = max(0.0, now - int(place, 16) / 1e9) if place else None
        return Stats(oldest_ready=age, **{str(state): count for state, count in zip(State, counts, strict=True)})

    def queues(self) -> list[str]:
        return sorted(name.decode() for name in self._server.call("queues"))

    # ------------------------------------------------------------------ changing

    def edit(self, queue: str | None, ids: Sequence[str], edit: Edit) -> list[str]:
        for name in (queue, edit.queue if isinstance(edit, Move) else None):
            if name is not None:
                check_name(name)
        arguments = self._edit_arguments(list(ids), edit)
        words = [word.decode() for word in self._server.change("edit", number(self._clock.now()), *arguments)]
        for id, word in zip(ids, words, strict=True):
            if word == "requested":
                self._claims.cancel(id)  # if it runs here: the others are told
        return words

    def _edit_arguments(self, wanted: list[str], edit: Edit) -> list[Argument]:
        match edit:
            case Cancel(reason, unstarted):
                failure = encode(Failure(str(State.CANCELLED), reason))
                return ["cancel", "1" if unstarted else "0", failure, *wanted]
            case Move(queue):
                return ["move", queue, *wanted]
            case Delete():
                return ["delete", *wanted]
            case Requeue():
                words: list[Argument] = ["requeue"]
                for id in wanted:
                    stem = self._stem()
                    words += (id, stem[:16], ids.event_id(stem, 0))
                return words

    def purge(self, queue: str, state: State) -> int:
        check_name(queue)
        if state is State.CLAIMED:
            self._check_open()
            return 0
        return self._in_steps("purge", queue, str(state), PRUNE_STEP)

    def prune(self, queue: str) -> int:
        check_name(queue)
        return self._in_steps("prune", queue, PRUNE_STEP)

    def _in_steps(self, script: str, *arguments: Argument) -> int:
        """Run a script until it does less than a whole step; how much it did."""
        total, count = 0, PRUNE_STEP
        while count == PRUNE_STEP:
            count = self._server.change(script, *arguments, number(self._clock.now()))
            total += count
        return total

    def settings(self, queue: str) -> Settings:
        check_name(queue)
        monotonic = self._clock.monotonic()
        known = self._settings.get(queue)
        if known is not None and monotonic - known[0] < LOOK_INTERVAL and not self._server.is_closed:
            return known[1]
        return self._read_settings(queue)[1]

    def _read_settings(self, queue: str) -> tuple[bytes, Settings]:
        monotonic = self._clock.monotonic()
        text = self._server.call("settings", queue) or b""
        try:
            settings = msgspec.json.decode(text, type=Settings) if text else Settings()
        except msgspec.ValidationError as error:
            raise StorageError(f"the settings of queue {queue!r} are of another version of eventq: {error}") from error
        self._settings[queue] = monotonic, settings
        return text, settings

    def configure(self, queue: str, changes: dict[str, Any]) -> Settings:
        check_name(queue)
        while True:
            before, settings = self._read_settings(queue)
            settings = changed(settings, changes)
            decided = []
            for name in DECIDING:
                value = getattr(settings, name)
                decided += [name, "" if value == getattr(Settings(), name) else field(value)]
            leased = "0" if settings.lease is None else "1"
            now = number(self._clock.now())
            if self._server.call("configure", queue, before, encode(settings), leased, now, *decided):
                self._settings[queue] = self._clock.monotonic(), settings
                return settings

    def drop(self, queue: str) -> None:
        check_name(queue)
        while (reply := self._server.call("drop", queue, PRUNE_STEP)) == b"more":
            continue
        if isinstance(reply, int):
            raise StorageError(f"{reply} events of queue {queue!r} are claimed; drop it later")
        self._settings.pop(queue, None)

    def restore(self, copies: Sequence[Copy], names: Sequence[Name] = ()) -> int:
        check_copies(copies)
        now = self._clock.now()
        added = 0
        batch: list[Argument] = []
        size = 0
        for copy in copies:
            arguments = packing.copy_arguments(copy, now)
            batch += arguments
            size += 1 + sum(len(part) for part in arguments if isinstance(part, bytes)) * RESTORE_STEP // RESTORE_BYTES
            if size >= RESTORE_STEP:
                added += self._server.change("restore", number(now), *batch)
                batch, size = [], 0
        if batch:
            added += self._server.change("restore", number(now), *batch)
        for name in names:
            self._server.change("take_name", name.name, encode(name))
        return added

    # ------------------------------------------------------------------ life

    def introduce(self, queues: Sequence[str], tasks: Sequence[str]) -> None:
        for queue in queues:
            check_name(queue)
        self._said = introduction(queues, tasks)
        listener = self._joined()
        if not self._server.call("introduce", self._worker, encode(self._said)):
            listener.join_again()

    def workers(self) -> list[Worker]:
        found = []
        for id, flat, claims, queues in self._server.call("workers"):
            fields = packing.fields_of(flat)
            serves, tasks = msgspec.json.decode(
                fields.get("introduction", b"[[],[]]"), type=tuple[tuple[str, ...], tuple[str, ...]]
            )
            found.append(Worker(
                id=id.decode(), pid=int(fields.get("pid", 0)), host=fields.get("host", b"").decode(),
                since=float(fields.get("since", 0)), claims=tuple(claim.decode() for claim in claims),
                queues=tuple(sorted(queue.decode() for queue in queues)), serves=serves, tasks=tasks,
            ))  # fmt: skip
        return found

    def recover(self) -> float:
        self._check_open()
        wait = self._looks.recover()
        listener = self._listener
        if listener is not None and not self._looks.is_known:
            self._looks.is_known = True
            listener.join_again()
        return wait

    def watch(self, queue: str | None = None, id: str | None = None) -> Watch:
        if id is None and queue is None:
            raise TypeError("watch() needs a queue or an event id")
        if queue is not None:
            check_name(queue)
        self._joined()
        return self._watching.watch("event", id) if id is not None else self._watching.watch("queue", str(queue))

    # ------------------------------------------------------------------ names and slots

    def take_name(self, name: str, data: bytes) -> tuple[Name, bool]:
        check_name_size(name, data)
        mine = Name(name, self._worker, self._clock.now(), msgspec.Raw(bytes(data)))
        taken, held = self._server.change("take_name", name, encode(mine))
        return msgspec.json.decode(held, type=Name), bool(taken)

    def get_names(self, names: Sequence[str]) -> dict[str, Name]:
        found: dict[str, Name] = {}
        for first in range(0, len(names), NAMES_STEP):
            step = names[first : first + NAMES_STEP]
            for name, held in zip(step, self._server.call("get_names", *step), strict=True):
                if held is not None:
                    found[name] = msgspec.json.decode(held, type=Name)
        return found

    def names(self, prefix: str = "") -> list[Name]:
        behind = b"(" + prefix.encode() + b"\xff" if prefix else b"+"
        return [msgspec.json.decode(held, type=Name) for held in self._server.call("names", prefix, behind)]

    def replace_name(self, held: Name, data: bytes | None) -> bool:
        check_name_size(held.name, data or b"")
        by = b""
        if data is not None:
            by = encode(Name(held.name, self._worker, self._clock.now(), msgspec.Raw(bytes(data))))
        return bool(self._server.change("replace_name", held.name, encode(held), by))

    def release_name(self, name: str) -> bool:
        return bool(self._server.change("release_name", name))

    def take_slot(self, name: str, limit: int = 1) -> Slot | None:
        if limit < 1:
            raise ValueError(f"a slot of {limit} can never be taken; the limit is at least 1")
        with self._stamping:
            self._slots += 1
            mine = self._slots
        taken = self._as_member("take_slot", name, limit, self._worker, mine)
        return RedisSlot(self._server, name, self._worker, mine) if taken else None


def _ending_arguments(end: Ending, keep: float | None) -> tuple[Argument, ...]:
    """What the script must know of an ending; `keep` is that of an event with a value."""
    state = end.state
    return (
        str(state), end.word, "1" if end.failed else "0", b"" if end.error is None else encode(end.error),
        "" if end.due is None else number(end.due), "1" if end.skipped else "0", "0" if end.value is None else "1",
        end.value or b"", end.codec, "" if keep is None else number(keep),
    )  # fmt: skip

"""What a notification is in the store: an event in a queue of its user, which nobody claims.

An unread one is ready, and one that was read is cancelled: both are edits that keep its id. What tells of an end is put
with the key of what has ended, before that is settled: who is killed in between leaves nothing untold, and whoever
repeats the work finds the key held, unless the user was faster and has read it.
"""

from __future__ import annotations

import hashlib
import logging
import re
from typing import TYPE_CHECKING, Any

import msgspec

from eventq.claim import current
from eventq.codec import packer
from eventq.config import text
from eventq.errors import ConfigError, EventqError, PayloadError, StorageError
from eventq.model import Completed, Delete, Dropped, Failure, PutOptions, Record, Rejected, State

if TYPE_CHECKING:
    from eventq.model import Claimed, Outcome
    from eventq.store import Store

log: logging.Logger = logging.getLogger("eventq.notifications")

BOX = "notifications-"
"""So begins the name of a user's queue; a user who cannot be part of such a name has a digest there, after a dot."""
PLAIN_USER = re.compile(r"[a-z0-9-]{1,80}|[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]{0,24}")
"""Users whose queue has their name: those that any storage takes."""
HEADER = "eventq.notification"
"""The header of a notification: nothing else that somebody may have put into such a queue is taken for one."""
MAX_USER = 200
MAX_RESULT = 64 << 10
"""Bytes of a result, as it is encoded, that a notification has in it; a larger one stays with its event."""
MAX_DATA = 64 << 10
"""Bytes of a program's own notification, at most."""
MAX_MESSAGE = 1000
"""Characters of a message; a longer one is cut."""
TRIES = 10


class Told(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a notification says."""

    user: str
    """Whom it is for."""
    message: str
    """One line, for people."""
    status: State | None = None
    """How something has ended: `completed`, `dead` (it failed), `expired`, `cancelled`; None for a program's own."""
    kind: str = ""
    """What has ended: `"task"` (a call of it), `"workflow"` (a run of it), and so on; empty for a program's own."""
    name: str = ""
    """The name of the task or workflow."""
    event: str | None = None
    """The id of the event of the call, or of the run. A program's own: of the event in whose run it was put."""
    correlation_id: str | None = None
    """What it belongs to: the id of the event with which it all began, unless a header says otherwise."""
    exit_code: int | None = None
    """As of `Record`: 0 completed, 130 aborted, 1 failed in any other way."""
    error: Failure | None = None
    """Why it has failed, expired, or was cancelled."""
    result: Any = None
    """What it came to, as plain data; None if there is none, or it is left out."""
    left_out: str = ""
    """Why the result is not in here; empty if nothing is left out."""
    data: dict[str, Any] = {}
    """What a program has said beside the message."""


def checked_user(user: Any) -> str:
    """Who is notified. Raises TypeError, ConfigError."""
    if len(text("a user who is notified", user)) > MAX_USER:
        raise ConfigError(f"a user has at most {MAX_USER} characters, not {len(user)}: {user[:40]!r}...")
    try:
        user.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the user {user!r} is not valid Unicode text") from error
    return str(user)


def box_of(user: str) -> str:
    """The queue of a user's notifications."""
    if PLAIN_USER.fullmatch(checked_user(user)):
        return BOX + user
    return f"{BOX}.{hashlib.sha256(user.encode()).hexdigest()[:32]}"


def is_box(queue: str) -> bool:
    """Whether a queue holds somebody's notifications."""
    return queue.startswith(BOX)


# ---------------------------------------------------------------- putting


def put_notification(store: Store, told: Told, key: str | None) -> str:
    """Put a notification, durable when it returns; its id.

    With a key there is one unread notification of that key, which says what was told last: the same words once more
    change nothing, and other words take the place of the earlier ones. One that was read has no key any more. Raises
    PayloadError for what cannot be encoded, QueueFull, StorageError.
    """
    queue, payload = box_of(told.user), packer(store.codec, Told)(told)
    options = PutOptions(codec=store.codec.name, headers={HEADER: True}, key=key)
    storage = store.storage
    if key is None:
        return storage.put(queue, (payload,), options)[0]
    for _ in range(TRIES):
        id, fresh = storage.put_key(queue, payload, options)
        if fresh or _says(storage.get(id), payload):
            break
        storage.edit(queue, [id], Delete())
    return id


def _says(record: Record | None, payload: bytes) -> bool:
    """Whether a notification is there that says just this."""
    return record is not None and record.payload == payload


def notify_end(
    store: Store, user: str, kind: str, name: str, claimed: Claimed, outcome: Outcome, result: Completed | None = None
) -> None:
    """Tell a user how an event ends that is settled next; nothing if it may run again. `result` is what it came to, if
    that is not the value of the outcome.

    What cannot be put for another reason than the storage's is logged, and lost: it must not keep the event from being
    settled. Raises StorageError.
    """
    try:
        told = told_of(store, user, kind, name, claimed, outcome, result)
        if told is not None:
            _put_end(store, told, f"{kind}/{claimed.id}")
    except StorageError:
        raise
    except EventqError as error:
        log.error("user %r is not told how %s %s (event %s) ended: %s", user, kind, name, claimed.id, error)


def _put_end(store: Store, told: Told, key: str) -> None:
    try:
        put_notification(store, told, key)
    except PayloadError as error:
        if told.result is None:
            raise
        why = f"it cannot be part of a notification: {error}"
        put_notification(store, msgspec.structs.replace(told, result=None, left_out=why[:MAX_MESSAGE]), key)


def told_of(
    store: Store, user: str, kind: str, name: str, claimed: Claimed, outcome: Outcome, result: Completed | None = None
) -> Told | None:
    """What is to be told of an event that is settled so; None if it may run again."""
    error: Failure | None = None
    if isinstance(outcome, Completed):
        state, result = State.COMPLETED, result or outcome
    elif isinstance(outcome, Rejected):
        state, error = State.DEAD, outcome.failure
    elif isinstance(outcome, Dropped):
        state, error = outcome.state, Failure(str(outcome.state), outcome.reason) if outcome.reason else None
    else:
        return None
    value, left_out = _plain(store, result)
    record = Record(id=claimed.id, queue=claimed.queue, state=state, failure=error)
    return Told(
        user=user,
        message=_message(name or claimed.queue, state, error),
        status=state,
        kind=kind,
        name=name,
        event=claimed.id,
        correlation_id=str(claimed.headers.get("correlation_id") or claimed.id),
        exit_code=record.exit_code,
        error=error,
        result=value,
        left_out=left_out,
    )


def _plain(store: Store, result: Completed | None) -> tuple[Any, str]:
    """A result as plain data, or why it is left out."""
    if result is None or result.value is None:
        return None, ""
    if len(result.value) > MAX_RESULT:
        return None, f"it has {len(result.value)} bytes, and a notification takes {MAX_RESULT}; ask the event for it"
    try:
        return store.load(result.value, result.codec), ""
    except EventqError as error:
        return None, f"it cannot be decoded: {error}"[:MAX_MESSAGE]


def _message(name: str, state: State, error: Failure | None) -> str:
    word = "has failed" if state is State.DEAD else "has expired" if state is State.EXPIRED else f"was {state}"
    why = ""
    if error is not None:
        why = f"{error.type}: {error.message}" if state is State.DEAD else error.message
    return shortened(f"{name} {word}" + (f": {why}" if why.strip() else ""))


def shortened(message: str) -> str:
    """A message on one line, not too long."""
    line = " ".join(message.split())
    return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"


def own_told(store: Store, user: str, message: str, data: dict[str, Any]) -> Told:
    """A program's own notification. Raises TypeError, ConfigError; PayloadError for data that is too much, or would not
    come back equal."""
    size = len(packer(store.codec)(data))
    if size > MAX_DATA:
        raise PayloadError(
            f"a notification takes {MAX_DATA} bytes of data, not {size}; keep it elsewhere, and say where"
        )
    claim = current.get()
    return Told(
        user=checked_user(user),
        message=shortened(text("the message of a notification", message)),
        event=None if claim is None else claim.id,
        correlation_id=None if claim is None else str(claim.carried()["correlation_id"]),
        data=data,
    )

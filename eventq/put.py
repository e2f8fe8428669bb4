"""What a put says about its events: options checked, headers gathered, keys obeyed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from eventq.claim import current
from eventq.codec import JSON
from eventq.config import instant, seconds, text
from eventq.errors import ConfigError, DuplicateKey, PayloadError
from eventq.model import PutOptions

if TYPE_CHECKING:
    from datetime import datetime

    from eventq.store import Store

Unique = Literal["open", "waiting"] | float
IfExists = Literal["return", "raise"]

MAX_PRIORITY = 100


def put_options(
    store: Store,
    *,
    priority: int = 0,
    delay: float | None = None,
    at: datetime | None = None,
    expires: float | None = None,
    key: str | None = None,
    unique: Unique = "open",
    if_exists: IfExists = "return",
    headers: Mapping[str, Any] | None = None,
) -> PutOptions:
    """The checked options of one put, in the storage's terms. Raises TypeError, ConfigError, PayloadError."""
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise TypeError(f"priority= takes a whole number, not {type(priority).__name__}")
    if not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        raise ConfigError(f"priority={priority} is outside -{MAX_PRIORITY}..{MAX_PRIORITY} (higher is claimed first)")
    if delay is not None and at is not None:
        raise ConfigError("delay= and at= both say when; give one of them")
    due: float | None = None
    if delay is not None:
        due = store.clock.now() + seconds("delay", delay)
    elif at is not None:
        due = instant("at", at)
    until: float | None = None
    if expires is not None:
        until = max(due or 0.0, store.clock.now()) + seconds("expires", expires, zero=False)
    _check_key(key, unique, if_exists)
    return PutOptions(
        codec=store.codec.name,
        priority=priority,
        due=due,
        expires=until,
        key=key,
        unique=unique,
        headers=_headers(headers),
    )


def put_encoded(store: Store, queue: str, data: bytes, options: PutOptions, if_exists: IfExists) -> str:
    """Put one event that is encoded already, and return its id, or that of the event that holds the key."""
    if options.key is None:
        return store.storage.put(queue, (data,), options)[0]
    id, fresh = store.storage.put_key(queue, data, options)
    if not fresh and if_exists == "raise":
        raise DuplicateKey(options.key, id)
    return id


def _check_key(key: str | None, unique: Unique, if_exists: IfExists) -> None:
    if if_exists not in ("return", "raise"):
        raise ConfigError(f"if_exists={if_exists!r}; write 'return' (the id of the holder) or 'raise'")
    if isinstance(unique, str):
        if unique not in ("open", "waiting"):
            raise ConfigError(f"unique={unique!r}; write 'open', 'waiting', or a number of seconds")
    else:
        seconds("unique", unique, zero=False)
    if key is not None:
        text("key=", key)
    elif unique != "open" or if_exists != "return":
        raise ConfigError("unique= and if_exists= say what to do about a key; give key= as well")


def _headers(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The event's own headers: those of the event being handled here, then the given ones."""
    claim = current.get()
    carried = {} if claim is None else claim.carried()
    if not given:
        return carried
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise TypeError("headers= takes a dict of JSON values by name")
    given = dict(given)
    try:
        copy: dict[str, Any] = JSON.decode(JSON.encode(given))  # also keeps later changes of the caller's dict out
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise PayloadError(f"headers= must be JSON: {error}") from error
    if copy != given:
        raise PayloadError("headers= must be JSON; text, numbers, booleans, lists and dicts come back equal")
    return carried | copy

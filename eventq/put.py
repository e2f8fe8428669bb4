"""What a put says about its events: options checked, headers gathered, keys obeyed, room waited for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

import msgspec

from eventq import clock
from eventq.claim import current
from eventq.codec import JSON
from eventq.config import instant, patience, seconds, text
from eventq.errors import ConfigError, DuplicateKey, PayloadError, QueueFull
from eventq.model import MAX_PLACES, MAX_SECONDS, PutOptions
from eventq.retry import pauses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime
    from typing import Unpack

    from eventq.storage.base import PutsOnly
    from eventq.store import Store

T = TypeVar("T")
R = TypeVar("R")

Unique = Literal["open", "waiting"] | float
IfExists = Literal["return", "raise"]

MAX_PRIORITY = 100


class PutArguments(TypedDict, total=False):
    """What may be said of each event that is put: see `Queue.put`."""

    priority: int
    delay: float | None
    at: datetime | None
    expires: float | None
    key: str | None
    unique: Unique
    if_exists: IfExists
    throttle: float | None
    debounce: float | None
    debounce_max: float | None
    limits: Mapping[str, int] | None
    rates: Mapping[str, tuple[int, float]] | None
    headers: Mapping[str, Any] | None


def put_options(store: Store, **given: Unpack[PutArguments]) -> PutOptions:
    """The checked options of one put, in the storage's terms. Raises TypeError, ConfigError, PayloadError."""
    priority = given.get("priority", 0)
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise TypeError(f"priority= takes a whole number, not {type(priority).__name__}")
    if not -MAX_PRIORITY <= priority <= MAX_PRIORITY:
        raise ConfigError(f"priority={priority} is outside -{MAX_PRIORITY}..{MAX_PRIORITY} (higher is claimed first)")
    debounce, debounce_max = _debounce(given)
    due, expires = _times(store.clock.now(), debounce, given)
    key, unique = _key(given)
    return PutOptions(
        codec=store.codec.name,
        priority=priority,
        due=due,
        expires=expires,
        key=key,
        unique=unique,
        debounce=debounce,
        debounce_max=debounce_max,
        limits=_limits(given.get("limits")),
        rates=_rates(given.get("rates")),
        headers=_headers(given.get("headers")),
    )


def puts_of(store: Store, connection: object | None) -> PutsOnly:
    """What puts: the store, or the transaction that a connection of the caller's has open. Raises ConfigError."""
    return store.storage if connection is None else store.storage.within(connection)


def put_encoded(puts: PutsOnly, queue: str, data: bytes, options: PutOptions, if_exists: IfExists) -> str:
    """Put one event that is encoded already, and return its id, or that of the event that holds the key."""
    if options.key is None:
        return puts.put(queue, (data,), options)[0]
    id, fresh = puts.put_key(queue, data, options)
    if not fresh and if_exists == "raise":
        raise DuplicateKey(options.key, id)
    return id


def when_there_is_room(
    store: Store, put: Callable[[], R], timeout: float | None, connection: object | None = None
) -> R:
    """What a put returns, once the queue has room for it. Raises QueueFull if it has none within `timeout` seconds; at
    once within a transaction of the caller's."""
    if not may_wait(timeout, connection):
        return put()
    for pause in pauses(patience(timeout)):
        try:
            return put()
        except QueueFull as full:
            if full.never:
                raise
        store.storage.recover()
        clock.sleep(pause)
    return put()


def may_wait(timeout: float | None, connection: object | None) -> bool:
    """Whether a put waits for room: not within a transaction, which nobody should hold open for that. Raises
    ConfigError if it is asked to."""
    if connection is not None and timeout:
        raise ConfigError("within a transaction nothing waits for room; leave timeout= out, or connection=")
    return connection is None


def several(payloads: Iterable[T]) -> list[T]:
    """The payloads of a put_many. Raises TypeError for what is a single one."""
    if isinstance(payloads, str | bytes | Mapping):
        raise TypeError(f"put_many takes several payloads; wrap a single {type(payloads).__name__} in a list")
    return list(payloads)


def _times(now: float, debounce: float | None, given: PutArguments) -> tuple[float | None, float | None]:
    """When it is due (the storage says it of a debounced event), and when it expires."""
    delay, at, expires = given.get("delay"), given.get("at"), given.get("expires")
    if delay is not None and at is not None:
        raise ConfigError("delay= and at= both say when; give one of them")
    if debounce is not None and (delay is not None or at is not None):
        raise ConfigError("debounce= says when; leave delay= and at= out")
    due: float | None = None
    if delay is not None:
        due = now + seconds("delay", delay)
    elif at is not None:
        due = instant("at", at)
    if expires is None:
        return due, None
    start = now + debounce if debounce is not None else max(due or 0.0, now)
    return due, start + seconds("expires", expires, zero=False)


def _key(given: PutArguments) -> tuple[str | None, Unique]:
    """The key, and how long it is held."""
    key, unique, if_exists = given.get("key"), given.get("unique", "open"), given.get("if_exists", "return")
    throttle, debounce = given.get("throttle"), given.get("debounce")
    if if_exists not in ("return", "raise"):
        raise ConfigError(f"if_exists={if_exists!r}; write 'return' (the id of the holder) or 'raise'")
    if isinstance(unique, str):
        if unique not in ("open", "waiting"):
            raise ConfigError(f"unique={unique!r}; write 'open', 'waiting', or a number of seconds")
    else:
        seconds("unique", unique, zero=False)
    if key is not None:
        text("key=", key)
    elif unique != "open" or if_exists != "return" or throttle is not None or debounce is not None:
        raise ConfigError("unique=, if_exists=, throttle= and debounce= say what to do about a key; give key= as well")
    if sum((unique != "open", throttle is not None, debounce is not None)) > 1:
        raise ConfigError("unique=, throttle= and debounce= each say how long the key is held; give one of them")
    if debounce is not None and if_exists == "raise":
        raise ConfigError("debounce= takes the place of what is there; if_exists='raise' does not go with it")
    return key, unique if throttle is None else seconds("throttle", throttle, zero=False)


def _debounce(given: PutArguments) -> tuple[float | None, float | None]:
    """How long to wait for another put of the key, and for all of them."""
    debounce, longest = given.get("debounce"), given.get("debounce_max")
    if longest is not None:
        longest = seconds("debounce_max", longest, zero=False)
        if debounce is None:
            raise ConfigError("debounce_max= is the longest time that debounce= waits; give debounce= as well")
    if debounce is None:
        return None, None
    debounce = seconds("debounce", debounce, zero=False)
    if longest is not None and longest < debounce:
        raise ConfigError(f"debounce_max={longest} is less than debounce={debounce}; give as much, or more")
    return debounce, longest


def _limits(given: Mapping[str, int] | None) -> dict[str, int]:
    """Names with their numbers of places."""
    return {
        name: _places("limits", name, places, "may run at once")
        for name, places in _by_name("limits", "whole numbers", given).items()
    }


def _rates(given: Mapping[str, tuple[int, float]] | None) -> dict[str, tuple[int, float]]:
    """Names with their numbers of starts, and the seconds within which so many may be."""
    rates: dict[str, tuple[int, float]] = {}
    for name, rate in _by_name("rates", "(number, seconds)", given).items():
        if not isinstance(rate, tuple | list) or len(rate) != 2:
            raise TypeError(f"rates= takes (number, seconds) by name, as (10, 60.0); {name!r} has {rate!r:.80}")
        places = _places("rates", name, rate[0], "may start within that time")
        period = seconds(f"seconds of {name!r} in rates", rate[1], zero=False)
        if period > MAX_SECONDS:
            raise ConfigError(f"rates={{{name!r}: ({places}, {period})}}; at most {MAX_SECONDS:g} seconds")
        rates[name] = places, period
    return rates


def _by_name(option: str, what: str, given: Mapping[str, T] | None) -> Mapping[str, T]:
    """What an option gives by name, once the names are checked."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"{option}= takes a dict of {what} by name, not {type(given).__name__}")
    for name in given:
        text(f"a name in {option}=", name)
    try:
        JSON.encode(list(given))
    except UnicodeEncodeError as error:
        raise ConfigError(f"{option}=: a name is not valid Unicode text: {error}") from error
    return given


def _places(option: str, name: str, places: object, verb: str) -> int:
    if isinstance(places, bool) or not isinstance(places, int):
        raise TypeError(f"{option}= takes whole numbers; {name!r} has {type(places).__name__}")
    if not 1 <= places <= MAX_PLACES:
        raise ConfigError(f"{option}={{{name!r}: {places}}}; write how many {verb}, 1 to {MAX_PLACES}")
    return places


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

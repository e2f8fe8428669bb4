"""Options by name, and the checks they share: what is wrong fails before anything is stored."""

from __future__ import annotations

import math
import os.path
import sys
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from eventq import clock
from eventq.errors import ConfigError
from eventq.model import Settings, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from eventq.clock import Clock
    from eventq.codec import Codec


class AppConfig(TypedDict, total=False):
    """Further options of `App`."""

    codec: str | Codec
    """How payloads and values are written: `"json"` (default), `"msgpack"`, or a `Codec` of your own."""
    codecs: Iterable[Codec]
    """Codecs of your own that this app only reads."""
    clock: Clock
    """What tells the time; tests hand in one that they move."""


class QueueSettings(TypedDict, total=False):
    """Settings of a queue, stored with it for every process. `Settings` has the meanings and defaults."""

    max_attempts: int
    max_crashes: int
    retry_delay: float
    retry_delay_max: float
    keep: float
    keep_count: int | None
    keep_dead: float
    keep_dead_count: int
    lease: float | None
    max_bytes: int
    maxsize: int | None
    concurrency: int | None


def known(given: Mapping[str, Any], options: type, what: str) -> dict[str, Any]:
    """The options as a dict. Raises TypeError for a name that is none, and says which there are."""
    names = options.__annotations__
    for name in given:
        if name not in names:
            raise TypeError(f"{what} has no option {name!r}; there are {', '.join(sorted(names))}")
    return dict(given)


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Settings with some of them changed. Raises ConfigError for an unknown name, a wrong type, or a value that cannot
    be, and names the setting."""
    names = Settings.__struct_fields__
    if unknown := sorted(changes.keys() - set(names)):
        raise ConfigError(f"unknown queue settings: {', '.join(unknown)}; there are {', '.join(names)}")
    try:
        return msgspec.convert({**msgspec.structs.asdict(settings), **changes}, Settings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"a queue setting that cannot be: {error}") from error


def seconds(name: str, value: Any, *, zero: bool = True) -> float:
    """A duration as a float. Raises TypeError or ConfigError for what is none, and names the option."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}= takes seconds as a number, not {type(value).__name__}")
    if not (value >= 0 if zero else value > 0) or math.isinf(value):
        raise ConfigError(f"{name}={value!r} is no duration; give seconds, {'0 or more' if zero else 'more than 0'}")
    return float(value)


def patience(timeout: Any) -> float | None:
    """A timeout in seconds; None and infinity wait for ever."""
    if timeout is None or timeout == math.inf:
        return None
    return seconds("timeout", timeout)


def instant(name: str, value: Any) -> float:
    """An aware datetime as seconds since the epoch. Raises TypeError; ConfigError if it has no zone."""
    try:
        return clock.epoch(value)
    except ValueError as error:
        raise ConfigError(f"{name}=: {error}") from error
    except AttributeError:
        raise TypeError(f"{name}= takes an aware datetime, not {type(value).__name__}") from None


def window(name: str, value: datetime | None) -> float | None:
    return None if value is None else instant(name, value)


def text(what: str, value: Any) -> str:
    """A text that is not empty. Raises TypeError or ConfigError."""
    if not isinstance(value, str):
        raise TypeError(f"{what} is a text, not {type(value).__name__}")
    if not value:
        raise ConfigError(f"{what} is empty")
    return value


def a_state(state: State | str) -> State:
    """A state by its word. Raises ConfigError for another word."""
    try:
        return State(state)
    except ValueError:
        raise ConfigError(f"no state {state!r}; there are {', '.join(State)}") from None


def at_least_one(limit: int) -> int:
    """A limit as a whole number of 1 or more. Raises TypeError, ConfigError."""
    if isinstance(limit, bool) or not isinstance(limit, int):
        raise TypeError(f"limit= takes a whole number, not {type(limit).__name__}")
    if limit < 1:
        raise ConfigError(f"limit={limit}; at least 1")
    return limit


def type_name(cls: Any) -> str:
    """The name of a class with its module, the same in the process that runs the module as a script.

    Raises TypeError for what is not a class: `list[int]` and the like have no name of their own.
    """
    if not isinstance(cls, type):
        raise TypeError(f"a queue has a name or a class, not {cls!r}; write app.queue('a-name', type={cls!r})")
    module = cls.__module__
    return f"{script_name() if module == '__main__' else module}.{cls.__qualname__}"


def script_name() -> str:
    """What others call the module that runs as `__main__`: its name for `python -m`, else its file's stem."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name).removesuffix(".__main__")
    path = getattr(main, "__file__", None)
    return os.path.splitext(os.path.basename(path))[0] if path else "__main__"

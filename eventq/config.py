"""Options by name, and the checks they share: what is wrong fails before anything is stored.

An option may be said in several places. The strongest that says something wins:

    1  in the program    App(...), app.queue(...), app.worker(...), the options of a command
    2  the environment   EVENTQ_CONCURRENCY=8, EVENTQ_TASK_MAX_ATTEMPTS=5 (of every task)
    3  a file            [tool.eventq] of the nearest pyproject.toml, from the working directory upwards
    4  the default

`Config` is what they come to. Nothing here reads them: `eventq.sources` does, when an `App` is made.
"""

from __future__ import annotations

import math
import os.path
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import msgspec

from eventq import clock
from eventq.codec import Codec
from eventq.errors import ConfigError
from eventq.model import AtLeastOne, Seconds, Settings, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from eventq.clock import Clock

EVERY_TASK = "*"
"""The name under which `tasks` has options of all tasks."""


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """What was said in all places, merged and checked: `app.config`. Each field has one name everywhere.

    `concurrency` is `App(concurrency=8)`, `EVENTQ_CONCURRENCY=8`, and `concurrency = 8` under `[tool.eventq]`.
    """

    url: str = ""
    """The store: a path, `file:///path`, `memory://`, or another storage's URL; `.eventq` unless said. A path in a
    file is relative to that file. Empty if the app was handed an opened storage."""
    sync: bool | None = None
    """Whether puts survive a power cut; fixed when a file store is made, and then what the store says. None: not said,
    or no file store."""
    codec: str | Codec = "json"
    """How payloads are written: `"json"`, `"msgpack"`, or a `Codec`; in the environment and in files
    `"module:Name"` names a class, or an instance, to import."""
    worker_queues: tuple[str, ...] | None = None
    """The queues that a worker claims from if it is not told. None: what the worker itself does without."""
    concurrency: AtLeastOne = 8
    """How many tasks one worker process runs at once."""
    executor: Literal["thread", "process", "inline"] = "thread"
    """Where a worker runs sync functions whose task does not say."""
    processes: AtLeastOne = 1
    """How many worker processes `eventq worker` starts."""
    stop_timeout: Seconds = 10.0
    """Seconds that running tasks get to finish at a graceful stop, before they are handed back."""
    max_tasks: AtLeastOne | None = None
    """A worker process is replaced after so many tasks. None: never."""
    max_bytes: AtLeastOne | None = None
    """A worker process is replaced once it takes more than so many bytes of memory. None: never."""
    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    """What `eventq worker` logs: this, and what is worse."""
    keep_notifications: Seconds = 30 * 86400.0
    """Seconds that a notification is kept, read or not: see `Notifications`."""
    tasks: Mapping[str, Mapping[str, Any]] = {}
    """Options of tasks, by the task's name; under `"*"` those of every task: see `task_options`."""
    queues: Mapping[str, Mapping[str, Any]] = {}
    """Settings of queues, by the queue's name: see `queue_settings`."""


class AppConfig(TypedDict, total=False):
    """Further options of `App`. Those that `Config` has too beat the environment and the file."""

    codec: str | Codec
    """How payloads and values are written: `"json"` (default), `"msgpack"`, or a `Codec` of your own."""
    codecs: Iterable[Codec]
    """Codecs of your own that this app only reads."""
    clock: Clock
    """What tells the time; tests hand in one that they move."""
    tasks: Mapping[str, Mapping[str, Any]]
    """Options of tasks by name, `"*"` for all: they beat the decorator's, `using(...)` beats them."""
    queues: Mapping[str, Mapping[str, Any]]
    """Settings of queues by name; those given to `app.queue(...)` beat them."""
    worker_queues: Sequence[str] | None
    """The queues of a worker that is not told; likewise those that follow."""
    concurrency: int
    """How many tasks one worker process runs at once: 8."""
    executor: Literal["thread", "process", "inline"]
    """Where sync functions run: `"thread"`."""
    processes: int
    """Worker processes: 1."""
    stop_timeout: float
    """Seconds for running tasks at a graceful stop: 10."""
    max_tasks: int | None
    """Tasks after which a worker process is replaced."""
    max_bytes: int | None
    """Bytes of memory beyond which a worker process is replaced."""
    log_level: Literal["debug", "info", "warning", "error", "critical"]
    """What `eventq worker` logs: `"info"`."""
    keep_notifications: float
    """Seconds that a notification is kept: 30 days."""


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


# ---------------------------------------------------------------- what was said in several places


def combine(*said: Mapping[str, Any]) -> Config:
    """The config of what each place said, strongest first; the values are checked already."""
    merged: dict[str, Any] = {}
    for values in reversed(said):
        tasks = _stacked(merged.get("tasks", {}), values.get("tasks", {}))
        queues = _stacked(merged.get("queues", {}), values.get("queues", {}))
        merged |= {**values, "tasks": tasks, "queues": queues}
    if not is_file_url(merged.get("url", "")) and "sync" not in said[0]:
        merged.pop("sync", None)  # it was said of file stores; only who says it with the URL means this one
    return Config(**merged)


def _stacked(below: Mapping[str, Mapping[str, Any]], above: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Options by name, those above before those below, also where one is said of `*` above and of a name below."""
    everywhere = above.get(EVERY_TASK, {})
    stacked = {
        name: {option: value for option, value in options.items() if option not in everywhere}
        for name, options in below.items()
    }
    for name, options in above.items():
        stacked[name] = {**stacked.get(name, {}), **options}
    return stacked


def task_options(config: Config, name: str, decorated: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a task, without defaults: what is configured for it beats what its decorator says.

    Of what is configured, the stronger place wins; within one place, the task's name wins over `"*"`.
    """
    return {**decorated, **config.tasks.get(EVERY_TASK, {}), **config.tasks.get(name, {})}


def queue_settings(config: Config, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were said of a queue: those given in the program beat the configured ones."""
    return {**config.queues.get(name, {}), **given}


def is_file_url(url: str) -> bool:
    """Whether a URL names a directory."""
    return "://" not in url or url.startswith("file://")


def masked(url: str) -> str:
    """A URL that may be shown and logged: without its user's password, or one among its options."""
    address, mark, query = url.partition("?")
    address = _PASSWORD.sub(r"\1:***@", address)
    return address + mark + _PASSWORD_OPTION.sub(r"\1***", query)


_PASSWORD = re.compile(r"^([^:]*://[^:/@]*):.*@")
"""Up to the last @: also of what is no URL because of what its password is made of."""
_PASSWORD_OPTION = re.compile(r"(password=)[^&]*")


# ---------------------------------------------------------------- checks


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
    return f"{module_of(cls)}.{cls.__qualname__}"


MAIN_AGAIN = "__mp_main__"
"""What multiprocessing calls the script that runs as `__main__`, also while a child process imports it again."""


def module_of(defined: Any) -> str:
    """The name of the module of a class or function, the same in every process that imports it or runs it."""
    module: str = defined.__module__
    return script_name() if module in ("__main__", MAIN_AGAIN) else module


def script_name() -> str:
    """What others call the module that runs as `__main__`: its name for `python -m`, else its file's stem."""
    main = sys.modules.get(MAIN_AGAIN) or sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name:
        return str(spec.name).removesuffix(".__main__")
    path = getattr(main, "__file__", None)
    return os.path.splitext(os.path.basename(path))[0] if path else "__main__"

"""Where configuration comes from: the arguments of an `App`, the environment, and the nearest pyproject.toml.

Read when an app is made, and then not again. What cannot be is a ConfigError that says where it stands, and what may
stand there: a misspelt variable must not be silently without effect.

Classes are named by `"module:Name"`, and imported, in these places only; never by anything that is in a store.
"""

from __future__ import annotations

import functools
import importlib
import os
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints
from urllib.parse import quote

import msgspec

from eventq.codec import BUILT_IN
from eventq.config import EVERY_TASK, Config, QueueSettings, combine
from eventq.errors import ConfigError
from eventq.model import MAX_PLACES, MAX_SECONDS, AtLeastOne, Seconds, Settings
from eventq.notifications.record import MAX_USER
from eventq.options import TaskOptions
from eventq.storage import DEFAULT_URL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SQLITE = "sqlite:///"
PREFIX = "EVENTQ_"
TASK_PREFIX = "EVENTQ_TASK_"
FILE = "pyproject.toml"

NOT_CONFIGURATION: dict[str, str] = {
    "EVENTQ_ID": "the event, for the commands of `eventq work`",
    "EVENTQ_ATTEMPT": "its attempt, likewise",
    "EVENTQ_QUEUE": "its queue, likewise",
    "EVENTQ_HEADERS": "its headers, likewise",
    "EVENTQ_SUPERVISOR": "a worker's pipe to the supervisor that started it",
}
"""Variables that eventq itself gives to the processes that it starts, and which say nothing here."""

Duration = Annotated[float, msgspec.Meta(gt=0, le=MAX_SECONDS)]
Places = Annotated[int, msgspec.Meta(ge=1, le=MAX_PLACES)]

TASK_FORMS: dict[str, Any] = {
    "queue": str,
    "priority": Annotated[int, msgspec.Meta(ge=-100, le=100)],
    "delay": Seconds | None,
    "expires": Duration | None,
    "unique": Literal["open", "waiting"] | Duration,
    "if_exists": Literal["return", "raise"],
    "throttle": Duration | None,
    "debounce": Duration | None,
    "debounce_max": Duration | None,
    "limits": dict[str, Places] | None,
    "rates": dict[str, tuple[Places, Duration]] | None,
    "headers": dict[str, Any] | None,
    "put_timeout": Seconds | None,
    "max_attempts": AtLeastOne,
    "max_crashes": AtLeastOne,
    "retry_delay": Seconds | list[Seconds],
    "backoff": Literal["exponential", "linear", "constant"],
    "retry_delay_max": Seconds,
    "jitter": bool,
    "retry_for": list[str],
    "dont_retry_for": list[str],
    "retry_within": Seconds | None,
    "timeout": Duration | None,
    "keep": Seconds | None,
    "result": bool,
    "executor": Literal["thread", "process", "inline"] | None,
    "ack": Literal["late", "early"],
    "concurrency": Places | None,
    "capture": bool,
    "notify": Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_USER)] | None,
}
"""The options of tasks that can be configured, and what they are in the environment and in a file."""
OF_THE_CALL = {"at", "key"}
OF_THE_FUNCTION = {"name", "bind"}
CLASSES = ("retry_for", "dont_retry_for")


# ---------------------------------------------------------------- reading


def read_config(
    arguments: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    folder: str | None = None,
    opened: bool = False,
) -> Config:
    """The config for an app with these arguments, of this environment (`os.environ`) and folder (the working one).

    `opened`: the app has a storage already, and a URL would say nothing. Raises ConfigError.
    """
    environment = from_environment(os.environ if environ is None else environ)
    file = from_file(nearest_file(folder))
    config = combine(from_arguments(arguments or {}), environment, file, {"url": DEFAULT_URL})
    return msgspec.structs.replace(config, url="", sync=None) if opened else config


def nearest_file(folder: str | None = None) -> str | None:
    """The pyproject.toml of a folder, or of the nearest one above it; None if there is none."""
    if folder is None:
        try:
            folder = os.getcwd()
        except FileNotFoundError:  # somebody removed it
            return None
    while True:
        path = os.path.join(folder, FILE)
        if os.path.isfile(path):
            return path
        above = os.path.dirname(folder)
        if above == folder:
            return None
        folder = above


# ---------------------------------------------------------------- the arguments


def from_arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """What was said as `App(...)`. Raises ConfigError."""
    said: dict[str, Any] = {}
    for name, value in given.items():
        place = f"App({name}=...)"
        if name in ("tasks", "queues"):
            said[name] = _named_tables(place, value)
        elif name in _fields() and name != "codec":  # which `codec.choose` looks at, with those of `codecs`
            said[name] = _checked(place, value, _fields()[name])
        elif name in Config.__struct_fields__:
            said[name] = value
    for name, options in said.get("tasks", {}).items():
        _must_be_task_options(options, f"App(tasks={{{name!r}: ...}})")
    for name, settings in said.get("queues", {}).items():
        said["queues"][name] = _settings(name, settings, f"App(queues={{{name!r}: ...}})")
    return said


# ---------------------------------------------------------------- the environment


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """What the variables `EVENTQ_...` say; an empty one says nothing. Raises ConfigError for one that is none."""
    said: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable in NOT_CONFIGURATION:
            continue
        place, form = f"{variable} in the environment", _variables().get(variable)
        if form is None:
            raise ConfigError(f"the environment: eventq takes no variable {_or_which(variable, _variables())}")
        if not text:
            continue
        value = _from_text(place, text, form)
        if variable.startswith(TASK_PREFIX):
            option = variable.removeprefix(TASK_PREFIX).lower()
            options[option] = _imported_classes(option, value, place)
        else:
            name = variable.removeprefix(PREFIX).lower()
            said[name] = _imported_codec(value, place) if name == "codec" else value
    return {**said, "tasks": {EVERY_TASK: options}} if options else said


@functools.cache
def _variables() -> dict[str, Any]:
    """Every variable, and the form of its value."""
    return {PREFIX + name.upper(): form for name, form in _fields().items()} | {
        TASK_PREFIX + name.upper(): form for name, form in TASK_FORMS.items()
    }


def _from_text(place: str, text: str, form: Any) -> Any:
    """A value from its text: as it stands; several with commas between them; `none`; or JSON, for a table."""
    takes = _kinds(form)
    value: Any = text.strip()
    if value[:1] in ("{", "[") and takes & {"DictType", "ListType"}:
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise ConfigError(f"{place} is not JSON ({error}); give {_allowed(form)}") from error
    elif value.lower() == "none" and "NoneType" in takes:
        return None
    elif takes & {"ListType", "VarTupleType"} and ("," in value or "FloatType" not in takes):
        value = [part.strip() for part in value.split(",") if part.strip()]
    return _checked(place, value, form, strict=False)


# ---------------------------------------------------------------- the file


def from_file(path: str | None) -> dict[str, Any]:
    """What `[tool.eventq]` of a pyproject.toml says. Raises ConfigError."""
    table = {} if path is None else _tool_table(path)
    said: dict[str, Any] = {}
    for name, value in table.items():
        place = f"{name} in [tool.eventq] of {path}"
        if name in ("tasks", "queues"):
            said[name] = _named_tables(f"[tool.eventq.{name}] of {path}", value)
        elif name not in _fields():
            raise ConfigError(f"[tool.eventq] of {path} takes no {_or_which(name, [*_fields(), 'tasks', 'queues'])}")
        else:
            said[name] = _checked(place, value, _fields()[name])
            if name == "codec":
                said[name] = _imported_codec(said[name], place)
            elif name == "url":
                said[name] = _beside(path or "", said[name])
    for name, options in said.get("tasks", {}).items():
        said["tasks"][name] = _options(options, f'[tool.eventq.tasks."{name}"] of {path}')
    for name, settings in said.get("queues", {}).items():
        said["queues"][name] = _settings(name, settings, f"[tool.eventq.queues.{name}] of {path}")
    return said


def _beside(path: str, url: str) -> str:
    """A URL as a file says it: a relative path is relative to that file."""
    folder = os.path.dirname(path)
    if "://" not in url:
        return os.path.join(folder, url)
    if url.startswith(SQLITE):
        return SQLITE + os.path.join(quote(folder), url.removeprefix(SQLITE))
    return url


def _tool_table(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise ConfigError(f"cannot read the configuration in {path}: {error.strerror}") from error
    if b"eventq" not in data:
        return {}  # and nobody waits for a parser
    import tomllib

    try:
        tool = tomllib.loads(data.decode()).get("tool", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    table = tool.get("eventq", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise ConfigError(f"tool.eventq of {path} is not a table; write [tool.eventq], and below it name = value")
    return table


def _options(given: Mapping[str, Any], place: str) -> dict[str, Any]:
    _must_be_task_options(given, place, TASK_FORMS)
    return {
        name: _imported_classes(name, _checked(f"{name} in {place}", value, TASK_FORMS[name]), f"{name} in {place}")
        for name, value in given.items()
    }


# ---------------------------------------------------------------- what may stand there


@functools.cache
def _fields() -> dict[str, Any]:
    """The forms of those fields of `Config` that are one value."""
    forms = get_type_hints(Config, include_extras=True) | {"codec": str, "url": str}
    return {name: form for name, form in forms.items() if name not in ("tasks", "queues")}


@functools.cache
def _setting_forms() -> dict[str, Any]:
    forms = get_type_hints(Settings, include_extras=True)
    return {name: forms[name] for name in QueueSettings.__annotations__}


def _named_tables(place: str, value: Any) -> dict[str, dict[str, Any]]:
    return dict(_checked(place, value, dict[str, dict[str, Any]]))


def _settings(name: str, given: Mapping[str, Any], place: str) -> dict[str, Any]:
    if name == "*":
        raise ConfigError(f"{place}: settings are of one queue each; name it")
    forms = _setting_forms()
    for setting in given:
        if setting not in forms:
            raise ConfigError(f"{place} takes no {_or_which(setting, forms)}")
    return {setting: _checked(f"{setting} in {place}", value, forms[setting]) for setting, value in given.items()}


def _must_be_task_options(given: Mapping[str, Any], place: str, forms: Iterable[str] | None = None) -> None:
    """Raises ConfigError for a name that is no option, or one that cannot be configured, and says why."""
    code_only = TaskOptions.__annotations__.keys() - TASK_FORMS.keys() - OF_THE_CALL - OF_THE_FUNCTION
    may_be = [*(forms or [*TASK_FORMS, *code_only])]
    for name, value in given.items():
        if name in may_be:
            continue
        if name in OF_THE_CALL:
            raise ConfigError(f"{place} has {name!r}, which is each call's own; say it with task.using({name}=...)")
        if name in OF_THE_FUNCTION:
            raise ConfigError(f"{place} has {name!r}, which belongs to the function; say it with @app.task({name}=...)")
        if name in code_only:
            raise ConfigError(f"{place} has {name!r}, which is a function; say it with @app.task({name}=...)")
        hint = '; a name with dots stands in quotes: [tool.eventq.tasks."shop.mail"]' if isinstance(value, dict) else ""
        raise ConfigError(f"{place} takes no {_or_which(name, may_be)}{hint}")


def _checked(place: str, value: Any, form: Any, *, strict: bool = True) -> Any:
    """The value in its form. Raises ConfigError, which says what it may be."""
    words = _words(form)
    if isinstance(value, str) and value.lower() in words:
        return value.lower()
    try:
        return msgspec.convert(value, form, strict=strict)
    except msgspec.ValidationError as error:
        what = repr(value) if isinstance(value, str | int | float) else f"of type {type(value).__name__}"
        raise ConfigError(f"{place} is {what}; give {_allowed(form)}") from error


def _or_which(name: str, names: Iterable[str]) -> str:
    """An unknown name, the one that was probably meant, and all there are."""
    import difflib

    names = sorted(names)
    near = difflib.get_close_matches(name, names, 1)
    meant = f"did you mean {near[0]!r}? There" if near else "there"
    return f"{name!r}; {meant} are {', '.join(names)}"


def _parts(form: Any) -> tuple[Any, ...]:
    import msgspec.inspect

    info = msgspec.inspect.type_info(form)
    return info.types if isinstance(info, msgspec.inspect.UnionType) else (info,)


def _kinds(form: Any) -> set[str]:
    return {type(part).__name__ for part in _parts(form)}


def _words(form: Any) -> tuple[Any, ...]:
    return next((part.values for part in _parts(form) if type(part).__name__ == "LiteralType"), ())


def _allowed(form: Any) -> str:
    """What a form takes, in words."""
    return " or ".join(_in_words(part) for part in _parts(form))


def _in_words(part: Any) -> str:
    import msgspec.inspect as kinds

    match part:
        case kinds.BoolType():
            return "true or false"
        case kinds.LiteralType(values):
            return " or ".join(map(str, values))
        case kinds.IntType() | kinds.FloatType():
            noun = "a whole number" if isinstance(part, kinds.IntType) else "a number"
            least = f" of {part.ge:g} or more" if part.ge is not None else f" above {part.gt:g}" if part.gt == 0 else ""
            return noun + least + (f", at most {part.le:g}" if part.le not in (None, MAX_SECONDS) else "")
        case kinds.ListType() | kinds.VarTupleType():
            return f"a list, each of it {_in_words(part.item_type)}"
        case kinds.TupleType(items):
            return f"[{', '.join(map(_in_words, items))}]"
        case kinds.DictType(value_type=kinds.TupleType() as item):
            return f"a table, each of it {_in_words(item)}"
        case kinds.DictType():
            return "a table"
        case kinds.NoneType():
            return "none"
        case _:
            return "a text"


# ---------------------------------------------------------------- classes by name


def _imported_codec(name: str, place: str) -> Any:
    if ":" in name:
        found = _imported(name, place)
        return found() if isinstance(found, type) else found
    if name in BUILT_IN:
        return name
    raise ConfigError(
        f"{place} is {name!r}, which is no codec; give {', '.join(BUILT_IN)}, or 'module:Class' for one of yours"
    )


def _imported_classes(option: str, value: Any, place: str) -> Any:
    """The exception classes of `retry_for` and `dont_retry_for`; any other value as it is."""
    if option not in CLASSES:
        return value
    classes = tuple(_imported(name if ":" in name else f"builtins:{name}", place) for name in value)
    for each in classes:
        if not (isinstance(each, type) and issubclass(each, BaseException)):
            raise ConfigError(f"{place} names {each!r}, which is no exception class")
    return classes


def _imported(name: str, place: str) -> Any:
    """What `"module:Name"` names. Raises ConfigError if there is no such thing, or its module cannot be imported."""
    module, _, path = name.partition(":")
    try:
        imported = importlib.import_module(module)
    except Exception as error:  # a module may raise anything when it is imported
        raise ConfigError(f"{place} names {name!r}, but importing {module} failed: {error!r}") from error
    try:
        return functools.reduce(getattr, path.split("."), imported)
    except AttributeError as error:
        raise ConfigError(
            f"{place} names {name!r}, but {module} has no {path!r} (yet); what configuration names belongs in a module "
            "that does not make the app itself"
        ) from error

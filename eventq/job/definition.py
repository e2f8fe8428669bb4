"""From what a program says of a job to its record: stages, templates and limits checked, and all of it plain data."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import msgspec

from eventq.config import known, seconds, text
from eventq.errors import ConfigError, PayloadError, TemplateError
from eventq.job.record import Spec
from eventq.job.template import template, templates_in
from eventq.notifications.record import checked_user
from eventq.schedule.times import checked_when
from eventq.task import RUN_HEADER, Task
from eventq.workflow.flow import packed
from eventq.workflow.graph import NOTHING, Definition, Graph, Node
from eventq.workflow.staged import Fill, Staged

if TYPE_CHECKING:
    from eventq.app import App
    from eventq.workflow.staged import Restart

MAX_NAME = 100
"""Characters of the name of a job, or a stage, at most."""
MAX_STAGES = MAX_BATCH = 100
MAX_RETRIES = 10
MIN_DEADLINE, MAX_DEADLINE = 1.0, 14_400.0
MAX_RETRY_DELAY = 14_400.0
DEADLINE = 300.0
"""Seconds for a run, unless said."""
MAX_DESCRIPTION = 2000
"""Characters."""
MAX_META = 16 << 10
"""Bytes, as JSON."""
MAX_RECORD = 384 << 10
"""Bytes of all that is said of a job: mostly the arguments of its calls. With cron, a schedule has it as well."""
STAGE_NAME = re.compile(r"[^\s.\[\]{}:!/]+")
NOT_ITS_OWN = ("key", "unique", "if_exists", "throttle", "debounce", "debounce_max", "at")
"""Options of the tasks' calls that a job says itself."""


class JobOptions(TypedDict, total=False):
    """What may be said of a job, beside its name and its stages."""

    keywords: Mapping[str, Any]
    """What templates may name, with the values that hold unless a start gives others; plain data."""
    restart: Restart
    """What a run that failed goes on with: `"current"` (unless said), the stage that failed; `"first"`, the first one,
    and all results of before are forgotten."""
    max_retries: int
    """How often a run that failed goes on by itself: 0 to 10; 0 unless said."""
    retry_delay: float
    """Seconds before it does: 1."""
    deadline: float | None
    """Seconds for a whole run, retries included: 1 to 14,400; 300 unless said. None: no end."""
    next: str | None
    """The name of the job that is started whenever a run of this one is completed."""
    enabled: bool
    """Whether it may be started, when it is new; `enable` and `disable` decide afterwards."""
    cron: str | None
    """When it is started by itself, as a cron expression."""
    tz: str | None
    """The time zone of that; UTC unless said."""
    user: str | None
    """The id of the user whose job it is: a mark, and no protection."""
    description: str
    meta: Mapping[str, Any]
    """Data of the program's own."""
    notify: bool
    """Whether its user is told how each run ends, in `app.notifications`."""


class Stage:
    """A call of a task in a job, where a tuple `(task, argument, ...)` is not enough: with arguments by name.
    `eventq.Stage(report, "{totals}", width=80)`. Texts among the arguments are templates."""

    __slots__ = ("args", "kwargs", "task")

    def __init__(self, task: Task[..., Any], /, *args: Any, **kwargs: Any) -> None:
        self.task: Task[..., Any] = task
        """What it calls; what is to be said of the call itself, is said by `task.using(...)`."""
        self.args: tuple[Any, ...] = args
        """With these arguments,"""
        self.kwargs: dict[str, Any] = kwargs
        """and these by name."""

    def __repr__(self) -> str:
        return f"<Stage {self.task!r}>"


class Hole(NamedTuple):
    """Stands among the arguments of a call for what a template comes to."""

    text: str


class Named(NamedTuple):
    """A stage with its name, and its calls."""

    name: str
    calls: list[Stage]
    is_batch: bool


def spec_of(app: App, name: str, stages: Any, said: Mapping[str, Any]) -> Spec:
    """The record of what is said of a job. Raises TypeError, ConfigError, TemplateError, PayloadError, and names the
    field, and the stage."""
    options = known(said, JobOptions, "a job")
    keywords = _plain("keywords", options.get("keywords", {}))
    named = _stages(app, stages)
    for each in keywords:
        if not STAGE_NAME.fullmatch(each) or each.isdigit() or each in {stage.name for stage in named}:
            raise ConfigError(f"keywords={{{each!r}: ...}}: no template could name it, or a stage has that name")
    names = tuple(each.name for each in named)
    nodes = [
        _node(stage, number, index, names, keywords)
        for number, stage in enumerate(named)
        for index in range(len(stage.calls))
    ]
    definition = Definition(
        name=name, nodes=tuple(nodes), codec=app.store.codec.name, staged=_staged(name, names, keywords, options)
    )
    Graph(definition)
    spec = _described(definition, options)
    if (size := len(msgspec.json.encode(spec))) > MAX_RECORD:
        raise PayloadError(f"job {name!r} takes {size} bytes, at most {MAX_RECORD}; pass less to its stages")
    return spec


def checked_name(name: Any, what: str = "the name of a job") -> str:
    """The name of a job. Raises TypeError, ConfigError."""
    if len(text(what, name)) > MAX_NAME:
        raise ConfigError(f"{what} has {len(name)} characters, at most {MAX_NAME}: {name[:40]!r}...")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what} is not valid Unicode text: {error}") from error
    return str(name)


def with_keywords(definition: Definition, given: Mapping[str, Any]) -> Definition:
    """The definition of a run that is started with other keywords. Raises TypeError for unknown ones; PayloadError."""
    staged = definition.staged
    assert staged is not None
    unknown = sorted(given.keys() - staged.keywords.keys())
    if unknown:
        there = ", ".join(staged.keywords) or "none"
        raise TypeError(f"job {staged.job!r} has no keyword {unknown[0]!r}; there are: {there}")
    keywords = {**staged.keywords, **_plain("keywords", given)}
    return msgspec.structs.replace(definition, staged=msgspec.structs.replace(staged, keywords=keywords))


def digest(spec: Spec) -> str:
    """A short text that is another one for another job."""
    return hashlib.sha256(msgspec.json.encode(spec)).hexdigest()[:16]


# ---------------------------------------------------------------- fields


def _staged(name: str, stages: tuple[str, ...], keywords: dict[str, Any], options: Mapping[str, Any]) -> Staged:
    restart, deadline, following = options.get("restart", "current"), options.get("deadline", DEADLINE), None
    if restart not in ("current", "first"):
        raise ConfigError(f"restart={restart!r}; write 'current' or 'first'")
    if options.get("next") is not None:
        following = checked_name(options["next"], "next=")
        if following == name:
            raise ConfigError(f"next={name!r} is the job itself, which would run for ever; a schedule repeats a job")
    return Staged(
        job=name,
        stages=stages,
        keywords=keywords,
        restart=restart,
        max_retries=_whole("max_retries", options.get("max_retries", 0), 0, MAX_RETRIES),
        retry_delay=_within("retry_delay", options.get("retry_delay", 1.0), 0.0, MAX_RETRY_DELAY),
        deadline=None if deadline is None else _within("deadline", deadline, MIN_DEADLINE, MAX_DEADLINE),
        next=following,
    )


def _described(definition: Definition, options: Mapping[str, Any]) -> Spec:
    description, user = options.get("description", ""), options.get("user")
    if not isinstance(description, str):
        raise TypeError(f"description= is a text, not {type(description).__name__}")
    if len(description) > MAX_DESCRIPTION:
        raise ConfigError(f"description= has {len(description)} characters, at most {MAX_DESCRIPTION}")
    meta = _plain("meta", options.get("meta", {}))
    if (size := len(msgspec.json.encode(meta))) > MAX_META:
        raise ConfigError(f"meta= takes {size} bytes, at most {MAX_META}")
    for name in ("notify", "enabled"):
        if not isinstance(options.get(name, False), bool):
            raise TypeError(f"{name}= is True or False, not {options[name]!r}")
    user = None if user is None else checked_user(user)
    if options.get("notify") and user is None:
        raise ConfigError("notify=True tells the job's user; say which one by user=")
    cron, zone = options.get("cron"), options.get("tz")
    if zone is not None and cron is None:
        raise ConfigError("tz= is the zone of a cron expression; leave it out, or give cron=")
    if cron is not None:
        cron = checked_when(cron, zone, None, None).cron
    return Spec(
        definition=definition,
        cron=cron,
        tz=zone,
        user=user,
        description=description,
        meta=meta,
        notify=user if options.get("notify") else None,
    )


def _plain(name: str, value: Any) -> dict[str, Any]:
    """A dict that JSON can carry, and gives back equal."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name}= takes a dict with texts as keys, not {value!r:.80}")
    plain = dict(value)
    try:
        back: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(plain))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise PayloadError(f"{name}= takes plain data, that JSON can carry: {error}") from error
    if back != plain:
        raise PayloadError(f"{name}= takes plain data, that comes back from JSON as it was; {value!r:.80} does not")
    return back


def _whole(name: str, value: Any, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}= takes a whole number, not {type(value).__name__}")
    if not least <= value <= most:
        raise ConfigError(f"{name}={value}; at least {least}, at most {most}")
    return value


def _within(name: str, value: Any, least: float, most: float) -> float:
    number = seconds(name, value)
    if not least <= number <= most:
        raise ConfigError(f"{name}={value}; at least {least:g} seconds, at most {most:g}")
    return number


# ---------------------------------------------------------------- stages


def _stages(app: App, given: Any) -> list[Named]:
    if isinstance(given, str | bytes | Task | Stage) or not isinstance(given, Mapping | Sequence):
        raise TypeError(f"stages= takes a list of stages, or a dict of them by name, not {given!r:.80}")
    if not 1 <= len(given) <= MAX_STAGES:
        raise ConfigError(f"stages= has {len(given)}; a job has 1 to {MAX_STAGES}")
    listed = given.items() if isinstance(given, Mapping) else ((None, each) for each in given)
    taken = set(given) if isinstance(given, Mapping) else set[Any]()
    stages: list[Named] = []
    for number, (name, stage) in enumerate(listed):
        is_batch = isinstance(stage, list)
        where = f"stage {number if name is None else name!r}"
        if is_batch and not 1 <= len(stage) <= MAX_BATCH:
            raise ConfigError(f"{where} is a batch of {len(stage)}; it has 1 to {MAX_BATCH} calls")
        calls = [_call(app, each, where) for each in (stage if is_batch else [stage])]
        if name is None:
            name = _own_name(calls[0], number, taken)
            taken.add(name)
        elif not STAGE_NAME.fullmatch(checked_name(name, f"{where}: its name")) or name.isdigit():
            raise ConfigError(f"{where}: no template could name it; leave out spaces and . [ ] {{ }} : ! / and numbers")
        stages.append(Named(name, calls, is_batch))
    return stages


def _own_name(call: Stage, number: int, taken: set[Any]) -> str:
    """A stage without a name has the last part of its task's, unless that is taken, or none: then its number."""
    short = call.task.name.rpartition(".")[2]
    fits = STAGE_NAME.fullmatch(short) and not short.isdigit() and len(short) <= MAX_NAME and short not in taken
    return short if fits else str(number)


def _call(app: App, given: Any, where: str) -> Stage:
    if isinstance(given, Stage):
        call = given
    elif isinstance(given, tuple) and given:
        call = Stage(given[0], *given[1:])
    else:
        call = Stage(given)
    if not isinstance(call.task, Task):
        raise TypeError(f"{where} runs a task, (task, argument, ...) or a list of these, not {given!r:.80}")
    if call.task.app is not app:
        raise ConfigError(f"{where}: {call.task!r} belongs to another app than the job")
    return call


def _node(stage: Named, number: int, index: int, names: tuple[str, ...], keywords: Mapping[str, Any]) -> Node:
    """A call of a stage as plain data."""
    call, task = stage.calls[index], stage.calls[index].task
    where = f"stage {stage.name!r}" + (f", call {index}" if stage.is_batch else "")
    args = [
        _checked(each, f"{where}, argument {place}", number, names, keywords) for place, each in enumerate(call.args)
    ]
    kwargs = {
        name: _checked(each, f"{where}, argument {name!r}", number, names, keywords)
        for name, each in call.kwargs.items()
    }
    found: list[tuple[Hole, tuple[str | int, ...]]] = []
    try:
        data = packed(task, args, kwargs, found, Hole)
        put = task.put_later(NOT_ITS_OWN, "each stage of a run has a key of its own, and is put when its turn has come")
    except (TypeError, ConfigError, PayloadError) as error:
        raise type(error)(f"{where}: {error}") from error
    if task.options.timeout is not None:  # whoever puts the stage may not know the task, but its deadline
        said = {"timeout": task.options.timeout, **(put["headers"].get(RUN_HEADER) or {})}
        put["headers"] = {**put["headers"], RUN_HEADER: said}
    plain = put["codec"] == "json"
    return Node(
        name=f"{stage.name}/{index}" if stage.is_batch else stage.name,
        task=task.name,
        call=msgspec.Raw(data if plain else NOTHING),
        data=None if plain else data,
        fills=tuple(Fill(hole.text, path) for hole, path in found),
        stage=number,
        batch=stage.is_batch,
        delay=task.options.put.get("delay"),
        **put,
    )


def _checked(value: Any, where: str, number: int, names: tuple[str, ...], keywords: Mapping[str, Any]) -> Any:
    """An argument with holes where templates are. Raises TemplateError for one that cannot be filled."""
    try:
        for found, inner in templates_in(value):
            for way in found.ways:
                _check_name(way.name, f"{where}{inner}: {{{way.text}}}", number, names, keywords)
    except TemplateError as error:
        raise error if str(error).startswith(where) else TemplateError(f"{where}: {error}") from error
    return _with_holes(value)


def _check_name(name: str, about: str, number: int, names: tuple[str, ...], keywords: Mapping[str, Any]) -> None:
    if name in keywords:
        return
    stage = names.index(name) if name in names else int(name) if name.isdecimal() and len(name) < 4 else None
    if stage is not None and stage < number:
        return
    if stage is not None and stage < len(names):
        raise TemplateError(f"{about} names a stage that has not run by then; only earlier ones have a result")
    there = ", ".join([*keywords, *names[:number]]) or "none"
    raise TemplateError(f"{about} names no keyword and no earlier stage; there are: {there}")


def _with_holes(value: Any) -> Any:
    if isinstance(value, str):
        found = template(value)
        if found is None:
            return value
        return Hole(value) if found.ways else found.filled(str)
    if isinstance(value, dict):
        return {key: _with_holes(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_with_holes(each) for each in value)
    return value
